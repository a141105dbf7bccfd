//! Kernels with the AVX-512 instructions for bf16 and 8-bit integers.

#![expect(clippy::inline_always, reason = "what has an instruction set must be inlined into what enables it")]

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_cvtepi32_ps, _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_storeu_ps,
};

use half::bf16;

use super::{COLUMNS, MicroKernel, Scales, TileProduct};

/// # Safety
/// The processor has AVX512-BF16, and the product was checked.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn multiply_bf16(product: &TileProduct<'_, bf16>, rescale: Option<*const f32>) {
    // SAFETY: the caller's.
    unsafe { product.run::<_, 12, 2>(Bf16Kernel { rescale }) }
}

/// # Safety
/// The processor has AVX512-VNNI, and the product was checked.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) unsafe fn multiply_int8(product: &TileProduct<'_, i8>, scales: Scales<'_>) {
    // SAFETY: the caller's.
    unsafe {
        if scales.groups == 1 {
            product.run::<_, 12, 2>(Int8Kernel::<false> { scales });
        } else {
            // The totals of the groups take as many registers as the sums.
            product.run::<_, 6, 2>(Int8Kernel::<true> { scales });
        }
    }
}

/// Two numbers in bf16 at a time. Only to be used where the processor has the instruction.
#[derive(Clone, Copy)]
struct Bf16Kernel {
    rescale: Option<*const f32>,
}

impl MicroKernel for Bf16Kernel {
    type Unit = i32;
    type Sum = __m512;
    type Total = __m512;
    type Right = __m512bh;

    #[inline(always)]
    fn zero(self) -> __m512 {
        // SAFETY: `Bf16Kernel` is made only where the processor has AVX512-BF16.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    fn no_total(self) -> __m512 {
        self.zero()
    }

    #[inline(always)]
    unsafe fn start(self, _: usize, row: usize, _: usize, from: *const f32) -> __m512 {
        let Some(rescale) = self.rescale else { return self.zero() };
        // SAFETY: the caller's, and as above.
        unsafe { _mm512_mul_ps(_mm512_loadu_ps(from), _mm512_set1_ps(*rescale.add(row))) }
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
    unsafe fn end(self, sum: __m512, _: __m512, _: usize, _: usize, _: usize) -> __m512 {
        sum
    }

    #[inline(always)]
    unsafe fn store(self, total: __m512, to: *mut f32) {
        // SAFETY: the caller's, and as above.
        unsafe { _mm512_storeu_ps(to, total) }
    }
}

/// Four 8-bit integers at a time. Only to be used where the processor has the instruction.
#[derive(Clone, Copy)]
struct Int8Kernel<'a, const GROUPED: bool> {
    scales: Scales<'a>,
}

impl<const GROUPED: bool> MicroKernel for Int8Kernel<'_, GROUPED> {
    type Unit = i32;
    type Sum = __m512i;
    type Total = __m512;
    type Right = __m512i;

    #[inline(always)]
    fn group(self) -> Option<usize> {
        GROUPED.then_some(self.scales.group)
    }

    #[inline(always)]
    fn zero(self) -> __m512i {
        // SAFETY: `Int8Kernel` is made only where the processor has AVX512-VNNI.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn no_total(self) -> __m512 {
        // SAFETY: `Int8Kernel` is made only where the processor has AVX512-VNNI.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn start(self, group: usize, _: usize, column: usize, _: *const f32) -> __m512i {
        // SAFETY: the caller's, and as above.
        unsafe { _mm512_loadu_si512(self.scales.offsets.as_ptr().add(group * COLUMNS + column).cast()) }
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
    unsafe fn end(self, sum: __m512i, total: __m512, group: usize, row: usize, column: usize) -> __m512 {
        let Scales { groups, rows, columns, .. } = self.scales;
        // SAFETY: the caller's, and as above.
        unsafe {
            let columns = _mm512_loadu_ps(columns.as_ptr().add(group * COLUMNS + column));
            let row = _mm512_set1_ps(*rows.as_ptr().add(row * groups + group));
            let numbers = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), columns);
            if GROUPED { _mm512_fmadd_ps(numbers, row, total) } else { _mm512_mul_ps(numbers, row) }
        }
    }

    #[inline(always)]
    unsafe fn store(self, total: __m512, to: *mut f32) {
        // SAFETY: the caller's, and as above.
        unsafe { _mm512_storeu_ps(to, total) }
    }
}
