//! The operations of the inner loop, as each kernel implements them, and the kernel for f32.

#![expect(clippy::inline_always, reason = "what `dispatch` compiles per instruction set must be inlined into it")]

use pulp::Simd;

/// Multiplies units with one processor's instructions. Pointers need no alignment;
/// [`super::TileProduct::check`] has checked them.
pub(super) trait MicroKernel: Copy {
    type Unit: Copy;
    /// Several sums.
    type Sum: Copy;
    /// The result that the sums of all groups become.
    type Total: Copy;
    /// As many units of the right side.
    type Right: Copy;

    /// Units of a group along the depth; `None` if the whole depth is one group.
    #[inline(always)]
    fn group(self) -> Option<usize> {
        None
    }

    fn zero(self) -> Self::Sum;
    fn no_total(self) -> Self::Total;
    /// The sums of a group before any product; `from` is their place in the output.
    unsafe fn start(self, group: usize, row: usize, column: usize, from: *const f32) -> Self::Sum;
    unsafe fn read(self, from: *const Self::Unit) -> Self::Right;
    fn add_product(self, sum: Self::Sum, left: Self::Unit, right: Self::Right) -> Self::Sum;
    /// The total of a row, from a column on, with the sums of one more group.
    unsafe fn end(self, sum: Self::Sum, total: Self::Total, group: usize, row: usize, column: usize) -> Self::Total;
    unsafe fn store(self, total: Self::Total, to: *mut f32);
}

/// f32, a unit of one element.
#[derive(Clone, Copy)]
pub(super) struct F32Kernel<S> {
    pub simd: S,
    pub rescale: Option<*const f32>,
}

impl<S: Simd> MicroKernel for F32Kernel<S> {
    type Unit = f32;
    type Sum = S::f32s;
    type Total = S::f32s;
    type Right = S::f32s;

    #[inline(always)]
    fn zero(self) -> S::f32s {
        self.simd.splat_f32s(0.)
    }

    #[inline(always)]
    fn no_total(self) -> S::f32s {
        self.zero()
    }

    #[inline(always)]
    unsafe fn start(self, _: usize, row: usize, _: usize, from: *const f32) -> S::f32s {
        let Some(rescale) = self.rescale else { return self.zero() };
        // SAFETY: the caller's.
        let (factor, sum) = unsafe { (*rescale.add(row), from.cast::<S::f32s>().read_unaligned()) };
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
    unsafe fn end(self, sum: S::f32s, _: S::f32s, _: usize, _: usize, _: usize) -> S::f32s {
        sum
    }

    #[inline(always)]
    unsafe fn store(self, total: S::f32s, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { to.cast::<S::f32s>().write_unaligned(total) }
    }
}
