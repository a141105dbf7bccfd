//! The inner loop of attention: a product of small tiles whose sums stay in registers.

#![expect(clippy::inline_always, reason = "what `dispatch` compiles per instruction set must be inlined into it")]

use pulp::Simd;

/// Columns of the right side and of the target.
pub(super) const COLUMNS: usize = 32;
/// Rows of the left side and of the target come in multiples of this.
pub(super) const ROWS: usize = 12;

/// The left side of a product.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// Rows, so many numbers apart.
    Rows { values: &'a [f32], distance: usize },
    /// Blocks of [`ROWS`] rows, in which a column of the block lies side by side: `[blocks, depth, 12]`.
    Blocks { values: &'a [f32] },
}

/// `target [rows, 32] = kept * target + left [rows, depth] * right [depth, 32]`.
pub(super) struct TileProduct<'a> {
    pub rows: usize,
    pub depth: usize,
    pub left: Left<'a>,
    /// `[depth, 32]`.
    pub right: &'a [f32],
    /// Rows, so many numbers apart.
    pub target: &'a mut [f32],
    pub target_distance: usize,
    /// What is kept of each row of the target; without it, the target is only written.
    pub kept: Option<&'a [f32]>,
}

impl TileProduct<'_> {
    /// # Panics
    /// When a matrix is shorter than its rows say, or there is no multiple of [`ROWS`] of them.
    #[inline(always)]
    pub fn run<S: Simd>(mut self, simd: S) {
        if self.rows == 0 {
            return;
        }
        assert!(self.rows.is_multiple_of(ROWS) && self.kept.is_none_or(|kept| kept.len() >= self.rows));
        assert!(match self.left {
            Left::Rows { values, distance } => (self.rows - 1) * distance + self.depth <= values.len(),
            Left::Blocks { values } => self.rows * self.depth <= values.len(),
        });
        assert!(self.depth * COLUMNS <= self.right.len());
        assert!((self.rows - 1) * self.target_distance + COLUMNS <= self.target.len());
        // SAFETY: the assertions keep every row of the three matrices, and of `kept`, inside its slice; each of the
        // heights divides ROWS, and lanes times vectors is COLUMNS.
        unsafe {
            // As many sums as there are vector registers, less those for a row of the right side and a value of the left.
            match S::F32_LANES {
                16 => self.by_rows::<S, 12, 2>(simd),
                8 => self.by_rows::<S, 3, 4>(simd),
                4 => self.by_rows::<S, 3, 8>(simd),
                _ => self.by_columns(),
            }
        }
    }

    /// `HEIGHT` rows at a time, in `HEIGHT` times `VECTORS` registers.
    ///
    /// # Safety
    /// `rows` is a multiple of `HEIGHT`, `VECTORS` vectors are [`COLUMNS`] wide, and all rows lie inside their slices.
    #[inline(always)]
    unsafe fn by_rows<S: Simd, const HEIGHT: usize, const VECTORS: usize>(&mut self, simd: S) {
        for first in (0..self.rows).step_by(HEIGHT) {
            // SAFETY: the caller's, row by row. Vectors are read and written without alignment.
            unsafe {
                let target = self.target.as_mut_ptr().add(first * self.target_distance);
                let mut sums = [[simd.splat_f32s(0.); VECTORS]; HEIGHT];
                if let Some(kept) = self.kept {
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let kept = simd.splat_f32s(*kept.get_unchecked(first + row));
                        let from = target.add(row * self.target_distance).cast::<S::f32s>();
                        for (vector, sum) in sums.iter_mut().enumerate() {
                            *sum = simd.mul_f32s(from.add(vector).read_unaligned(), kept);
                        }
                    }
                }
                // One loop for each, so that the distances are known where they can be.
                match self.left {
                    Left::Rows { values, distance } => {
                        let left = values.as_ptr().add(first * distance);
                        self.sum(simd, &mut sums, |row, place| *left.add(row * distance + place));
                    }
                    Left::Blocks { values } => {
                        let left = values.as_ptr().add(first / ROWS * ROWS * self.depth + first % ROWS);
                        self.sum(simd, &mut sums, |row, place| *left.add(place * ROWS + row));
                    }
                }
                for (row, sums) in sums.iter().enumerate() {
                    let to = target.add(row * self.target_distance).cast::<S::f32s>();
                    for (vector, sum) in sums.iter().enumerate() {
                        to.add(vector).write_unaligned(*sum);
                    }
                }
            }
        }
    }

    /// Adds the product to `sums`; `left` gives a value of the left side by row and place.
    ///
    /// # Safety
    /// As for [`Self::by_rows`].
    #[inline(always)]
    unsafe fn sum<S: Simd, const HEIGHT: usize, const VECTORS: usize>(
        &self,
        simd: S,
        sums: &mut [[S::f32s; VECTORS]; HEIGHT],
        left: impl Fn(usize, usize) -> f32,
    ) {
        for place in 0..self.depth {
            let mut vectors = [simd.splat_f32s(0.); VECTORS];
            for (vector, loaded) in vectors.iter_mut().enumerate() {
                // SAFETY: the caller's: row `place` of the right side lies inside its slice.
                *loaded =
                    unsafe { self.right.as_ptr().add(place * COLUMNS).cast::<S::f32s>().add(vector).read_unaligned() };
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = simd.splat_f32s(left(row, place));
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    *sum = simd.mul_add_e_f32s(value, vector, *sum);
                }
            }
        }
    }

    /// For processors without vectors.
    fn by_columns(&mut self) {
        for row in 0..self.rows {
            let target = &mut self.target[row * self.target_distance..][..COLUMNS];
            let kept = self.kept.map_or(0., |kept| kept[row]);
            for value in target.iter_mut() {
                *value = if kept == 0. { 0. } else { *value * kept };
            }
            for (place, right) in self.right.chunks_exact(COLUMNS).take(self.depth).enumerate() {
                let left = match self.left {
                    Left::Rows { values, distance } => values[row * distance + place],
                    Left::Blocks { values } => values[(row / ROWS * self.depth + place) * ROWS + row % ROWS],
                };
                for (value, right) in target.iter_mut().zip(right) {
                    *value += left * right;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use pulp::{Arch, Scalar, WithSimd};

    use super::*;

    impl WithSimd for TileProduct<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            self.run(simd);
        }
    }

    proptest! {
        #[test]
        fn every_way_is_the_definition(
            blocks in 1usize..4, depth in 0usize..70, gap in 0usize..5, keeps: bool, seed in 0u32..1000,
        ) {
            let rows = blocks * ROWS;
            let value = |n: usize| ((n as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 16) as f32 / 32768. - 1.;
            let numbers = |count: usize, from: usize| (0..count).map(|n| value(n + from)).collect::<Vec<f32>>();
            let (distance, target_distance) = (depth + gap, COLUMNS + gap);
            let (rows_of_left, right) = (numbers(rows * distance, 1), numbers(depth * COLUMNS, 7));
            let (before, kept) = (numbers(rows * target_distance, 13), numbers(rows, 19));
            let mut blocks_of_left = vec![0.; rows * depth];
            for (row, values) in rows_of_left.chunks(distance.max(1)).enumerate() {
                for (place, value) in values[..depth].iter().enumerate() {
                    blocks_of_left[(row / ROWS * depth + place) * ROWS + row % ROWS] = *value;
                }
            }
            let lefts = [Left::Rows { values: &rows_of_left, distance }, Left::Blocks { values: &blocks_of_left }];
            for (left, scalar) in lefts.into_iter().flat_map(|left| [(left, true), (left, false)]) {
                let mut target = before.clone();
                let product = TileProduct {
                    rows, depth, left, right: &right,
                    target: &mut target, target_distance, kept: keeps.then_some(kept.as_slice()),
                };
                if scalar { product.run(Scalar) } else { Arch::new().dispatch(product) }
                for row in 0..rows {
                    for column in 0..target_distance {
                        let place = row * target_distance + column;
                        let mut expected = f64::from(before[place]);
                        if column < COLUMNS {
                            expected *= if keeps { f64::from(kept[row]) } else { 0. };
                            expected += (0..depth).map(|k| {
                                f64::from(rows_of_left[row * distance + k]) * f64::from(right[k * COLUMNS + column])
                            }).sum::<f64>();
                        }
                        prop_assert!((f64::from(target[place]) - expected).abs() < 1e-4, "{row} {column}");
                    }
                }
            }
        }
    }
}
