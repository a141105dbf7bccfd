//! The types that attention multiplies, and how queries, keys and values become them.

#![expect(clippy::inline_always, reason = "what `dispatch` compiles per instruction set must be inlined into it")]

use half::bf16;

use crate::runtime::packed::cpu::gemm::{COLUMNS, Element};
use crate::runtime::packed::cpu::rows;
use crate::runtime::packed::cpu::transpose::{SIDE, Square, transpose};

/// The type that attention multiplies. A unit has 32 bits: one f32, or two neighbours along the
/// depth in bf16.
pub(super) trait Operand: Element<Lhs = Self> {
    /// A row in this type, scaled.
    fn scaled(row: &[f32], scale: f32, target: &mut [Self]);

    /// Loads as many units as a [`Square`] is wide; `row` has at least as many elements.
    fn units(row: &[f32]) -> [u32; SIDE];

    /// Writes two neighbours along the depth as units; the first alone where there is no second one
    /// or no room for it.
    fn interleave(first: &[f32], second: Option<&[f32]>, target: &mut [Self]);

    /// `row` in this type: itself, or converted in `target`.
    fn as_operand<'a>(row: &'a [f32], target: &'a mut [Self]) -> &'a [Self];
}

/// Writes `count` keys, at most 32, as a panel, `[dim, 32]` in units. The other columns hold values
/// that no weight is multiplied with.
#[inline(always)]
pub(super) fn fill_key_panel<'a, E: Operand>(count: usize, key: impl Fn(usize) -> &'a [f32], panel: &mut [E]) {
    let mut square: Square = [[0; SIDE]; SIDE];
    let width = SIDE * E::UNIT;
    for first in (0..count).step_by(SIDE) {
        for (part, target) in panel.chunks_exact_mut(width * COLUMNS).enumerate() {
            for (row, units) in square.iter_mut().enumerate().take(count - first) {
                *units = E::units(&key(first + row)[part * width..][..width]);
            }
            transpose(&square, &mut target[first * E::UNIT..], COLUMNS * E::UNIT);
        }
    }
}

impl Operand for f32 {
    #[inline(always)]
    fn scaled(row: &[f32], scale: f32, target: &mut [Self]) {
        for (target, value) in target.iter_mut().zip(row) {
            *target = value * scale;
        }
    }

    #[inline(always)]
    fn units(row: &[f32]) -> [u32; SIDE] {
        let mut units = [0; SIDE];
        for (unit, value) in units.iter_mut().zip(row) {
            *unit = value.to_bits();
        }
        units
    }

    #[inline(always)]
    fn interleave(first: &[f32], _: Option<&[f32]>, target: &mut [Self]) {
        target.copy_from_slice(first);
    }

    #[inline(always)]
    fn as_operand<'a>(row: &'a [f32], _: &'a mut [Self]) -> &'a [Self] {
        row
    }
}

impl Operand for bf16 {
    #[inline(always)]
    fn scaled(row: &[f32], scale: f32, target: &mut [Self]) {
        let mut scaled = [0.; COLUMNS];
        for (source, target) in row.chunks(COLUMNS).zip(target.chunks_mut(COLUMNS)) {
            for (scaled, value) in scaled.iter_mut().zip(source) {
                *scaled = value * scale;
            }
            rows::to_bf16(&scaled, target);
        }
    }

    #[inline(always)]
    fn units(row: &[f32]) -> [u32; SIDE] {
        let mut narrow = [Self::ZERO; 2 * SIDE];
        rows::to_bf16(row, &mut narrow);
        let mut units = [0; SIDE];
        for (unit, [first, second]) in units.iter_mut().zip(narrow.as_chunks::<2>().0) {
            *unit = u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16;
        }
        units.map(u32::to_le)
    }

    #[inline(always)]
    fn interleave(first: &[f32], second: Option<&[f32]>, target: &mut [Self]) {
        let (mut first_bf16, mut second_bf16) = ([Self::ZERO; COLUMNS], [Self::ZERO; COLUMNS]);
        rows::to_bf16(first, &mut first_bf16);
        if let Some(second) = second {
            rows::to_bf16(second, &mut second_bf16);
        }
        let (units, _) = target.as_chunks_mut::<2>();
        for ((unit, first), second) in units.iter_mut().zip(first_bf16).zip(second_bf16) {
            *unit = [first, second];
        }
    }

    #[inline(always)]
    fn as_operand<'a>(row: &'a [f32], target: &'a mut [Self]) -> &'a [Self] {
        let target = &mut target[..row.len()];
        rows::to_bf16(row, target);
        target
    }
}
