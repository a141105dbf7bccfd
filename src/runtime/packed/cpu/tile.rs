//! The inner loop of attention: a product of small tiles whose sums stay in registers.
//!
//! It comes in two makes: f32 on every processor, and bf16 with sums in f32 where the processor has `vdpbf16ps`, which
//! multiplies two neighbours along the depth at once. What is multiplied at once is called a unit here.

#![expect(clippy::inline_always, reason = "what `dispatch` compiles per instruction set must be inlined into it")]

use half::bf16;
use pulp::Simd;

use super::rows;

/// Columns of the right side and of the target.
pub(super) const COLUMNS: usize = 32;
/// Rows of the left side and of the target come in multiples of this.
pub(super) const ROWS: usize = 12;

/// What is multiplied.
pub(super) trait Element: Copy + Default + Send + Sync + 'static {
    /// Elements of a unit.
    const UNIT: usize;

    /// Puts the units of a row, scaled, so many units apart.
    fn scatter(row: &[f32], scale: f32, target: &mut [Self], distance: usize);

    /// Neighbours along the depth as units side by side; where there is no second one, or no room for it, the first alone.
    fn interleave(first: &[f32], second: Option<&[f32]>, target: &mut [Self]);

    /// `row` as elements, in `target` if they are not what `row` holds.
    fn narrow_all<'a>(row: &'a [f32], target: &'a mut [Self]) -> &'a [Self];

    /// Runs a product; for bf16 on a processor that multiplies it.
    fn multiply<S: Simd>(product: TileProduct<'_, Self>, simd: S);

    /// Where a row starts in `[rows / 12, depth, 12]`; its units follow 12 units apart.
    fn start_in_blocks(row: usize, depth: usize) -> usize {
        row / ROWS * ROWS * depth + row % ROWS * Self::UNIT
    }
}

/// The left side of a product.
#[derive(Clone, Copy)]
pub(super) enum Left<'a, E> {
    /// Rows, so many elements apart.
    Rows { values: &'a [E], distance: usize },
    /// `[rows / 12, depth, 12]`: units of the same place in 12 rows lie side by side.
    Blocks { values: &'a [E] },
}

/// `target [rows, 32] = kept * target + left [rows, depth] * right [depth, 32]`.
pub(super) struct TileProduct<'a, E> {
    pub rows: usize,
    /// In elements; whole units.
    pub depth: usize,
    pub left: Left<'a, E>,
    /// `[depth, 32]`: units of the same place in 32 columns lie side by side.
    pub right: &'a [E],
    /// Rows, so many numbers apart.
    pub target: &'a mut [f32],
    pub target_distance: usize,
    /// What is kept of each row of the target; without it, the target is only written.
    pub kept: Option<&'a [f32]>,
}

impl Element for f32 {
    const UNIT: usize = 1;

    #[inline(always)]
    fn scatter(row: &[f32], scale: f32, target: &mut [Self], distance: usize) {
        for (target, value) in target.iter_mut().step_by(distance).zip(row) {
            *target = value * scale;
        }
    }

    #[inline(always)]
    fn interleave(first: &[f32], _: Option<&[f32]>, target: &mut [Self]) {
        target.copy_from_slice(first);
    }

    #[inline(always)]
    fn narrow_all<'a>(row: &'a [f32], _: &'a mut [Self]) -> &'a [Self] {
        row
    }

    #[inline(always)]
    fn multiply<S: Simd>(mut product: TileProduct<'_, Self>, simd: S) {
        product.check();
        // SAFETY: just checked; 12 and 3 divide ROWS, and lanes times vectors is COLUMNS.
        unsafe {
            // As many sums as there are vector registers, less those for a row of the right side and a unit of the left.
            match S::F32_LANES {
                16 => product.run::<_, 12, 2>(Singles(simd)),
                8 => product.run::<_, 3, 4>(Singles(simd)),
                4 => product.run::<_, 3, 8>(Singles(simd)),
                _ => product.run::<_, 1, COLUMNS>(Singles(pulp::Scalar)),
            }
        }
    }
}

impl Element for bf16 {
    const UNIT: usize = 2;

