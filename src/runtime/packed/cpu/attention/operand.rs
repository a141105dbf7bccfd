//! The types that attention multiplies, and how queries, keys and values become them.

#![expect(clippy::inline_always, reason = "what `dispatch` compiles per instruction set must be inlined into it")]

use half::bf16;

use crate::runtime::packed::cpu::gemm::{COLUMNS, Element};
use crate::runtime::packed::cpu::rows;

/// The type that attention multiplies.
pub(super) trait Operand: Element<Lhs = Self> {
    /// Writes the units of a row, scaled, `distance` units apart.
    fn scatter(row: &[f32], scale: f32, target: &mut [Self], distance: usize);

    /// Writes two neighbours along the depth as units; the first alone where there is no second one or no room for it.
    fn interleave(first: &[f32], second: Option<&[f32]>, target: &mut [Self]);

    /// `row` in this type: itself, or converted in `target`.
    fn as_operand<'a>(row: &'a [f32], target: &'a mut [Self]) -> &'a [Self];
}

impl Operand for f32 {
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
    fn as_operand<'a>(row: &'a [f32], _: &'a mut [Self]) -> &'a [Self] {
        row
    }
}

impl Operand for bf16 {
    #[inline(always)]
    fn scatter(row: &[f32], scale: f32, target: &mut [Self], distance: usize) {
        // Narrowed in vectors, then moved a unit at a time.
        let (mut scaled, mut rounded) = ([0.; COLUMNS], [Self::ZERO; COLUMNS]);
        let targets = target.chunks_mut(COLUMNS * distance);
        for (source, target) in row.chunks(COLUMNS).zip(targets) {
            for (scaled, value) in scaled.iter_mut().zip(source) {
                *scaled = value * scale;
            }
            rows::to_bf16(&scaled, &mut rounded);
            let units = rounded[..source.len()].chunks_exact(Self::UNIT);
            for (target, unit) in target.chunks_mut(Self::UNIT * distance).zip(units) {
                target[..Self::UNIT].copy_from_slice(unit);
            }
        }
    }

    #[inline(always)]
    fn interleave(first: &[f32], second: Option<&[f32]>, target: &mut [Self]) {
        let (mut first_bf16, mut second_bf16) = ([Self::ZERO; COLUMNS], [Self::ZERO; COLUMNS]);
        rows::to_bf16(first, &mut first_bf16);
        if let Some(second) = second {
            rows::to_bf16(second, &mut second_bf16);
        }
        for ((unit, first), second) in target.chunks_exact_mut(Self::UNIT).zip(first_bf16).zip(second_bf16) {
            unit.copy_from_slice(&[first, second]);
        }
    }

    #[inline(always)]
    fn as_operand<'a>(row: &'a [f32], target: &'a mut [Self]) -> &'a [Self] {
        let target = &mut target[..row.len()];
        rows::to_bf16(row, target);
        target
    }
}
