//! Kernels in vectors of 256 bits, for processors without the instructions of `avx512`.

#![expect(clippy::inline_always, reason = "what has an instruction set must be inlined into what enables it")]

use std::arch::x86_64::{
    __m256, __m256i, _mm256_abs_epi8, _mm256_add_epi32, _mm256_and_si256, _mm256_castsi256_ps, _mm256_cvtepi32_ps,
    _mm256_dpbusd_avx_epi32, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_setzero_si256, _mm256_sign_epi8, _mm256_slli_epi32, _mm256_storeu_ps, _mm256_xor_si256,
};

use half::bf16;

use super::{COLUMNS, MicroKernel, Scales, TileProduct};

/// # Safety
/// The processor has AVX2 and FMA, and the product was checked.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn multiply_bf16(product: &TileProduct<'_, bf16>, rescale: Option<*const f32>) {
    // SAFETY: the caller's; 4 * 8 is COLUMNS.
    unsafe { product.run::<_, 2, 4>(Bf16Kernel { rescale }) }
}

/// # Safety
/// The processor has AVX2 and FMA, and the product was checked.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn multiply_int8(product: &TileProduct<'_, i8>, scales: Scales<'_>) {
    // SAFETY: the caller's; 4 * 8 is COLUMNS.
    unsafe { product.run::<_, 2, 4>(Int8Kernel { scales }) }
}

/// # Safety
/// The processor has AVX-VNNI, AVX2 and FMA, and the product was checked.
#[target_feature(enable = "avx2,fma,avxvnni")]
pub(super) unsafe fn multiply_int8_vnni(product: &TileProduct<'_, i8>, scales: Scales<'_>) {
    // SAFETY: the caller's; 4 * 8 is COLUMNS.
    unsafe { product.run::<_, 3, 4>(VnniKernel { scales }) }
}

/// Two bf16 at a time, each widened to f32. Only for processors with AVX2.
#[derive(Clone, Copy)]
struct Bf16Kernel {
    rescale: Option<*const f32>,
}

/// A bf16 is the upper half of an f32: the first and the second of each pair, widened.
#[inline(always)]
fn widen(pairs: __m256i) -> [__m256; 2] {
    // SAFETY: the kernels that call this are only used where the processor has AVX2.
    unsafe {
        let upper = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
        [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(upper)]
    }
}

impl MicroKernel for Bf16Kernel {
    type Unit = i32;
    type Sum = __m256;
    type Total = __m256;
    type Right = __m256i;

    #[inline(always)]
    fn zero(self) -> __m256 {
        // SAFETY: `Bf16Kernel` is made only where the processor has AVX2.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    fn no_total(self) -> __m256 {
        self.zero()
    }

    #[inline(always)]
    unsafe fn start(self, _: usize, row: usize, _: usize, from: *const f32) -> __m256 {
        let Some(rescale) = self.rescale else { return self.zero() };
        // SAFETY: the caller's, and as above.
        unsafe { _mm256_mul_ps(_mm256_loadu_ps(from), _mm256_set1_ps(*rescale.add(row))) }
    }

    #[inline(always)]
    unsafe fn read(self, from: *const i32) -> __m256i {
        // SAFETY: the caller's, and as above.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    fn add_product(self, sum: __m256, left: i32, right: __m256i) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let [left_first, left_second] = widen(_mm256_set1_epi32(left));
            let [first, second] = widen(right);
            _mm256_fmadd_ps(left_second, second, _mm256_fmadd_ps(left_first, first, sum))
        }
    }

    #[inline(always)]
    unsafe fn end(self, sum: __m256, _: __m256, _: usize, _: usize, _: usize) -> __m256 {
        sum
    }

    #[inline(always)]
    unsafe fn store(self, total: __m256, to: *mut f32) {
        // SAFETY: the caller's, and as above.
        unsafe { _mm256_storeu_ps(to, total) }
    }
}