    #[inline(always)]
    fn scatter(row: &[f32], scale: f32, target: &mut [Self], distance: usize) {
        // Narrowed in vectors, then moved a unit at a time.
        let (mut scaled, mut narrowed) = ([0.; COLUMNS], [Self::ZERO; COLUMNS]);
        let targets = target.chunks_mut(COLUMNS * distance);
        for (source, target) in row.chunks(COLUMNS).zip(targets) {
            for (scaled, value) in scaled.iter_mut().zip(source) {
                *scaled = value * scale;
            }
            rows::narrow(&scaled, &mut narrowed);
            let units = narrowed[..source.len()].chunks_exact(Self::UNIT);
            for (target, unit) in target.chunks_mut(Self::UNIT * distance).zip(units) {
                target[..Self::UNIT].copy_from_slice(unit);
            }
        }
    }

    #[inline(always)]
    fn interleave(first: &[f32], second: Option<&[f32]>, target: &mut [Self]) {
        let (mut narrow_first, mut narrow_second) = ([Self::ZERO; COLUMNS], [Self::ZERO; COLUMNS]);
        rows::narrow(first, &mut narrow_first);
        if let Some(second) = second {
            rows::narrow(second, &mut narrow_second);
        }
        for ((unit, first), second) in target.chunks_exact_mut(Self::UNIT).zip(narrow_first).zip(narrow_second) {
            unit.copy_from_slice(&[first, second]);
        }
    }

    #[inline(always)]
    fn narrow_all<'a>(row: &'a [f32], target: &'a mut [Self]) -> &'a [Self] {
        let target = &mut target[..row.len()];
        rows::narrow(row, target);
        target
    }

    #[inline(always)]
    fn multiply<S: Simd>(product: TileProduct<'_, Self>, _: S) {
        pairs::multiply(product);
    }
}

impl<E: Element> TileProduct<'_, E> {
    /// # Panics
    /// When a matrix is shorter than its rows say, there is no multiple of [`ROWS`] of them, or the last unit is not whole.
    #[inline(always)]
    fn check(&self) {
        assert!(self.rows.is_multiple_of(ROWS) && self.depth.is_multiple_of(E::UNIT));
        assert!(self.kept.is_none_or(|kept| kept.len() >= self.rows));
        assert!(match self.left {
            Left::Rows { values, distance } => {
                distance.is_multiple_of(E::UNIT)
                    && (self.rows == 0 || (self.rows - 1) * distance + self.depth <= values.len())
            }
            Left::Blocks { values } => self.rows * self.depth <= values.len(),
        });
        assert!(self.depth * COLUMNS <= self.right.len());
        assert!(self.rows == 0 || (self.rows - 1) * self.target_distance + COLUMNS <= self.target.len());
    }

    /// `HEIGHT` rows at a time, with their sums in `HEIGHT` times `VECTORS` registers.
    ///
    /// # Safety
    /// [`Self::check`] has passed, `HEIGHT` divides [`ROWS`], and `VECTORS` vectors are [`COLUMNS`] wide.
    #[inline(always)]
    unsafe fn run<R: Registers, const HEIGHT: usize, const VECTORS: usize>(&mut self, registers: R) {
        for first in (0..self.rows).step_by(HEIGHT) {
            // SAFETY: what the check has found: every row lies inside its slice.
            unsafe {
                let target = self.target.as_mut_ptr().add(first * self.target_distance);
                let mut sums = [[registers.zero(); VECTORS]; HEIGHT];
                if let Some(kept) = self.kept {
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let kept = *kept.get_unchecked(first + row);
                        for (vector, sum) in sums.iter_mut().enumerate() {
                            let from = target.add(row * self.target_distance + vector * COLUMNS / VECTORS);
                            *sum = registers.scaled(from, kept);
                        }
                    }
                }
                // One loop for each, so that distances are known where they can be.
                match self.left {
                    Left::Rows { values, distance } => {
                        let left = values.as_ptr().add(first * distance).cast::<R::Unit>();
                        let distance = distance / E::UNIT;
                        self.sum(registers, &mut sums, |row, unit| left.add(row * distance + unit).read_unaligned());
                    }
                    Left::Blocks { values } => {
                        let block = values.as_ptr().add(first / ROWS * ROWS * self.depth).cast::<R::Unit>();
                        let left = block.add(first % ROWS);
                        self.sum(registers, &mut sums, |row, unit| left.add(unit * ROWS + row).read_unaligned());
                    }
                }
                for (row, sums) in sums.iter().enumerate() {
                    for (vector, sum) in sums.iter().enumerate() {
                        let to = target.add(row * self.target_distance + vector * COLUMNS / VECTORS);
                        registers.write(*sum, to);
                    }
                }
            }
        }
    }

    /// Adds the product to `sums`; `left` gives a unit of the left side by row and place.
    ///
    /// # Safety
    /// As for [`Self::run`].
    #[inline(always)]
    unsafe fn sum<R: Registers, const HEIGHT: usize, const VECTORS: usize>(
        &self,
        registers: R,
        sums: &mut [[R::Sum; VECTORS]; HEIGHT],
        left: impl Fn(usize, usize) -> R::Unit,
    ) {
        let right = self.right.as_ptr().cast::<R::Unit>();
        for unit in 0..self.depth / E::UNIT {
            // SAFETY: the check has found `depth` rows of COLUMNS elements on the right side.
            let vectors: [R::Right; VECTORS] = std::array::from_fn(|vector| unsafe {
                registers.read(right.add(unit * COLUMNS + vector * COLUMNS / VECTORS))
            });
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = left(row, unit);
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    *sum = registers.add_product(*sum, value, vector);
                }
            }
        }
    }
}

