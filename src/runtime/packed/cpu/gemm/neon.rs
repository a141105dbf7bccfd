//! Kernels for 64-bit ARM, in vectors of 128 bits.
//!
//! `sdot` and `bfdot` are inline assembly: Rust's intrinsics for them are not stable.

#![expect(clippy::inline_always, reason = "what has an instruction set must be inlined into what enables it")]

use std::arch::aarch64::{
    float32x4_t, int8x16_t, int32x4_t, uint16x8_t, vandq_u32, vcvtq_f32_s32, vdupq_n_f32, vdupq_n_s32, vdupq_n_u32,
    vfmaq_n_f32, vget_low_s8, vld1q_f32, vld1q_s8, vld1q_u16, vmull_high_s8, vmull_s8, vmulq_f32, vmulq_n_f32,
    vpadalq_s16, vpaddq_s16, vreinterpretq_f32_u32, vreinterpretq_s8_u32, vreinterpretq_u32_u16, vshlq_n_u32,
    vst1q_f32,
};
use std::arch::asm;

use half::bf16;

use super::{COLUMNS, MicroKernel, Scales, TileProduct};

/// Two numbers in bf16 at a time, each widened to f32.
///
/// # Safety
/// The product was checked.
pub(super) unsafe fn multiply_bf16(product: &TileProduct<'_, bf16>, rescale: Option<*const f32>) {
    // SAFETY: the caller's; every processor of this architecture has NEON; 8 * 4 is COLUMNS.
    unsafe { product.run::<_, 2, 8>(Bf16Kernel::<false> { rescale }) }
}

/// # Safety
/// The processor has FEAT_BF16, and the product was checked.
#[target_feature(enable = "neon,bf16")]
pub(super) unsafe fn multiply_bf16_dot(product: &TileProduct<'_, bf16>, rescale: Option<*const f32>) {
    // SAFETY: as above.
    unsafe { product.run::<_, 2, 8>(Bf16Kernel::<true> { rescale }) }
}

/// # Safety
/// The product was checked.
pub(super) unsafe fn multiply_int8(product: &TileProduct<'_, i8>, scales: Scales<'_>) {
    // SAFETY: as above.
    unsafe { product.run::<_, 2, 8>(Int8Kernel::<false> { scales }) }
}

/// # Safety
/// The processor has FEAT_DotProd, and the product was checked.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn multiply_int8_dot(product: &TileProduct<'_, i8>, scales: Scales<'_>) {
    // SAFETY: as above.
    unsafe { product.run::<_, 2, 8>(Int8Kernel::<true> { scales }) }
}

/// Pairs of bf16. With `DOT`, `bfdot`, which the processor must have; else both are widened to f32.
#[derive(Clone, Copy)]
struct Bf16Kernel<const DOT: bool> {
    rescale: Option<*const f32>,
}

impl<const DOT: bool> MicroKernel for Bf16Kernel<DOT> {
    type Unit = u32;
    type Sum = float32x4_t;
    type Total = float32x4_t;
    type Right = uint16x8_t;

    #[inline(always)]
    fn zero(self) -> float32x4_t {
        // SAFETY: every processor of this architecture has NEON.
        unsafe { vdupq_n_f32(0.) }
    }

    #[inline(always)]
    fn no_total(self) -> float32x4_t {
        self.zero()
    }

    #[inline(always)]
    unsafe fn start(self, _: usize, row: usize, _: usize, from: *const f32) -> float32x4_t {
        let Some(rescale) = self.rescale else { return self.zero() };
        // SAFETY: the caller's, and as above.
        unsafe { vmulq_n_f32(vld1q_f32(from), *rescale.add(row)) }
    }

    #[inline(always)]
    unsafe fn read(self, from: *const u32) -> uint16x8_t {
        // SAFETY: the caller's, and as above.
        unsafe { vld1q_u16(from.cast()) }
    }

