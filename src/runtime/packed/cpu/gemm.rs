//! The inner loop of all matrix products on a CPU (GEMM): small tiles whose sums stay in registers.
//!
//! Right sides lie in panels of 32 columns, in the order in which the loop reads them. The elements
//! that are multiplied at once are a unit: one f32, two neighbours along the depth in bf16, four
//! 8-bit integers. Sums are f32, and 32-bit integers that become f32 after each group of the depth.
//! [`instructions`] chooses the kernel: AVX-512 (`vdpbf16ps`, `vpdpbusd`), AVX2 (bf16 widened to
//! f32, `vpdpbusd` or `vpmaddubsw`), NEON (`bfdot` or bf16 widened to f32, `sdot` or `smull`), or
//! plain loops, which give the same results slowly.

#![expect(clippy::inline_always, reason = "what `dispatch` compiles per instruction set must be inlined into it")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(super) mod instructions;
mod micro_kernel;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::ops::Range;

use half::bf16;
use pulp::Simd;

use self::instructions::{Bf16Path, Int8Path};
use self::micro_kernel::{F32Kernel, MicroKernel};

/// Columns of the right side and of the target.
pub(super) const COLUMNS: usize = 32;
/// Rows of the left side that are multiplied at a time, if there are enough registers.
pub(super) const ROWS: usize = 12;

/// An element of the right side.
pub(super) trait Element: Copy + Default + Send + Sync + 'static {
    /// An element of the left side.
    type Lhs: Copy + Default + Send + Sync + 'static;
    /// Elements of a unit.
    const UNIT: usize;

    /// Runs a product with the best instructions of this processor for it.
    fn multiply<S: Simd>(product: TileProduct<'_, Self>, simd: S);
}

/// Operation on the sums of a tile before they are stored.
#[derive(Clone, Copy)]
pub(super) enum Epilogue<'a> {
    /// They are stored as they are.
    None,
    /// They are added to the output's rows, each of which is multiplied by its factor first.
    Rescale(&'a [f32]),
    /// Sums of integers become numbers.
    Scaled(Scales<'a>),
}

/// The scales of 8-bit integers, one for each group of the depth. The left side's integers are
/// stored with 128 added.
#[derive(Clone, Copy)]
pub(super) struct Scales<'a> {
    /// Units of a group.
    pub group: usize,
    /// Groups of the depth.
    pub groups: usize,
    /// `[rows, groups]`.
    pub rows: &'a [f32],
    /// `[groups, 32]`.
    pub columns: &'a [f32],
    /// -128 times the sum of each column of the right side, `[groups, 32]`: it undoes the added
    /// 128.
    pub offsets: &'a [i32],
}

/// The left side of a product: rows that are `distance` elements apart.
#[derive(Clone, Copy)]
pub(super) struct Lhs<'a, E> {
    pub values: &'a [E],
    pub distance: usize,
}

/// A rectangle of a matrix, borrowed for writing. Its rows are `distance` elements apart.
pub(super) struct OutputTile<'a> {
    first: *mut f32,
    rows: usize,
    columns: usize,
    distance: usize,
    of: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a `&mut [f32]` with gaps.
unsafe impl Send for OutputTile<'_> {}

impl<'a> OutputTile<'a> {
    /// # Panics
    /// When the values are too few, or rows would overlap.
    #[inline(always)]
    pub fn new(values: &'a mut [f32], rows: usize, columns: usize, distance: usize) -> Self {
        assert!(columns <= distance && (rows == 0 || (rows - 1) * distance + columns <= values.len()));
        Self { first: values.as_mut_ptr(), rows, columns, distance, of: PhantomData }
    }

