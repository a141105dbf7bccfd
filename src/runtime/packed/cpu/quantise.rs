//! Numbers as 8-bit integers with a scale for each group of a row.
//!
//! A group's scale is its largest magnitude over 127. NaN and infinities give a scale that is not
//! finite, so they reach the result.

#![expect(clippy::inline_always, reason = "what `dispatch` compiles per instruction set must be inlined into it")]

#[cfg(target_arch = "x86_64")]
use super::gemm::instructions::has_avx512;
use super::rows::vectorised;

/// Added to a number below 2^22, it leaves the nearest integer in the low bits.
const ROUND: f32 = 12_582_912.;
/// Offset that left sides of products add to their integers.
const BIAS: i32 = 128;

/// The integers of a row with 128 added, and the scale of each group of it.
pub(super) fn quantise_biased(row: &[f32], integers: &mut [u8], scales: &mut [f32], group: usize) {
    #[cfg(target_arch = "x86_64")]
    if has_avx512() {
        let groups = row.chunks(group).zip(integers.chunks_mut(group)).zip(scales);
        for ((row, integers), scale) in groups {
            // SAFETY: the processor was asked.
            *scale = unsafe { quantise_avx512(row, integers) };
        }
        return;
    }
    vectorised!(quantise_groups(row, integers, scales, group, |value| (value + BIAS) as u8));
}

/// The integers of a row, and the scale of each group of it.
pub(super) fn quantise_signed(row: &[f32], integers: &mut [i8], scales: &mut [f32], group: usize) {
    vectorised!(quantise_groups(row, integers, scales, group, |value| value as i8));
}

#[inline(always)]
fn quantise_groups<T>(
    row: &[f32],
    integers: &mut [T],
    scales: &mut [f32],
    group: usize,
    stored: impl Fn(i32) -> T + Copy,
) {
    for ((row, integers), scale) in row.chunks(group).zip(integers.chunks_mut(group)).zip(scales) {
        // As integers, because NaN is no number's maximum.
        let largest = row.iter().map(|value| value.to_bits() & 0x7fff_ffff).max().map_or(0., f32::from_bits);
        let inverse = inverse(largest);
        for (integer, value) in integers.iter_mut().zip(row) {
            let shifted = (value * inverse + ROUND).to_bits().cast_signed();
            *integer = stored(shifted.wrapping_sub(ROUND.to_bits().cast_signed()));
        }
        *scale = largest / 127.;
    }
}

#[inline(always)]
fn inverse(largest: f32) -> f32 {
    if largest > 0. { 127. / largest } else { 0. }
}

/// The integers of one group with 128 added; returns its scale.
///
/// # Safety
/// The processor has AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn quantise_avx512(source: &[f32], integers: &mut [u8]) -> f32 {
    use std::arch::x86_64::{
        __mmask16, _mm512_add_ps, _mm512_and_si512, _mm512_castps_si512, _mm512_mask_cvtepi32_storeu_epi8,
        _mm512_maskz_loadu_ps, _mm512_max_epu32, _mm512_mul_ps, _mm512_reduce_max_epu32, _mm512_set1_epi32,
        _mm512_set1_ps, _mm512_setzero_si512, _mm512_sub_epi32,
    };
    const LANES: usize = 16;
    assert!(source.len() <= integers.len());
    let mask = |first: usize| -> __mmask16 {
        let left = source.len() - first;
        if left < LANES { (1 << left) - 1 } else { __mmask16::MAX }
    };
    // SAFETY: masks hide what lies beyond the slices.
    unsafe {
        let load = |first: usize| _mm512_maskz_loadu_ps(mask(first), source.as_ptr().add(first));
        let mut largest = _mm512_setzero_si512();
        for first in (0..source.len()).step_by(LANES) {
            let magnitude = _mm512_and_si512(_mm512_castps_si512(load(first)), _mm512_set1_epi32(0x7fff_ffff));
            largest = _mm512_max_epu32(largest, magnitude);
        }
        let largest = f32::from_bits(_mm512_reduce_max_epu32(largest));
        let inverse = _mm512_set1_ps(inverse(largest));
        let offset = _mm512_set1_epi32(ROUND.to_bits().cast_signed() - BIAS);
        for first in (0..source.len()).step_by(LANES) {
            let shifted = _mm512_add_ps(_mm512_mul_ps(load(first), inverse), _mm512_set1_ps(ROUND));
            let values = _mm512_sub_epi32(_mm512_castps_si512(shifted), offset);
            _mm512_mask_cvtepi32_storeu_epi8(integers.as_mut_ptr().add(first).cast(), mask(first), values);
        }
        largest / 127.
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn integers_are_off_by_half_a_step_at_most(
            values in prop::collection::vec(-1e3f32..1e3, 1..100), group in 1usize..40,
        ) {
            let (mut signed, mut biased) = (vec![0; values.len()], vec![0; values.len()]);
            let mut scales = [vec![0.; values.len().div_ceil(group)], vec![0.; values.len().div_ceil(group)]];
            quantise_signed(&values, &mut signed, &mut scales[0], group);
            quantise_biased(&values, &mut biased, &mut scales[1], group);
            prop_assert_eq!(&scales[0], &scales[1]);
            for (place, value) in values.iter().enumerate() {
                let (integer, scale) = (signed[place], scales[0][place / group]);
                prop_assert_eq!(i32::from(integer) + BIAS, i32::from(biased[place]));
                prop_assert!((f32::from(integer) * scale - value).abs() <= scale * 0.501, "{value} {integer} {scale}");
            }
        }

        #[test]
        fn a_number_that_is_not_finite_gives_a_scale_that_is_not(
            place in 0usize..100, value in prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
        ) {
            let mut row = [1f32; 100];
            row[place] = value;
            let mut scales = [0.; 1];
            quantise_signed(&row, &mut [0; 100], &mut scales, 100);
            prop_assert!(!scales[0].is_finite());
            quantise_biased(&row, &mut [0; 100], &mut scales, 100);
            prop_assert!(!scales[0].is_finite());
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        let (mut integers, mut scales) = ([1; 20], [1.; 2]);
        quantise_biased(&[0.; 20], &mut integers, &mut scales, 16);
        assert_eq!(integers, [128; 20]);
        assert!(scales.iter().all(|scale| scale.abs() < f32::MIN_POSITIVE));
    }
}
