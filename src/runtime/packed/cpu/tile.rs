//! The inner loop of all products on a CPU: small tiles whose sums stay in registers.
//!
//! Right sides lie in panels of 32 columns, in the order in which the loop reads them. There are three makes: f32 on every processor; bf16
//! with sums in f32, by `vdpbf16ps` where the processor has it, which multiplies two neighbours along the depth at once; and 8-bit integers
//! with sums in 32 bits, by `vpdpbusd`, which takes four. What is multiplied at once is called a unit here. Without the instruction, the
//! same numbers come from plain loops, slowly.

#![expect(clippy::inline_always, reason = "what `dispatch` compiles per instruction set must be inlined into it")]

use std::marker::PhantomData;

use half::bf16;
use pulp::Simd;

/// Columns of the right side and of the target.
pub(super) const COLUMNS: usize = 32;
/// Rows of the left side that are multiplied at a time where registers allow it.
pub(super) const ROWS: usize = 12;

/// What is multiplied: an element of the right side.
pub(super) trait Element: Copy + Default + Send + Sync + 'static {
    /// An element of the left side.
    type Left: Copy + Default + Send + Sync + 'static;
    /// Elements of a unit.
    const UNIT: usize;

    /// Runs a product with the best instructions of this processor for it.
    fn multiply<S: Simd>(product: TileProduct<'_, Self>, simd: S);
}

/// What else goes into a target, for all rows of a tile and its 32 columns.
#[derive(Clone, Copy)]
pub(super) enum Terms<'a> {
    /// The product of numbers as it is.
    Nothing,
    /// How much is kept of each row of the target, which the product of numbers is added to.
    Kept(&'a [f32]),
    Scaled(Scales<'a>),
}

/// What makes numbers of sums of integers. The left side's integers are stored with 128 added.
#[derive(Clone, Copy)]
pub(super) struct Scales<'a> {
    pub rows: &'a [f32],
    pub columns: &'a [f32],
    /// 128 times the sum of each column of the right side.
    pub offsets: &'a [i32],
}

/// The left side of a product.
#[derive(Clone, Copy)]
pub(super) enum Left<'a, E> {
    /// Rows, so many elements apart.
    Rows { values: &'a [E], distance: usize },
    /// `[rows / 12, depth, 12]`: units of the same place in 12 rows lie side by side.
    Blocks { values: &'a [E] },
}

/// Where a row starts in [`Left::Blocks`]; its units follow 12 units apart.
pub(super) fn start_in_blocks<E: Element>(row: usize, depth: usize) -> usize {
    row / ROWS * ROWS * depth + row % ROWS * E::UNIT
}

/// A rectangle of a matrix, borrowed for writing: rows that are so many numbers apart.
pub(super) struct Target<'a> {
    first: *mut f32,
    rows: usize,
    columns: usize,
    distance: usize,
    of: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a `&mut [f32]` with gaps.
unsafe impl Send for Target<'_> {}

impl<'a> Target<'a> {
    /// # Panics
    /// When the values are too few, or rows would overlap.
    #[inline(always)]
    pub fn new(values: &'a mut [f32], rows: usize, columns: usize, distance: usize) -> Self {
        assert!(columns <= distance && (rows == 0 || (rows - 1) * distance + columns <= values.len()));
        Self { first: values.as_mut_ptr(), rows, columns, distance, of: PhantomData }
    }

    /// Its parts of so many rows and columns, the last ones smaller, with the place of their first number: those of the same
    /// columns one after the other.
    pub fn parts(self, rows: usize, columns: usize) -> Vec<((usize, usize), Self)> {
        let mut parts = Vec::new();
        for column in (0..self.columns).step_by(columns) {
            for row in (0..self.rows).step_by(rows) {
                parts.push((
                    (row, column),
                    Self {
                        // SAFETY: the place is inside; parts do not overlap, and the whole is given up.
                        first: unsafe { self.first.add(row * self.distance + column) },
                        rows: rows.min(self.rows - row),
                        columns: columns.min(self.columns - column),
                        ..self
                    },
                ));
            }
        }
        parts
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }
}

/// `target [rows, 32] = left [rows, depth] * right [depth, 32]`, and its terms.
pub(super) struct TileProduct<'a, E: Element> {
    /// In elements; whole units.
    pub depth: usize,
    pub left: Left<'a, E::Left>,
    /// `[depth, 32]`: units of the same place in 32 columns lie side by side.
    pub right: &'a [E],
    pub target: Target<'a>,
    /// [`Terms::Scaled`] for integers and only for them.
    pub terms: Terms<'a>,
}

