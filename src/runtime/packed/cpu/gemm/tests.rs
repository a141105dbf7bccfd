use proptest::prelude::*;
use pulp::{Arch, Scalar, WithSimd};

use super::instructions::{Bf16Path, Int8Path};

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

/// Matrices of some seed.
struct Case<E: Element> {
    rows: usize,
    depth: usize,
    distance: usize,
    target_distance: usize,
    as_rows: Vec<E::Lhs>,
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
        let mut panel = vec![E::default(); depth * COLUMNS];
        for place in 0..depth {
            for row in 0..rows {
                as_rows[row * distance + place] = left_at(row, place);
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
        Self { rows, depth, distance, target_distance, as_rows, panel, exact }
    }

    /// Between rows nothing may be written.
    fn check(&self, epilogue: Epilogue<'_>, expected: impl Fn(usize, usize, f64, f64) -> f64, scalar: bool) {
        let before: Vec<f32> = (0..self.rows * self.target_distance).map(|n| value(13, n)).collect();
        let mut target = before.clone();
        let product = TileProduct {
            depth: self.depth,
            left: Lhs { values: &self.as_rows, distance: self.distance },
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
        for path in bf16_paths() {
            let mut made = before_of(rows);
            let product = TileProduct::<bf16> {
                depth: case.depth,
                left: Lhs { values: &case.as_rows, distance: case.distance },
                right: &case.panel,
                target: OutputTile::new(&mut made, rows, COLUMNS, COLUMNS),
                epilogue,
            };
            // SAFETY: the processor was asked for the path's instructions.
            unsafe { product.multiply_on(path) };
            for (place, (made, before)) in made.iter().zip(before_of(rows)).enumerate() {
                let expected = expected(place / COLUMNS, place % COLUMNS, f64::from(before), case.exact[place]);
                prop_assert!((f64::from(*made) - expected).abs() < 1e-4, "{path:?}");
            }
        }
    }

    #[test]
    fn every_way_of_multiplying_integers_is_the_definition(
        rows in 0usize..40, units in 0usize..70, gap in 0usize..5, group in 1usize..40, seed in 0u32..1000,
    ) {
        let left: Conversions<u8> = (|value| (value * 127. + 128.) as u8, |stored| f64::from(stored) - 128.);
        let right: Conversions<i8> = (|value| (value * 127.) as i8, f64::from);
        let case = Case::<i8>::new((rows, units, gap), seed, left, right);
        let groups = units.div_ceil(group).max(1);
        // Scales that keep the numbers near 1.
        let row_scales: Vec<f32> = (0..rows * groups).map(|n| value(seed, n + 19) / 127.).collect();
        let columns: Vec<f32> = (0..groups * COLUMNS).map(|n| value(seed, n + 23) / 127.).collect();
        let integer = |column: usize, place: usize| {
            case.panel[(place / 4 * COLUMNS + column) * 4 + place % 4]
        };
        let of_group = |group_number: usize| {
            4 * group_number * group..case.depth.min(4 * (group_number + 1) * group)
        };
        let offsets: Vec<i32> = (0..groups * COLUMNS)
            .map(|n| of_group(n / COLUMNS).map(|place| -128 * i32::from(integer(n % COLUMNS, place))).sum())
            .collect();
        let expected = |row: usize, column: usize, _: f64, _: f64| {
            let sum_of = |group: usize| {
                let products = of_group(group).map(|place| {
                    let left = i32::from(case.as_rows[row * case.distance + place]) - 128;
                    f64::from(left * i32::from(integer(column, place)))
                });
                let scale = f64::from(row_scales[row * groups + group]) * f64::from(columns[group * COLUMNS + column]);
                products.sum::<f64>() * scale
            };
            (0..groups).map(sum_of).sum::<f64>()
        };
        let scales = Scales { group, groups, rows: &row_scales, columns: &columns, offsets: &offsets };
        case.check(Epilogue::Scaled(scales), expected, false);
        for path in int8_paths() {
            let mut made = vec![0f32; rows * COLUMNS];
            let product = TileProduct::<i8> {
                depth: case.depth,
                left: Lhs { values: &case.as_rows, distance: case.distance },
                right: &case.panel,
                target: OutputTile::new(&mut made, rows, COLUMNS, COLUMNS),
                epilogue: Epilogue::Scaled(scales),
            };
            // SAFETY: the processor was asked for the path's instructions.
            unsafe { product.multiply_on(path) };
            for (place, made) in made.iter().enumerate() {
                let expected = expected(place / COLUMNS, place % COLUMNS, 0., 0.);
                prop_assert!((f64::from(*made) - expected).abs() < 1e-4, "{path:?}: {made} {expected}");
            }
        }
    }
}

/// Numbers that an output holds before it is rescaled.
fn before_of(rows: usize) -> Vec<f32> {
    (0..rows * COLUMNS).map(|n| value(13, n)).collect()
}

/// The paths that this processor can take.
fn bf16_paths() -> Vec<Bf16Path> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected;
        let has = [
            (Bf16Path::Avx512, is_x86_feature_detected!("avx512bf16")),
            (Bf16Path::Avx2, is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")),
            (Bf16Path::Portable, true),
        ];
        has.into_iter().filter(|(_, has)| *has).map(|(path, _)| path).collect()
    }
    #[cfg(target_arch = "aarch64")]
    {
        let dot = std::arch::is_aarch64_feature_detected!("bf16").then_some(Bf16Path::NeonDot);
        dot.into_iter().chain([Bf16Path::Neon, Bf16Path::Portable]).collect()
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    vec![Bf16Path::Portable]
}

/// The paths that this processor can take.
fn int8_paths() -> Vec<Int8Path> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected;
        let has_fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let has = [
            (Int8Path::Avx512, is_x86_feature_detected!("avx512vnni")),
            (Int8Path::AvxVnni, has_fma && is_x86_feature_detected!("avxvnni")),
            (Int8Path::Avx2, has_fma),
            (Int8Path::Portable, true),
        ];
        has.into_iter().filter(|(_, has)| *has).map(|(path, _)| path).collect()
    }
    #[cfg(target_arch = "aarch64")]
    {
        let dot = std::arch::is_aarch64_feature_detected!("dotprod").then_some(Int8Path::NeonDot);
        dot.into_iter().chain([Int8Path::Neon, Int8Path::Portable]).collect()
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    vec![Int8Path::Portable]
}

#[test]
fn the_parts_of_a_target_cover_it_once() {
    let mut values = vec![0f32; 10 * 100];
    for ((row, column), part) in OutputTile::new(&mut values, 10, 96, 100).parts(4, 32) {
        assert_eq!(part.rows(), if row == 8 { 2 } else { 4 });
        let rescale = [1.; 4];
        let one = TileProduct::<f32> {
            depth: 1,
            left: Lhs { values: &[1.; 4], distance: 1 },
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