/// How a processor multiplies units. Pointers need no alignment.
trait Registers: Copy {
    type Unit: Copy;
    /// Several sums.
    type Sum: Copy;
    /// As many units of the right side.
    type Right: Copy;

    fn zero(self) -> Self::Sum;
    unsafe fn scaled(self, from: *const f32, factor: f32) -> Self::Sum;
    unsafe fn write(self, sum: Self::Sum, to: *mut f32);
    unsafe fn read(self, from: *const Self::Unit) -> Self::Right;
    fn add_product(self, sum: Self::Sum, left: Self::Unit, right: Self::Right) -> Self::Sum;
}

/// Numbers in f32, one at a time.
#[derive(Clone, Copy)]
struct Singles<S>(S);

impl<S: Simd> Registers for Singles<S> {
    type Unit = f32;
    type Sum = S::f32s;
    type Right = S::f32s;

    #[inline(always)]
    fn zero(self) -> S::f32s {
        self.0.splat_f32s(0.)
    }

    #[inline(always)]
    unsafe fn scaled(self, from: *const f32, factor: f32) -> S::f32s {
        // SAFETY: the caller's.
        let sum = unsafe { from.cast::<S::f32s>().read_unaligned() };
        self.0.mul_f32s(sum, self.0.splat_f32s(factor))
    }

    #[inline(always)]
    unsafe fn write(self, sum: S::f32s, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { to.cast::<S::f32s>().write_unaligned(sum) }
    }

    #[inline(always)]
    unsafe fn read(self, from: *const f32) -> S::f32s {
        // SAFETY: the caller's.
        unsafe { from.cast::<S::f32s>().read_unaligned() }
    }

    #[inline(always)]
    fn add_product(self, sum: S::f32s, left: f32, right: S::f32s) -> S::f32s {
        self.0.mul_add_e_f32s(self.0.splat_f32s(left), right, sum)
    }
}

/// Whether this processor has instructions for products of bf16.
pub(in crate::runtime::packed) fn multiplies_bf16() -> bool {
    pairs::are_fast()
}

#[cfg(target_arch = "x86_64")]
mod pairs {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps,
        _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use half::bf16;

    use super::{Registers, TileProduct};

    pub(super) fn are_fast() -> bool {
        std::arch::is_x86_feature_detected!("avx512bf16") && std::arch::is_x86_feature_detected!("avx512f")
    }