impl Element for f32 {
    type Left = Self;
    const UNIT: usize = 1;

    #[inline(always)]
    fn multiply<S: Simd>(product: TileProduct<'_, Self>, simd: S) {
        let kept = product.check_numbers();
        // SAFETY: just checked; lanes times vectors is COLUMNS.
        unsafe {
            // As many sums as there are vector registers, less those for a row of the right side and a unit of the left.
            match S::F32_LANES {
                16 => product.run::<_, 12, 2>(Singles { simd, kept }),
                8 => product.run::<_, 3, 4>(Singles { simd, kept }),
                4 => product.run::<_, 3, 8>(Singles { simd, kept }),
                _ => product.run::<_, 1, COLUMNS>(Singles { simd: pulp::Scalar, kept }),
            }
        }
    }
}

impl Element for bf16 {
    type Left = Self;
    const UNIT: usize = 2;

    #[inline(always)]
    fn multiply<S: Simd>(product: TileProduct<'_, Self>, _: S) {
        let kept = product.check_numbers();
        if multiplies_bf16() {
            // SAFETY: just checked; the processor was asked; 2 * 16 is COLUMNS.
            unsafe { fast::pairs(&product, kept) }
        } else {
            // SAFETY: just checked; 4 * 8 is COLUMNS.
            unsafe { product.run::<_, 1, 4>(plain::Pairs { kept }) }
        }
    }
}

impl Element for i8 {
    type Left = u8;
    const UNIT: usize = 4;

    #[inline(always)]
    fn multiply<S: Simd>(product: TileProduct<'_, Self>, _: S) {
        let scales = product.check_integers();
        if multiplies_i8() {
            // SAFETY: just checked; the processor was asked; 2 * 16 is COLUMNS.
            unsafe { fast::quads(&product, scales) }
        } else {
            // SAFETY: just checked; 4 * 8 is COLUMNS.
            unsafe { product.run::<_, 1, 4>(plain::Quads { scales }) }
        }
    }
}

