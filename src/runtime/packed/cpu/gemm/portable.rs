//! Kernels of plain loops, eight sums at a time, for processors without vector instructions.

#![expect(clippy::inline_always, reason = "what `dispatch` compiles per instruction set must be inlined into it")]

use half::bf16;

use super::{COLUMNS, MicroKernel, Scales};

#[derive(Clone, Copy)]
pub(super) struct Bf16Kernel {
    pub rescale: Option<*const f32>,
}

impl MicroKernel for Bf16Kernel {
    type Unit = [bf16; 2];
    type Sum = [f32; 8];
    type Total = [f32; 8];
    type Right = [[bf16; 2]; 8];

    #[inline(always)]
    fn zero(self) -> [f32; 8] {
        [0.; 8]
    }

    #[inline(always)]
    fn no_total(self) -> [f32; 8] {
        self.zero()
    }

    #[inline(always)]
    unsafe fn start(self, _: usize, row: usize, _: usize, from: *const f32) -> [f32; 8] {
        let Some(rescale) = self.rescale else { return self.zero() };
        // SAFETY: the caller's.
        unsafe { from.cast::<[f32; 8]>().read_unaligned().map(|value| value * *rescale.add(row)) }
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
    unsafe fn end(self, sum: [f32; 8], _: [f32; 8], _: usize, _: usize, _: usize) -> [f32; 8] {
        sum
    }

    #[inline(always)]
    unsafe fn store(self, total: [f32; 8], to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(total) }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Int8Kernel<'a> {
    pub scales: Scales<'a>,
}

impl MicroKernel for Int8Kernel<'_> {
    type Unit = [u8; 4];
    type Sum = [i32; 8];
    type Total = [f32; 8];
    type Right = [[i8; 4]; 8];

    #[inline(always)]
    fn group(self) -> Option<usize> {
        Some(self.scales.group)
    }

    #[inline(always)]
    fn zero(self) -> [i32; 8] {
        [0; 8]
    }

    #[inline(always)]
    fn no_total(self) -> [f32; 8] {
        [0.; 8]
    }

    #[inline(always)]
    unsafe fn start(self, group: usize, _: usize, column: usize, _: *const f32) -> [i32; 8] {
        let mut sums = [0; 8];
        sums.copy_from_slice(&self.scales.offsets[group * COLUMNS + column..][..8]);
        sums
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
    unsafe fn end(self, sum: [i32; 8], total: [f32; 8], group: usize, row: usize, column: usize) -> [f32; 8] {
        let Scales { groups, rows, columns, .. } = self.scales;
        let (row, first) = (rows[row * groups + group], group * COLUMNS + column);
        std::array::from_fn(|n| total[n] + sum[n] as f32 * columns[first + n] * row)
    }

    #[inline(always)]
    unsafe fn store(self, total: [f32; 8], to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(total) }
    }
}