    /// # Panics
    /// On a processor that does not multiply bf16, and as [`TileProduct::check`].
    pub(super) fn multiply(mut product: TileProduct<'_, bf16>) {
        assert!(are_fast());
        product.check();
        // SAFETY: the processor was just asked; the product was just checked, 12 divides ROWS and 2 * 16 is COLUMNS.
        unsafe { run(&mut product) }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn run(product: &mut TileProduct<'_, bf16>) {
        // SAFETY: the caller's.
        unsafe { product.run::<_, 12, 2>(Pairs) }
    }

    /// Two numbers in bf16 at a time. Only to be used where AVX512-BF16 is.
    #[derive(Clone, Copy)]
    struct Pairs;

    impl Registers for Pairs {
        type Unit = i32;
        type Sum = __m512;
        type Right = __m512bh;

        #[inline(always)]
        fn zero(self) -> __m512 {
            // SAFETY: the processor has it, or nobody holds a `Pairs`.
            unsafe { _mm512_setzero_ps() }
        }

        #[inline(always)]
        unsafe fn scaled(self, from: *const f32, factor: f32) -> __m512 {
            // SAFETY: the caller's, and as above.
            unsafe { _mm512_mul_ps(_mm512_loadu_ps(from), _mm512_set1_ps(factor)) }
        }

        #[inline(always)]
        unsafe fn write(self, sum: __m512, to: *mut f32) {
            // SAFETY: the caller's, and as above.
            unsafe { _mm512_storeu_ps(to, sum) }
        }

        #[inline(always)]
        unsafe fn read(self, from: *const i32) -> __m512bh {
            // SAFETY: the caller's, and as above; both types are 64 bytes of any value.
            unsafe { std::mem::transmute(_mm512_loadu_si512(from.cast())) }
        }

        #[inline(always)]
        fn add_product(self, sum: __m512, left: i32, right: __m512bh) -> __m512 {
            // SAFETY: as above.
            unsafe {
                let left = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(left));
                _mm512_dpbf16_ps(sum, left, right)
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod pairs {
    use half::bf16;

    use super::TileProduct;

    pub(super) fn are_fast() -> bool {
        false
    }

    pub(super) fn multiply(_: TileProduct<'_, bf16>) {
        unreachable!("bf16 is multiplied only where `are_fast` says so");
    }
}

#[cfg(test)]
mod tests {
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

    /// From and to f32.
    type Conversions<E> = (fn(f32) -> E, fn(E) -> f32);

    /// Both ways of holding the left side against the definition; `scalar` keeps away from vectors.
    fn check<E: Element>(
        blocks: usize,
        depth: usize,
        gap: usize,
        keeps: bool,
        seed: u32,
        scalar: bool,
        (narrow, widen): Conversions<E>,
    ) {
        let (rows, depth, gap) = (blocks * ROWS, depth * E::UNIT, gap * E::UNIT);
        let value = |n: usize| ((n as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 16) as f32 / 32768. - 1.;
        let (distance, target_distance) = (depth + gap, COLUMNS + gap);
        let left = |row: usize, place: usize| narrow(value(row * 131 + place));
        let right = |place: usize, column: usize| narrow(value(place * 137 + column + 7));
        let (mut as_rows, mut as_blocks) = (vec![E::default(); rows * distance], vec![E::default(); rows * depth]);
        let mut panel = vec![E::default(); depth * COLUMNS];
        for place in 0..depth {
            for row in 0..rows {
                as_rows[row * distance + place] = left(row, place);
                let in_blocks = E::start_in_blocks(row, depth) + place / E::UNIT * ROWS * E::UNIT + place % E::UNIT;
                as_blocks[in_blocks] = left(row, place);
            }
            for column in 0..COLUMNS {
                panel[(place / E::UNIT * COLUMNS + column) * E::UNIT + place % E::UNIT] = right(place, column);
            }
        }
        let before: Vec<f32> = (0..rows * target_distance).map(|n| value(n + 13)).collect();
        let kept: Vec<f32> = (0..rows).map(|n| value(n + 19)).collect();
        for left_side in [Left::Rows { values: &as_rows, distance }, Left::Blocks { values: &as_blocks }] {
            let mut target = before.clone();
            let product = TileProduct {
                rows,
                depth,
                left: left_side,
                right: &panel,
                target: &mut target,
                target_distance,
                kept: keeps.then_some(kept.as_slice()),
            };
            if scalar {
                E::multiply(product, Scalar::new());
            } else {
                Arch::new().dispatch(product);
            }
            for (row, kept) in kept.iter().enumerate() {
                for column in 0..target_distance {
                    let place = row * target_distance + column;
                    let mut expected = f64::from(before[place]);
                    if column < COLUMNS {
                        expected *= if keeps { f64::from(*kept) } else { 0. };
                        let product = |k| f64::from(widen(left(row, k))) * f64::from(widen(right(k, column)));
                        expected += (0..depth).map(product).sum::<f64>();
                    }
                    assert!((f64::from(target[place]) - expected).abs() < 1e-4, "{row} {column}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn every_way_is_the_definition(
            blocks in 0usize..4, depth in 0usize..70, gap in 0usize..5, keeps: bool, seed in 0u32..1000,
        ) {
            check::<f32>(blocks, depth, gap, keeps, seed, true, (|value| value, |value| value));
            check::<f32>(blocks, depth, gap, keeps, seed, false, (|value| value, |value| value));
            if multiplies_bf16() {
                check::<bf16>(blocks, depth, gap, keeps, seed, false, (bf16::from_f32, bf16::to_f32));
            }
        }
    }
}