    #[inline(always)]
    fn add_product(self, sum: float32x4_t, left: u32, right: uint16x8_t) -> float32x4_t {
        const UPPER: u32 = 0xffff_0000;
        if DOT {
            let result;
            // SAFETY: `Bf16Kernel<true>` is made only where the processor has the instruction.
            unsafe {
                asm!(
                    "bfdot {sum:v}.4s, {right:v}.8h, {left:v}.2h[0]",
                    sum = inout(vreg) sum => result,
                    right = in(vreg) right,
                    left = in(vreg) f32::from_bits(left),
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            return result;
        }
        // SAFETY: as for `zero`.
        unsafe {
            // A bf16 is the upper half of an f32.
            let right = vreinterpretq_u32_u16(right);
            let first = vreinterpretq_f32_u32(vshlq_n_u32::<16>(right));
            let second = vreinterpretq_f32_u32(vandq_u32(right, vdupq_n_u32(UPPER)));
            let sum = vfmaq_n_f32(sum, first, f32::from_bits(left << 16));
            vfmaq_n_f32(sum, second, f32::from_bits(left & UPPER))
        }
    }

    #[inline(always)]
    unsafe fn end(self, sum: float32x4_t, _: float32x4_t, _: usize, _: usize, _: usize) -> float32x4_t {
        sum
    }

    #[inline(always)]
    unsafe fn store(self, total: float32x4_t, to: *mut f32) {
        // SAFETY: the caller's, and as above.
        unsafe { vst1q_f32(to, total) }
    }
}

/// Four 8-bit integers at a time. `DOT` takes `sdot`, only where the processor has it.
///
/// Without it, two products are added in 16 bits. The integers of both sides are at most 127 in
/// magnitude, so two products are at most 32,258 and nothing overflows.
#[derive(Clone, Copy)]
struct Int8Kernel<'a, const DOT: bool> {
    scales: Scales<'a>,
}

impl<const DOT: bool> MicroKernel for Int8Kernel<'_, DOT> {
    type Unit = u32;
    type Sum = int32x4_t;
    type Total = float32x4_t;
    type Right = int8x16_t;

    #[inline(always)]
    fn group(self) -> Option<usize> {
        Some(self.scales.group)
    }

    #[inline(always)]
    fn zero(self) -> int32x4_t {
        // SAFETY: every processor of this architecture has NEON.
        unsafe { vdupq_n_s32(0) }
    }

    #[inline(always)]
    fn no_total(self) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vdupq_n_f32(0.) }
    }

    #[inline(always)]
    unsafe fn start(self, _: usize, _: usize, _: usize, _: *const f32) -> int32x4_t {
        self.zero()
    }

    #[inline(always)]
    unsafe fn read(self, from: *const u32) -> int8x16_t {
        // SAFETY: the caller's, and as above.
        unsafe { vld1q_s8(from.cast()) }
    }

    #[inline(always)]
    fn add_product(self, sum: int32x4_t, left: u32, right: int8x16_t) -> int32x4_t {
        // Without the 128 that was added.
        let left = left ^ 0x8080_8080;
        if DOT {
            let result;
            // SAFETY: `Int8Kernel<true>` is made only where the processor has the instruction.
            unsafe {
                asm!(
                    "sdot {sum:v}.4s, {right:v}.16b, {left:v}.4b[0]",
                    sum = inout(vreg) sum => result,
                    right = in(vreg) right,
                    left = in(vreg) f32::from_bits(left),
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            return result;
        }
        // SAFETY: as for `zero`.
        unsafe {
            let left = vreinterpretq_s8_u32(vdupq_n_u32(left));
            let low = vmull_s8(vget_low_s8(right), vget_low_s8(left));
            vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(right, left)))
        }
    }

    #[inline(always)]
    unsafe fn end(self, sum: int32x4_t, total: float32x4_t, group: usize, row: usize, column: usize) -> float32x4_t {
        let Scales { groups, rows, columns, .. } = self.scales;
        // SAFETY: the caller's, and as above.
        unsafe {
            let columns = vld1q_f32(columns.as_ptr().add(group * COLUMNS + column));
            let row = *rows.as_ptr().add(row * groups + group);
            vfmaq_n_f32(total, vmulq_f32(vcvtq_f32_s32(sum), columns), row)
        }
    }

    #[inline(always)]
    unsafe fn store(self, total: float32x4_t, to: *mut f32) {
        // SAFETY: the caller's, and as above.
        unsafe { vst1q_f32(to, total) }
    }
}