    /// Splits it into parts of at most `rows` by `columns`, in column order, each with the row and
    /// column of its first element.
    pub fn parts(self, rows: usize, columns: usize) -> Vec<((usize, usize), Self)> {
        let mut parts = Vec::new();
        for column in (0..self.columns).step_by(columns) {
            for row in (0..self.rows).step_by(rows) {
                parts.push((
                    (row, column),
                    Self {
                        // SAFETY: the place is inside, parts do not overlap, and the whole is
                        // moved.
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

/// `target [rows, 32] = left [rows, depth] * right [depth, 32]`, and its epilogue.
pub(super) struct TileProduct<'a, E: Element> {
    /// In elements; whole units.
    pub depth: usize,
    pub left: Lhs<'a, E::Lhs>,
    /// `[depth, 32]`: units of the same place in 32 columns lie side by side.
    pub right: &'a [E],
    pub target: OutputTile<'a>,
    /// [`Epilogue::Scaled`] for integers and only for them.
    pub epilogue: Epilogue<'a>,
}

impl Element for f32 {
    type Lhs = Self;
    const UNIT: usize = 1;

    #[inline(always)]
    fn multiply<S: Simd>(product: TileProduct<'_, Self>, simd: S) {
        let rescale = product.check_numbers();
        // SAFETY: just checked; lanes times vectors is COLUMNS.
        unsafe {
            // As many sums as fit into the vector registers beside a row of the right side and a
            // unit of the left.
            match S::F32_LANES {
                16 => product.run::<_, 12, 2>(F32Kernel { simd, rescale }),
                8 => product.run::<_, 3, 4>(F32Kernel { simd, rescale }),
                4 => product.run::<_, 2, 8>(F32Kernel { simd, rescale }),
                _ => product.run::<_, 1, COLUMNS>(F32Kernel { simd: pulp::Scalar, rescale }),
            }
        }
    }
}

impl Element for bf16 {
    type Lhs = Self;
    const UNIT: usize = 2;

    #[inline(always)]
    fn multiply<S: Simd>(product: TileProduct<'_, Self>, _: S) {
        // SAFETY: the processor was asked.
        unsafe { product.multiply_on(instructions::for_bf16()) }
    }
}

impl TileProduct<'_, bf16> {
    /// # Safety
    /// The processor has the path's instructions.
    #[inline(always)]
    unsafe fn multiply_on(&self, path: Bf16Path) {
        let rescale = self.check_numbers();
        // SAFETY: just checked; the caller's; 4 * 8 is COLUMNS.
        unsafe {
            match path {
                #[cfg(target_arch = "x86_64")]
                Bf16Path::Avx512 => avx512::multiply_bf16(self, rescale),
                #[cfg(target_arch = "x86_64")]
                Bf16Path::Avx2 => avx2::multiply_bf16(self, rescale),
                #[cfg(target_arch = "aarch64")]
                Bf16Path::NeonDot => neon::multiply_bf16_dot(self, rescale),
                #[cfg(target_arch = "aarch64")]
                Bf16Path::Neon => neon::multiply_bf16(self, rescale),
                Bf16Path::Portable => self.run::<_, 1, 4>(portable::Bf16Kernel { rescale }),
            }
        }
    }
}

impl Element for i8 {
    type Lhs = u8;
    const UNIT: usize = 4;

    #[inline(always)]
    fn multiply<S: Simd>(product: TileProduct<'_, Self>, _: S) {
        // SAFETY: the processor was asked.
        unsafe { product.multiply_on(instructions::for_int8()) }
    }
}

impl TileProduct<'_, i8> {
    /// # Safety
    /// The processor has the path's instructions.
    #[inline(always)]
    unsafe fn multiply_on(&self, path: Int8Path) {
        let scales = self.check_integers();
        // SAFETY: just checked; the caller's; 4 * 8 is COLUMNS.
        unsafe {
            match path {
                #[cfg(target_arch = "x86_64")]
                Int8Path::Avx512 => avx512::multiply_int8(self, scales),
                #[cfg(target_arch = "x86_64")]
                Int8Path::AvxVnni => avx2::multiply_int8_vnni(self, scales),
                #[cfg(target_arch = "x86_64")]
                Int8Path::Avx2 => avx2::multiply_int8(self, scales),
                #[cfg(target_arch = "aarch64")]
                Int8Path::NeonDot => neon::multiply_int8_dot(self, scales),
                #[cfg(target_arch = "aarch64")]
                Int8Path::Neon => neon::multiply_int8(self, scales),
                Int8Path::Portable => self.run::<_, 1, 4>(portable::Int8Kernel { scales }),
            }
        }
    }
}

impl<E: Element> TileProduct<'_, E> {
    /// [`Self::check`] for floats: the factors of the output's rows, if they are rescaled.
    #[inline(always)]
    fn check_numbers(&self) -> Option<*const f32> {
        self.check();
        match self.epilogue {
            Epilogue::None => None,
            Epilogue::Rescale(rescale) => {
                assert!(rescale.len() >= self.target.rows);
                Some(rescale.as_ptr())
            }
            Epilogue::Scaled(_) => panic!("a product of numbers has no scales"),
        }
    }

    /// [`Self::check`] for integers: their scales.
    #[inline(always)]
    fn check_integers(&self) -> Scales<'_> {
        self.check();
        let Epilogue::Scaled(scales) = self.epilogue else { panic!("a product of integers needs scales") };
        let Scales { group, groups, .. } = scales;
        assert!(group > 0 && groups == (self.depth / E::UNIT).div_ceil(group).max(1));
        assert!(scales.rows.len() >= self.target.rows * groups);
        assert!(scales.columns.len() >= groups * COLUMNS && scales.offsets.len() >= groups * COLUMNS);
        scales
    }

    /// # Panics
    /// When a matrix is shorter than its rows say, or the last unit is not whole.
    #[inline(always)]
    fn check(&self) {
        let OutputTile { rows, columns, .. } = self.target;
        assert!(columns == COLUMNS && self.depth.is_multiple_of(E::UNIT));
        let Lhs { values, distance } = self.left;
        assert!(distance.is_multiple_of(E::UNIT) && (rows == 0 || (rows - 1) * distance + self.depth <= values.len()));
        assert!(self.depth * COLUMNS <= self.right.len());
    }

    /// `HEIGHT` rows at a time, with their sums in `HEIGHT` times `VECTORS` registers, then the
    /// rest in smaller steps.
    ///
    /// # Safety
    /// [`Self::check`] has passed, and `VECTORS` vectors are [`COLUMNS`] wide.
    #[inline(always)]
    unsafe fn run<R: MicroKernel, const HEIGHT: usize, const VECTORS: usize>(&self, kernel: R) {
        let rows = self.target.rows;
        let mut first = 0;
        // SAFETY: the caller's; no step goes beyond the last row.
        unsafe {
            while first + HEIGHT <= rows {
                self.step::<R, HEIGHT, VECTORS>(kernel, first);
                first += HEIGHT;
            }
            while HEIGHT > 4 && first + 4 <= rows {
                self.step::<R, 4, VECTORS>(kernel, first);
                first += 4;
            }
            while first < rows {
                self.step::<R, 1, VECTORS>(kernel, first);
                first += 1;
            }
        }
    }

    /// # Safety
    /// As for [`Self::run`]; `HEIGHT` rows from `first` on are there.
    #[inline(always)]
    unsafe fn step<R: MicroKernel, const HEIGHT: usize, const VECTORS: usize>(&self, kernel: R, first: usize) {
        let units = self.depth / E::UNIT;
        let mut totals = [[kernel.no_total(); VECTORS]; HEIGHT];
        // SAFETY: the caller's.
        unsafe {
            match kernel.group() {
                None => self.add_group(kernel, &mut totals, first, 0, 0..units),
                Some(size) => {
                    for (group, start) in (0..units.max(1)).step_by(size).enumerate() {
                        let range = start..units.min(start + size);
                        self.add_group(kernel, &mut totals, first, group, range);
                    }
                }
            }
        }
        for (row, totals) in totals.iter().enumerate() {
            for (vector, total) in totals.iter().enumerate() {
                // SAFETY: what the check has found: every row lies inside its slice.
                unsafe { kernel.store(*total, self.place(first + row, vector * COLUMNS / VECTORS)) }
            }
        }
    }

    /// Where an element of the output lies.
    ///
    /// # Safety
    /// [`Self::check`] has passed, and the element is inside.
    #[inline(always)]
    unsafe fn place(&self, row: usize, column: usize) -> *mut f32 {
        // SAFETY: the caller's.
        unsafe { self.target.first.add(row * self.target.distance + column) }
    }

    /// Adds the products of a group of units to `totals`.
    ///
    /// # Safety
    /// As for [`Self::step`].
    #[inline(always)]
    unsafe fn add_group<R: MicroKernel, const HEIGHT: usize, const VECTORS: usize>(
        &self,
        kernel: R,
        totals: &mut [[R::Total; VECTORS]; HEIGHT],
        first: usize,
        group: usize,
        units: Range<usize>,
    ) {
        // SAFETY: what the check has found: every row lies inside its slice.
        unsafe {
            // Loops: closures of library functions would not have the kernel's instructions.
            let mut sums = [[kernel.zero(); VECTORS]; HEIGHT];
            for (row, sums) in sums.iter_mut().enumerate() {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    let column = vector * COLUMNS / VECTORS;
                    *sum = kernel.start(group, first + row, column, self.place(first + row, column));
                }
            }
            self.sum(kernel, &mut sums, first, units);
            for (row, sums) in sums.iter().enumerate() {
                for (vector, sum) in sums.iter().enumerate() {
                    let total = &mut totals[row][vector];
                    *total = kernel.end(*sum, *total, group, first + row, vector * COLUMNS / VECTORS);
                }
            }
        }
    }

    /// Adds the products of some units to `sums`, whose first row is `first`.
    ///
    /// # Safety
    /// As for [`Self::run`].
    #[inline(always)]
    unsafe fn sum<R: MicroKernel, const HEIGHT: usize, const VECTORS: usize>(
        &self,
        kernel: R,
        sums: &mut [[R::Sum; VECTORS]; HEIGHT],
        first: usize,
        units: Range<usize>,
    ) {
        let right = self.right.as_ptr().cast::<R::Unit>();
        let distance = self.left.distance / E::UNIT;
        // SAFETY: the check has found the rows of the left side.
        let left = unsafe { self.left.values.as_ptr().add(first * self.left.distance).cast::<R::Unit>() };
        for unit in units {
            // SAFETY: the check has found `depth` rows of COLUMNS elements on the right side.
            let mut vectors = [unsafe { kernel.read(right.add(unit * COLUMNS)) }; VECTORS];
            for (vector, read) in vectors.iter_mut().enumerate().skip(1) {
                // SAFETY: as above.
                *read = unsafe { kernel.read(right.add(unit * COLUMNS + vector * COLUMNS / VECTORS)) };
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let value = unsafe { left.add(row * distance + unit).read_unaligned() };
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    *sum = kernel.add_product(*sum, value, vector);
                }
            }
        }
    }
}