impl<E: Element> TileProduct<'_, E> {
    /// [`Self::check`] for numbers: what is kept.
    #[inline(always)]
    fn check_numbers(&self) -> Option<*const f32> {
        self.check();
        match self.terms {
            Terms::Nothing => None,
            Terms::Kept(kept) => {
                assert!(kept.len() >= self.target.rows);
                Some(kept.as_ptr())
            }
            Terms::Scaled(_) => panic!("a product of numbers has no scales"),
        }
    }

    /// [`Self::check`] for integers: their scales.
    #[inline(always)]
    fn check_integers(&self) -> Scales<'_> {
        self.check();
        let Terms::Scaled(scales) = self.terms else { panic!("a product of integers needs scales") };
        assert!(scales.rows.len() >= self.target.rows);
        assert!(scales.columns.len() >= COLUMNS && scales.offsets.len() >= COLUMNS);
        scales
    }

    /// # Panics
    /// When a matrix is shorter than its rows say, or the last unit is not whole.
    #[inline(always)]
    fn check(&self) {
        let Target { rows, columns, .. } = self.target;
        assert!(columns == COLUMNS && self.depth.is_multiple_of(E::UNIT));
        assert!(match self.left {
            Left::Rows { values, distance } => {
                distance.is_multiple_of(E::UNIT) && (rows == 0 || (rows - 1) * distance + self.depth <= values.len())
            }
            Left::Blocks { values } => rows.next_multiple_of(ROWS) * self.depth <= values.len(),
        });
        assert!(self.depth * COLUMNS <= self.right.len());
    }

    /// `HEIGHT` rows at a time, with their sums in `HEIGHT` times `VECTORS` registers, then the rest in smaller steps.
    ///
    /// # Safety
    /// [`Self::check`] has passed, and `VECTORS` vectors are [`COLUMNS`] wide.
    #[inline(always)]
    unsafe fn run<R: Registers, const HEIGHT: usize, const VECTORS: usize>(&self, registers: R) {
        let rows = self.target.rows;
        let mut first = 0;
        // SAFETY: the caller's; no step goes beyond the last row.
        unsafe {
            while first + HEIGHT <= rows {
                self.step::<R, HEIGHT, VECTORS>(registers, first);
                first += HEIGHT;
            }
            while HEIGHT > 4 && first + 4 <= rows {
                self.step::<R, 4, VECTORS>(registers, first);
                first += 4;
            }
            while first < rows {
                self.step::<R, 1, VECTORS>(registers, first);
                first += 1;
            }
        }
    }

    /// # Safety
    /// As for [`Self::run`]; `HEIGHT` rows from `first` on are there, and in one block where there are blocks.
    #[inline(always)]
    unsafe fn step<R: Registers, const HEIGHT: usize, const VECTORS: usize>(&self, registers: R, first: usize) {
        // SAFETY: what the check has found: every row lies inside its slice.
        unsafe {
            let target = self.target.first.add(first * self.target.distance);
            let place = |row: usize, vector: usize| target.add(row * self.target.distance + vector * COLUMNS / VECTORS);
            let mut sums = [[registers.zero(); VECTORS]; HEIGHT];
            if registers.keeps() {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (vector, sum) in sums.iter_mut().enumerate() {
                        *sum = registers.kept(first + row, place(row, vector));
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
                    registers.end(*sum, first + row, vector * COLUMNS / VECTORS, place(row, vector));
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

/// How a processor multiplies units. Pointers need no alignment and are those that [`TileProduct::check`] has looked at.
trait Registers: Copy {
    type Unit: Copy;
    /// Several sums.
    type Sum: Copy;
    /// As many units of the right side.
    type Right: Copy;

    fn zero(self) -> Self::Sum;
    /// Whether something of the target is kept.
    fn keeps(self) -> bool;
    /// What is kept of a row, if anything is.
    unsafe fn kept(self, row: usize, from: *const f32) -> Self::Sum;
    unsafe fn read(self, from: *const Self::Unit) -> Self::Right;
    fn add_product(self, sum: Self::Sum, left: Self::Unit, right: Self::Right) -> Self::Sum;
    /// Writes the sums of a row, from a column on.
    unsafe fn end(self, sum: Self::Sum, row: usize, column: usize, to: *mut f32);
}

/// Numbers in f32, one at a time.
#[derive(Clone, Copy)]
struct Singles<S> {
    simd: S,
    kept: Option<*const f32>,
}

impl<S: Simd> Registers for Singles<S> {
    type Unit = f32;
    type Sum = S::f32s;
    type Right = S::f32s;

    #[inline(always)]
    fn zero(self) -> S::f32s {
        self.simd.splat_f32s(0.)
    }

    #[inline(always)]
    fn keeps(self) -> bool {
        self.kept.is_some()
    }

    #[inline(always)]
    unsafe fn kept(self, row: usize, from: *const f32) -> S::f32s {
        let Some(kept) = self.kept else { return self.zero() };
        // SAFETY: the caller's.
        let (factor, sum) = unsafe { (*kept.add(row), from.cast::<S::f32s>().read_unaligned()) };
        self.simd.mul_f32s(sum, self.simd.splat_f32s(factor))
    }

    #[inline(always)]
    unsafe fn read(self, from: *const f32) -> S::f32s {
        // SAFETY: the caller's.
        unsafe { from.cast::<S::f32s>().read_unaligned() }
    }

    #[inline(always)]
    fn add_product(self, sum: S::f32s, left: f32, right: S::f32s) -> S::f32s {
        self.simd.mul_add_e_f32s(self.simd.splat_f32s(left), right, sum)
    }

    #[inline(always)]
    unsafe fn end(self, sum: S::f32s, _: usize, _: usize, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { to.cast::<S::f32s>().write_unaligned(sum) }
    }
}

/// Whether this processor has instructions for products of bf16.
pub(in crate::runtime::packed) fn multiplies_bf16() -> bool {
    fast::has_pairs()
}

/// Whether this processor has instructions for products of 8-bit integers, in vectors of 512 bits.
pub(in crate::runtime::packed) fn multiplies_i8() -> bool {
    fast::has_quads()
}

/// Eight sums at a time in plain loops, for processors without the instructions of [`fast`].
mod plain {
    use half::bf16;

    use super::{Registers, Scales};

    #[derive(Clone, Copy)]
    pub(super) struct Pairs {
        pub kept: Option<*const f32>,
    }

    impl Registers for Pairs {
        type Unit = [bf16; 2];
        type Sum = [f32; 8];
        type Right = [[bf16; 2]; 8];

        #[inline(always)]
        fn zero(self) -> [f32; 8] {
            [0.; 8]
        }

        #[inline(always)]
        fn keeps(self) -> bool {
            self.kept.is_some()
        }

        #[inline(always)]
        unsafe fn kept(self, row: usize, from: *const f32) -> [f32; 8] {
            let Some(kept) = self.kept else { return self.zero() };
            // SAFETY: the caller's.
            unsafe { from.cast::<[f32; 8]>().read_unaligned().map(|value| value * *kept.add(row)) }
        }

        #[inline(always)]
        unsafe fn read(self, from: *const [bf16; 2]) -> [[bf16; 2]; 8] {
            // SAFETY: the caller's.
            unsafe { from.cast::<[[bf16; 2]; 8]>().read_unaligned() }
        }

        #[inline(always)]
        fn add_product(self, mut sum: [f32; 8], left: [bf16; 2], right: [[bf16; 2]; 8]) -> [f32; 8] {
            // A bf16 is the upper half of an f32.
            let widen = |value: bf16| f32::from_bits(u32::from(value.to_bits()) << 16);
            for (sum, right) in sum.iter_mut().zip(right) {
                *sum += widen(left[0]) * widen(right[0]) + widen(left[1]) * widen(right[1]);
            }
            sum
        }

        #[inline(always)]
        unsafe fn end(self, sum: [f32; 8], _: usize, _: usize, to: *mut f32) {
            // SAFETY: the caller's.
            unsafe { to.cast::<[f32; 8]>().write_unaligned(sum) }
        }
    }

    #[derive(Clone, Copy)]
    pub(super) struct Quads<'a> {
        pub scales: Scales<'a>,
    }

    impl Registers for Quads<'_> {
        type Unit = [u8; 4];
        type Sum = [i32; 8];
        type Right = [[i8; 4]; 8];

        #[inline(always)]
        fn zero(self) -> [i32; 8] {
            [0; 8]
        }

        #[inline(always)]
        fn keeps(self) -> bool {
            false
        }

        #[inline(always)]
        unsafe fn kept(self, _: usize, _: *const f32) -> [i32; 8] {
            self.zero()
        }

        #[inline(always)]
        unsafe fn read(self, from: *const [u8; 4]) -> [[i8; 4]; 8] {
            // SAFETY: the caller's.
            unsafe { from.cast::<[[i8; 4]; 8]>().read_unaligned() }
        }

        #[inline(always)]
        fn add_product(self, mut sum: [i32; 8], left: [u8; 4], right: [[i8; 4]; 8]) -> [i32; 8] {
            for (sum, right) in sum.iter_mut().zip(right) {
                *sum += left.iter().zip(right).map(|(left, right)| i32::from(*left) * i32::from(right)).sum::<i32>();
            }
            sum
        }

        #[inline(always)]
        unsafe fn end(self, sum: [i32; 8], row: usize, column: usize, to: *mut f32) {
            let Scales { rows, columns, offsets } = self.scales;
            let made =
                std::array::from_fn(|n| (sum[n] - offsets[column + n]) as f32 * (rows[row] * columns[column + n]));
            // SAFETY: the caller's.
            unsafe { to.cast::<[f32; 8]>().write_unaligned(made) }
        }
    }
}

/// The instructions of AVX-512 for products of small numbers.
#[cfg(target_arch = "x86_64")]
mod fast {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_cvtepi32_ps, _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_loadu_ps,
        _mm512_loadu_si512, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
        _mm512_storeu_ps, _mm512_sub_epi32,
    };

    use half::bf16;

    use super::{Registers, Scales, TileProduct};

    pub(super) fn has_pairs() -> bool {
        std::arch::is_x86_feature_detected!("avx512bf16") && std::arch::is_x86_feature_detected!("avx512f")
    }

    pub(super) fn has_quads() -> bool {
        std::arch::is_x86_feature_detected!("avx512vnni") && std::arch::is_x86_feature_detected!("avx512f")
    }

    /// # Safety
    /// The processor [has them](has_pairs), and the product was checked.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn pairs(product: &TileProduct<'_, bf16>, kept: Option<*const f32>) {
        // SAFETY: the caller's.
        unsafe { product.run::<_, 12, 2>(Pairs { kept }) }
    }

    /// # Safety
    /// The processor [has them](has_quads), and the product was checked.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn quads(product: &TileProduct<'_, i8>, scales: Scales<'_>) {
        // SAFETY: the caller's.
        unsafe { product.run::<_, 12, 2>(Quads { scales }) }
    }

    /// Two numbers in bf16 at a time. Only to be used where the processor has the instruction.
    #[derive(Clone, Copy)]
    struct Pairs {
        kept: Option<*const f32>,
    }

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
        fn keeps(self) -> bool {
            self.kept.is_some()
        }

        #[inline(always)]
        unsafe fn kept(self, row: usize, from: *const f32) -> __m512 {
            let Some(kept) = self.kept else { return self.zero() };
            // SAFETY: the caller's, and as above.
            unsafe { _mm512_mul_ps(_mm512_loadu_ps(from), _mm512_set1_ps(*kept.add(row))) }
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

        #[inline(always)]
        unsafe fn end(self, sum: __m512, _: usize, _: usize, to: *mut f32) {
            // SAFETY: the caller's, and as above.
            unsafe { _mm512_storeu_ps(to, sum) }
        }
    }

    /// Four 8-bit integers at a time. Only to be used where the processor has the instruction.
    #[derive(Clone, Copy)]
    struct Quads<'a> {
        scales: Scales<'a>,
    }

    impl Registers for Quads<'_> {
        type Unit = i32;
        type Sum = __m512i;
        type Right = __m512i;

        #[inline(always)]
        fn zero(self) -> __m512i {
            // SAFETY: the processor has it, or nobody holds a `Quads`.
            unsafe { _mm512_setzero_si512() }
        }

        #[inline(always)]
        fn keeps(self) -> bool {
            false
        }

        #[inline(always)]
        unsafe fn kept(self, _: usize, _: *const f32) -> __m512i {
            self.zero()
        }

        #[inline(always)]
        unsafe fn read(self, from: *const i32) -> __m512i {
            // SAFETY: the caller's, and as above.
            unsafe { _mm512_loadu_si512(from.cast()) }
        }

        #[inline(always)]
        fn add_product(self, sum: __m512i, left: i32, right: __m512i) -> __m512i {
            // SAFETY: as above.
            unsafe { _mm512_dpbusd_epi32(sum, _mm512_set1_epi32(left), right) }
        }

        #[inline(always)]
        unsafe fn end(self, sum: __m512i, row: usize, column: usize, to: *mut f32) {
            let Scales { rows, columns, offsets } = self.scales;
            // SAFETY: the caller's, and as above.
            unsafe {
                let offsets = _mm512_loadu_si512(offsets.as_ptr().add(column).cast());
                let columns = _mm512_loadu_ps(columns.as_ptr().add(column));
                let scales = _mm512_mul_ps(columns, _mm512_set1_ps(*rows.as_ptr().add(row)));
                _mm512_storeu_ps(to, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum, offsets)), scales));
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod fast {
    use half::bf16;

    use super::{Scales, TileProduct};

    pub(super) fn has_pairs() -> bool {
        false
    }

    pub(super) fn has_quads() -> bool {
        false
    }

    pub(super) unsafe fn pairs(_: &TileProduct<'_, bf16>, _: Option<*const f32>) {
        unreachable!("only where `has_pairs` says so");
    }

    pub(super) unsafe fn quads(_: &TileProduct<'_, i8>, _: Scales<'_>) {
        unreachable!("only where `has_quads` says so");
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
        as_rows: Vec<E::Left>,
        as_blocks: Vec<E::Left>,
        panel: Vec<E>,
        /// `[rows, 32]`.
        exact: Vec<f64>,
    }

    impl<E: Element> Case<E> {
        fn new(
            (rows, units, gap): (usize, usize, usize),
            seed: u32,
            (left, left_exact): Conversions<E::Left>,
            (right, right_exact): Conversions<E>,
        ) -> Self {
            let (depth, gap) = (units * E::UNIT, gap * E::UNIT);
            let (distance, target_distance) = (depth + gap, COLUMNS + gap);
            let left_at = |row: usize, place: usize| left(value(seed, row * 131 + place));
            let right_at = |place: usize, column: usize| right(value(seed, place * 137 + column + 7));
            let mut as_rows = vec![E::Left::default(); rows * distance];
            let mut as_blocks = vec![E::Left::default(); rows.next_multiple_of(ROWS) * depth];
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
        fn check(&self, terms: Terms<'_>, expected: impl Fn(usize, usize, f64, f64) -> f64, scalar: bool) {
            let before: Vec<f32> = (0..self.rows * self.target_distance).map(|n| value(13, n)).collect();
            let blocks = Left::Blocks { values: &self.as_blocks };
            for left in [Left::Rows { values: &self.as_rows, distance: self.distance }, blocks] {
                let mut target = before.clone();
                let product = TileProduct {
                    depth: self.depth,
                    left,
                    right: &self.panel,
                    target: Target::new(&mut target, self.rows, COLUMNS, self.target_distance),
                    terms,
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
            rows in 0usize..40, units in 0usize..70, gap in 0usize..5, keeps: bool, seed in 0u32..1000,
        ) {
            let kept: Vec<f32> = (0..rows).map(|n| value(seed, n + 19)).collect();
            let expected = |row: usize, _: usize, before: f64, exact: f64| {
                exact + if keeps { before * f64::from(kept[row]) } else { 0. }
            };
            let terms = if keeps { Terms::Kept(&kept) } else { Terms::Nothing };
            let whole: Conversions<f32> = (|value| value, f64::from);
            let case = Case::<f32>::new((rows, units, gap), seed, whole, whole);
            case.check(terms, expected, true);
            case.check(terms, expected, false);
            let half: Conversions<bf16> = (bf16::from_f32, bf16::to_f64);
            let case = Case::<bf16>::new((rows, units, gap), seed, half, half);
            case.check(terms, expected, false);
            let mut made = vec![0f32; rows * COLUMNS];
            let product = TileProduct::<bf16> {
                depth: case.depth,
                left: Left::Rows { values: &case.as_rows, distance: case.distance },
                right: &case.panel,
                target: Target::new(&mut made, rows, COLUMNS, COLUMNS),
                terms: Terms::Nothing,
            };
            // SAFETY: the case is whole; 4 * 8 is COLUMNS.
            unsafe { product.run::<_, 1, 4>(plain::Pairs { kept: None }) };
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
            case.check(Terms::Scaled(scales), expected, false);
            let mut made = vec![0f32; rows * COLUMNS];
            let product = TileProduct::<i8> {
                depth: case.depth,
                left: Left::Rows { values: &case.as_rows, distance: case.distance },
                right: &case.panel,
                target: Target::new(&mut made, rows, COLUMNS, COLUMNS),
                terms: Terms::Scaled(scales),
            };
            // SAFETY: the case is whole; 4 * 8 is COLUMNS.
            unsafe { product.run::<_, 1, 4>(plain::Quads { scales }) };
            for (place, (made, exact)) in made.iter().zip(&case.exact).enumerate() {
                let expected = expected(place / COLUMNS, place % COLUMNS, 0., *exact);
                prop_assert!((f64::from(*made) - expected).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn the_parts_of_a_target_cover_it_once() {
        let mut values = vec![0f32; 10 * 100];
        for ((row, column), part) in Target::new(&mut values, 10, 96, 100).parts(4, 32) {
            assert_eq!(part.rows(), if row == 8 { 2 } else { 4 });
            let kept = [1.; 4];
            let one = TileProduct::<f32> {
                depth: 1,
                left: Left::Rows { values: &[1.; 4], distance: 1 },
                right: &[(column / 32 + 1) as f32; COLUMNS],
                target: part,
                terms: Terms::Kept(&kept),
            };
            Arch::new().dispatch(one);
        }
        for (place, value) in values.iter().enumerate() {
            let expected = if place % 100 < 96 { place % 100 / 32 + 1 } else { 0 };
            assert_eq!(*value as usize, expected, "{place}");
        }
    }
}
