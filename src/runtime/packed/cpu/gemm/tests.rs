use proptest::prelude::*;
use pulp::{Arch, Scalar, WithSimd};

use super::*;

impl<E: Element> WithSimd for TileProduct<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        E::multiply(self, simd);
    }
}

/// A number between -1 and 1.
fn value(seed: u32, n: usize) -> f32 {
    ((n as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 16) as f32 / 32768. - 1.
}

/// From f32, and to f64.
type Conversions<T> = (fn(f32) -> T, fn(T) -> f64);

/// Matrices of some seed, in all their layouts.
struct Case<E: Element> {
    rows: usize,
    depth: usize,
    distance: usize,
    target_distance: usize,
    as_rows: Vec<E::Lhs>,
    as_blocks: Vec<E::Lhs>,
    panel: Vec<E>,
    /// `[rows, 32]`.
    exact: Vec<f64>,
}

impl<E: Element> Case<E> {
    fn new(
        (rows, units, gap): (usize, usize, usize),
        seed: u32,
        (left, left_exact): Conversions<E::Lhs>,
        (right, right_exact): Conversions<E>,
    ) -> Self {
        let (depth, gap) = (units * E::UNIT, gap * E::UNIT);
        let (distance, target_distance) = (depth + gap, COLUMNS + gap);
        let left_at = |row: usize, place: usize| left(value(seed, row * 131 + place));
        let right_at = |place: usize, column: usize| right(value(seed, place * 137 + column + 7));
        let mut as_rows = vec![E::Lhs::default(); rows * distance];
        let mut as_blocks = vec![E::Lhs::default(); rows.next_multiple_of(ROWS) * depth];
        let mut panel = vec![E::default(); depth * COLUMNS];
        for place in 0..depth {
            for row in 0..rows {
                as_rows[row * distance + place] = left_at(row, place);
                let in_blocks = start_in_blocks::<E>(row, depth) + place / E::UNIT * ROWS * E::UNIT;
                as_blocks[in_blocks + place % E::UNIT] = left_at(row, place);
            }
            for column in 0..COLUMNS {
                panel[(place / E::UNIT * COLUMNS + column) * E::UNIT + place % E::UNIT] = right_at(place, column);
            }
        }
        let exact = (0..rows * COLUMNS).map(|n| {
            let (row, column) = (n / COLUMNS, n % COLUMNS);
            let term = |place| left_exact(left_at(row, place)) * right_exact(right_at(place, column));
            (0..depth).map(term).sum()
        });
        let exact = exact.collect();
        Self { rows, depth, distance, target_distance, as_rows, as_blocks, panel, exact }
    }

    /// Runs it both ways of holding the left side. Between rows nothing may be written.
    fn check(&self, epilogue: Epilogue<'_>, expected: impl Fn(usize, usize, f64, f64) -> f64, scalar: bool) {
        let before: Vec<f32> = (0..self.rows * self.target_distance).map(|n| value(13, n)).collect();
        let blocks = Lhs::Blocks { values: &self.as_blocks };
        for left in [Lhs::Rows { values: &self.as_rows, distance: self.distance }, blocks] {
            let mut target = before.clone();
            let product = TileProduct {
                depth: self.depth,
                left,
                right: &self.panel,
                target: OutputTile::new(&mut target, self.rows, COLUMNS, self.target_distance),
                epilogue,
            };
            if scalar {
                E::multiply(product, Scalar::new());
            } else {
                Arch::new().dispatch(product);
            }
            for (place, (made, before)) in target.iter().zip(&before).enumerate() {
                let (row, column) = (place / self.target_distance, place % self.target_distance);
                let before = f64::from(*before);
                let expected = if column < COLUMNS {
                    expected(row, column, before, self.exact[row * COLUMNS + column])
                } else {
                    before
                };
                assert!((f64::from(*made) - expected).abs() < 1e-4, "{row} {column}: {made} {expected}");
            }
        }
    }
}

proptest! {
    #[test]
    fn every_way_of_multiplying_numbers_is_the_definition(
        rows in 0usize..40, units in 0usize..70, gap in 0usize..5, rescales: bool, seed in 0u32..1000,
    ) {
        let rescale: Vec<f32> = (0..rows).map(|n| value(seed, n + 19)).collect();
        let expected = |row: usize, _: usize, before: f64, exact: f64| {
            exact + if rescales { before * f64::from(rescale[row]) } else { 0. }
        };
        let epilogue = if rescales { Epilogue::Rescale(&rescale) } else { Epilogue::None };
        let whole: Conversions<f32> = (|value| value, f64::from);
        let case = Case::<f32>::new((rows, units, gap), seed, whole, whole);
        case.check(epilogue, expected, true);
        case.check(epilogue, expected, false);
        let half: Conversions<bf16> = (bf16::from_f32, bf16::to_f64);
        let case = Case::<bf16>::new((rows, units, gap), seed, half, half);
        case.check(epilogue, expected, false);
        let mut made = vec![0f32; rows * COLUMNS];
        let product = TileProduct::<bf16> {
            depth: case.depth,
            left: Lhs::Rows { values: &case.as_rows, distance: case.distance },
            right: &case.panel,
            target: OutputTile::new(&mut made, rows, COLUMNS, COLUMNS),
            epilogue: Epilogue::None,
        };
        // SAFETY: the case is whole; 4 * 8 is COLUMNS.
        unsafe { product.run::<_, 1, 4>(portable::Bf16Kernel { rescale: None }) };
        for (made, exact) in made.iter().zip(&case.exact) {
            prop_assert!((f64::from(*made) - exact).abs() < 1e-4);
        }
    }

    #[test]
    fn every_way_of_multiplying_integers_is_the_definition(
        rows in 0usize..40, units in 0usize..70, gap in 0usize..5, seed in 0u32..1000,
    ) {
        let left: Conversions<u8> = (|value| (value * 127. + 128.) as u8, |stored| f64::from(stored) - 128.);
        let right: Conversions<i8> = (|value| (value * 127.) as i8, f64::from);
        let case = Case::<i8>::new((rows, units, gap), seed, left, right);
        // Scales that keep the numbers near 1.
        let row_scales: Vec<f32> = (0..rows).map(|n| value(seed, n + 19) / 127.).collect();
        let columns: [f32; COLUMNS] = std::array::from_fn(|n| value(seed, n + 23) / 127.);
        let offsets: [i32; COLUMNS] = std::array::from_fn(|column| {
            let of_column = case.panel.chunks(4).skip(column).step_by(COLUMNS).flatten();
            of_column.map(|element| 128 * i32::from(*element)).sum()
        });
        let expected = |row: usize, column: usize, _: f64, exact: f64| {
            exact * f64::from(row_scales[row]) * f64::from(columns[column])
        };
        let scales = Scales { rows: &row_scales, columns: &columns, offsets: &offsets };
        case.check(Epilogue::Scaled(scales), expected, false);
        let mut made = vec![0f32; rows * COLUMNS];
        let product = TileProduct::<i8> {
            depth: case.depth,
            left: Lhs::Rows { values: &case.as_rows, distance: case.distance },
            right: &case.panel,
            target: OutputTile::new(&mut made, rows, COLUMNS, COLUMNS),
            epilogue: Epilogue::Scaled(scales),
        };
        // SAFETY: the case is whole; 4 * 8 is COLUMNS.
        unsafe { product.run::<_, 1, 4>(portable::Int8Kernel { scales }) };
        for (place, (made, exact)) in made.iter().zip(&case.exact).enumerate() {
            let expected = expected(place / COLUMNS, place % COLUMNS, 0., *exact);
            prop_assert!((f64::from(*made) - expected).abs() < 1e-4);
        }
    }
}

#[test]
fn the_parts_of_a_target_cover_it_once() {
    let mut values = vec![0f32; 10 * 100];
    for ((row, column), part) in OutputTile::new(&mut values, 10, 96, 100).parts(4, 32) {
        assert_eq!(part.rows(), if row == 8 { 2 } else { 4 });
        let rescale = [1.; 4];
        let one = TileProduct::<f32> {
            depth: 1,
            left: Lhs::Rows { values: &[1.; 4], distance: 1 },
            right: &[(column / 32 + 1) as f32; COLUMNS],
            target: part,
            epilogue: Epilogue::Rescale(&rescale),
        };
        Arch::new().dispatch(one);
    }
    for (place, value) in values.iter().enumerate() {
        let expected = if place % 100 < 96 { place % 100 / 32 + 1 } else { 0 };
        assert_eq!(*value as usize, expected, "{place}");
    }
}