/// Adds the sums of a group of integers, which are exact, to a total.
///
/// # Safety
/// As for [`MicroKernel::end`]; the processor has AVX2 and FMA.
#[inline(always)]
unsafe fn add_scaled(
    sum: __m256i,
    total: __m256,
    scales: &Scales<'_>,
    group: usize,
    row: usize,
    column: usize,
) -> __m256 {
    // SAFETY: the caller's.
    unsafe {
        let columns = _mm256_loadu_ps(scales.columns.as_ptr().add(group * COLUMNS + column));
        let row = _mm256_set1_ps(*scales.rows.as_ptr().add(row * scales.groups + group));
        _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sum), columns), row, total)
    }
}

/// Four 8-bit integers at a time. Only to be used where the processor has AVX2.
///
/// `vpmaddubsw` adds two products in 16 bits: the magnitudes of weights times rows with the
/// weights' signs. Both are at most 127, so two products are at most 32,258 and nothing overflows.
#[derive(Clone, Copy)]
struct Int8Kernel<'a> {
    scales: Scales<'a>,
}

impl MicroKernel for Int8Kernel<'_> {
    type Unit = i32;
    type Sum = __m256i;
    type Total = __m256;
    type Right = __m256i;

    #[inline(always)]
    fn group(self) -> Option<usize> {
        Some(self.scales.group)
    }

    #[inline(always)]
    fn zero(self) -> __m256i {
        // SAFETY: `Int8Kernel` is made only where the processor has AVX2.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn no_total(self) -> __m256 {
        // SAFETY: `Int8Kernel` is made only where the processor has AVX2.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn start(self, _: usize, _: usize, _: usize, _: *const f32) -> __m256i {
        self.zero()
    }

    #[inline(always)]
    unsafe fn read(self, from: *const i32) -> __m256i {
        // SAFETY: the caller's, and as above.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    fn add_product(self, sum: __m256i, left: i32, right: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe {
            // Without the 128 that was added.
            let left = _mm256_xor_si256(_mm256_set1_epi32(left), _mm256_set1_epi32(0x8080_8080_u32.cast_signed()));
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(right), _mm256_sign_epi8(left, right));
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    unsafe fn end(self, sum: __m256i, total: __m256, group: usize, row: usize, column: usize) -> __m256 {
        // SAFETY: the caller's, and as above.
        unsafe { add_scaled(sum, total, &self.scales, group, row, column) }
    }

    #[inline(always)]
    unsafe fn store(self, total: __m256, to: *mut f32) {
        // SAFETY: the caller's, and as above.
        unsafe { _mm256_storeu_ps(to, total) }
    }
}

/// Four 8-bit integers at a time by `vpdpbusd`. Only to be used where the processor has AVX-VNNI.
#[derive(Clone, Copy)]
struct VnniKernel<'a> {
    scales: Scales<'a>,
}

impl MicroKernel for VnniKernel<'_> {
    type Unit = i32;
    type Sum = __m256i;
    type Total = __m256;
    type Right = __m256i;

    #[inline(always)]
    fn group(self) -> Option<usize> {
        Some(self.scales.group)
    }

    #[inline(always)]
    fn zero(self) -> __m256i {
        // SAFETY: `VnniKernel` is made only where the processor has AVX-VNNI.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn no_total(self) -> __m256 {
        // SAFETY: `VnniKernel` is made only where the processor has AVX-VNNI.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn start(self, group: usize, _: usize, column: usize, _: *const f32) -> __m256i {
        // SAFETY: the caller's, and as above.
        unsafe { _mm256_loadu_si256(self.scales.offsets.as_ptr().add(group * COLUMNS + column).cast()) }
    }

    #[inline(always)]
    unsafe fn read(self, from: *const i32) -> __m256i {
        // SAFETY: the caller's, and as above.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    fn add_product(self, sum: __m256i, left: i32, right: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_dpbusd_avx_epi32(sum, _mm256_set1_epi32(left), right) }
    }

    #[inline(always)]
    unsafe fn end(self, sum: __m256i, total: __m256, group: usize, row: usize, column: usize) -> __m256 {
        // SAFETY: the caller's, and as above.
        unsafe { add_scaled(sum, total, &self.scales, group, row, column) }
    }

    #[inline(always)]
    unsafe fn store(self, total: __m256, to: *mut f32) {
        // SAFETY: the caller's, and as above.
        unsafe { _mm256_storeu_ps(to, total) }
    }
}
