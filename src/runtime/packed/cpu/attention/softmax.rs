//! The parts of a softmax over one line of scores, to be called where loops are vectorised.

#![expect(clippy::inline_always, reason = "what `vectorised` compiles per instruction set must be inlined into it")]

use crate::runtime::packed::cpu::rows::{LANES, across, exp};

/// The largest value.
#[inline(always)]
pub(super) fn largest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    rest.iter().fold(across(lanes, |a, b| if b > a { b } else { a }), |a, &b| if b > a { b } else { a })
}

/// Replaces each value by `exp(value - maximum)` and returns their sum.
#[inline(always)]
pub(super) fn exponentials(values: &mut [f32], maximum: f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *value = exp(*value - maximum);
            *sum += *value;
        }
    }
    let mut total = across(sums, |a, b| a + b);
    for value in rest {
        *value = exp(*value - maximum);
        total += *value;
    }
    total
}
