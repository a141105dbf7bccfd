//! Row operations between matrix products: norms, rotary positions, activations, conversions.
//!
//! Plain loops over slices, each inlined into a closure that [`vectorised`] compiles once for every
//! instruction set.

#![expect(clippy::inline_always, reason = "what `dispatch` compiles per instruction set must be inlined into it")]

use half::bf16;

use crate::runtime::spec::Activation;

/// Independent sums that a loop keeps, so that the compiler may add in vector registers.
pub(super) const LANES: usize = 16;

/// Evaluates an expression with the best instructions of this processor, found at run time.
/// Functions that it calls profit only if they are `#[inline(always)]`.
macro_rules! vectorised {
    ($work:expr) => {
        $crate::runtime::packed::cpu::rows::dispatch(
            #[inline(always)]
            || $work,
        )
    };
}
pub(super) use vectorised;

/// Expansion of [`vectorised`]. It takes an `FnOnce`, because the compiler inlines such a closure
/// whole; another closure would be called through a shim, which is not inlined.
pub(super) fn dispatch<R>(work: impl FnOnce() -> R) -> R {
    crate::runtime::packed::cpu::gemm::instructions::arch().dispatch(work)
}

/// `source / sqrt(mean(source^2) + eps) * weight`.
#[inline(always)]
pub(super) fn rms_norm(source: &[f32], weight: &[f32], eps: f32, target: &mut [f32]) {
    let scale = (square_sum(source) / source.len() as f32 + eps).sqrt().recip();
    for ((target, value), weight) in target.iter_mut().zip(source).zip(weight) {
        *target = value * scale * weight;
    }
}

/// `(source - mean) / sqrt(variance + eps) * weight + bias`; without a bias where it is empty.
#[inline(always)]
pub(super) fn layer_norm(source: &[f32], weight: &[f32], bias: &[f32], eps: f32, target: &mut [f32]) {
    let mean = sum(source, |value| value) / source.len() as f32;
    let variance = sum(source, |value| (value - mean) * (value - mean)) / source.len() as f32;
    let scale = (variance + eps).sqrt().recip();
    for ((target, value), weight) in target.iter_mut().zip(source).zip(weight) {
        *target = (value - mean) * scale * weight;
    }
    if !bias.is_empty() {
        add(target, bias);
    }
}

/// [`layer_norm`] of a row onto itself.
#[inline(always)]
pub(super) fn layer_norm_in_place(row: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let mean = sum(row, |value| value) / row.len() as f32;
    let variance = sum(row, |value| (value - mean) * (value - mean)) / row.len() as f32;
    let scale = (variance + eps).sqrt().recip();
    for (value, weight) in row.iter_mut().zip(weight) {
        *value = (*value - mean) * scale * weight;
    }
    if !bias.is_empty() {
        add(row, bias);
    }
}

/// [`rms_norm`] of a row onto itself.
#[inline(always)]
pub(super) fn rms_norm_in_place(row: &mut [f32], weight: &[f32], eps: f32) {
    let scale = (square_sum(row) / row.len() as f32 + eps).sqrt().recip();
    for (value, weight) in row.iter_mut().zip(weight) {
        *value *= scale * weight;
    }
}

#[inline(always)]
fn square_sum(row: &[f32]) -> f32 {
    sum(row, |value| value * value)
}

/// The sum of `term` over a row.
#[inline(always)]
fn sum(row: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += term(*value);
        }
    }
    across(sums, |a, b| a + b) + rest.iter().map(|value| term(*value)).sum::<f32>()
}

/// All lanes in one, by halves: a chain of sixteen would wait for each step.
#[inline(always)]
pub(super) fn across(lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|n| join(lanes[n], lanes[n + 8]));
    let four: [f32; 4] = std::array::from_fn(|n| join(eight[n], eight[n + 4]));
    join(join(four[0], four[2]), join(four[1], four[3]))
}

#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    across(sums, |a, b| a + b) + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// Rotates a head by its position: value `i` of the first half with value `i` of the second, by the
/// angle whose cosine and sine are given (Su et al. 2021, in the halves of GPT-NeoX).
#[inline(always)]
pub(super) fn apply_rope(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

/// `activation(gate) * up`.
#[inline(always)]
pub(super) fn gated(activation: Activation, gate: &[f32], up: &[f32], target: &mut [f32]) {
    #[inline(always)]
    fn each(gate: &[f32], up: &[f32], target: &mut [f32], activation: impl Fn(f32) -> f32) {
        for ((target, gate), up) in target.iter_mut().zip(gate).zip(up) {
            *target = activation(*gate) * up;
        }
    }
    match activation {
        Activation::Silu => each(gate, up, target, silu),
        Activation::GeluErf => each(gate, up, target, gelu_erf),
        Activation::GeluTanh => each(gate, up, target, gelu_tanh),
        Activation::Relu => each(gate, up, target, relu),
        Activation::Tanh => each(gate, up, target, tanh),
    }
}

/// Replaces each value by its activation.
#[inline(always)]
pub(super) fn activate(activation: Activation, row: &mut [f32]) {
    #[inline(always)]
    fn each(row: &mut [f32], activation: impl Fn(f32) -> f32) {
        for value in row {
            *value = activation(*value);
        }
    }
    match activation {
        Activation::Silu => each(row, silu),
        Activation::GeluErf => each(row, gelu_erf),
        Activation::GeluTanh => each(row, gelu_tanh),
        Activation::Relu => each(row, relu),
        Activation::Tanh => each(row, tanh),
    }
}

/// Replaces each score by `cap * tanh(score / cap)`.
#[inline(always)]
pub(super) fn soft_cap(scores: &mut [f32], cap: f32) {
    let inverse = cap.recip();
    for score in scores {
        *score = cap * tanh(*score * inverse);
    }
}

/// `target += source`.
#[inline(always)]
pub(super) fn add(target: &mut [f32], source: &[f32]) {
    for (target, source) in target.iter_mut().zip(source) {
        *target += source;
    }
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

#[inline(always)]
fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1. + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    // sqrt(2 / pi).
    const FACTOR: f32 = 0.797_884_6;
    x * sigmoid(2. * FACTOR * (x + 0.044_715 * x * x * x))
}

/// NaN stays NaN.
#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0. { 0. } else { x }
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    let small = exp(-2. * x.abs());
    let magnitude = (1. - small) / (1. + small);
    // Near 0 the difference has no digits left; three terms of the series have all.
    let square = x * x;
    let series = x.abs() * (1. + square * (-1. / 3. + square * (2. / 15.)));
    let magnitude = if square < 0.01 { series } else { magnitude };
    if x < 0. { -magnitude } else { magnitude }
}

/// The error function, to a few units in the last place: a rational approximation on [-4, 4],
/// beyond which it is 1 in f32. NaN stays NaN.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let above = if x > 4. { 4. } else { x };
    let x = if above < -4. { -4. } else { above };
    let square = x * x;
    let mut numerator = -2.726_142_3e-10;
    numerator = numerator * square + 2.770_681_4e-8;
    numerator = numerator * square - 2.101_024_1e-6;
    numerator = numerator * square - 5.692_506_5e-5;
    numerator = numerator * square - 7.349_906_3e-4;
    numerator = numerator * square - 2.954_6e-3;
    numerator = numerator * square - 1.609_603_3e-2;
    let mut denominator = -1.456_607_2e-5;
    denominator = denominator * square - 2.133_740_6e-4;
    denominator = denominator * square - 1.682_827e-3;
    denominator = denominator * square - 7.373_329e-3;
    denominator = denominator * square - 1.426_473_9e-2;
    x * numerator / denominator
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    let small = exp(-x.abs());
    let of_magnitude = (1. + small).recip();
    if x < 0. { small * of_magnitude } else { of_magnitude }
}

/// `e^x` for `x <= 0`, to two units in the last place; 0 below -87. NaN stays NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; `e^r` by the polynomial of Cephes' `expf`, `2^n`
/// through the exponent bits. Adding 1.5 * 2^23 leaves the rounded `n` in the low bits of the
/// mantissa.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.;
    let clamped = if x < -87. { -87. } else { x };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first exact in few bits.
    let r = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut polynomial = 1.987_569_1e-4;
    polynomial = polynomial * r + 1.398_2e-3;
    polynomial = polynomial * r + 8.333_452e-3;
    polynomial = polynomial * r + 4.166_579_6e-2;
    polynomial = polynomial * r + 1.666_666_5e-1;
    polynomial = polynomial * r + 0.5;
    let mantissa = polynomial * r * r + r + 1.;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87. { 0. } else { mantissa * power }
}

/// Rounds to the nearest bf16, ties to even. NaN stays NaN.
#[inline(always)]
pub(super) fn to_bf16(source: &[f32], target: &mut [bf16]) {
    for (target, value) in target.iter_mut().zip(source) {
        let bits = value.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
        let quiet = (bits >> 16) as u16 | 0x40;
        *target = bf16::from_bits(if value.is_nan() { quiet } else { rounded });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_exponential_is_within_two_units_in_the_last_place(x in -87f32..=0.) {
            let exact = f64::from(x).exp();
            prop_assert!((f64::from(exp(x)) - exact).abs() <= exact * 2.4e-7, "{x}: {} {exact}", exp(x));
        }

        #[test]
        fn activations_are_their_formulas(x in -20f32..20., up in -10f32..10.) {
            let wide = f64::from(x);
            let cubic = (2. / std::f64::consts::PI).sqrt() * (wide + 0.044_715 * wide.powi(3));
            for (activation, expected) in [
                (Activation::Silu, wide / (1. + (-wide).exp())),
                (Activation::GeluErf, wide * (1. + candle_core::cpu::erf::erf_f64(wide / 2f64.sqrt())) / 2.),
                (Activation::GeluTanh, wide * (1. + cubic.tanh()) / 2.),
                (Activation::Relu, wide.max(0.)),
                (Activation::Tanh, wide.tanh()),
            ] {
                let (mut row, mut product) = ([x], [0.]);
                vectorised!(activate(activation, &mut row));
                vectorised!(gated(activation, &[x], &[up], &mut product));
                let allowed = 4e-7 * wide.abs().max(1.);
                prop_assert!((f64::from(row[0]) - expected).abs() <= allowed, "{activation:?} {x}: {} {expected}", row[0]);
                let expected = expected * f64::from(up);
                prop_assert!((f64::from(product[0]) - expected).abs() <= 10. * allowed, "{activation:?} {x} {up}");
            }
        }

        #[test]
        fn small_values_keep_their_digits(x in -0.3f32..0.3) {
            let wide = f64::from(x);
            for (found, expected) in [(tanh(x), wide.tanh()), (erf(x), candle_core::cpu::erf::erf_f64(wide))] {
                prop_assert!((f64::from(found) - expected).abs() <= 1e-6 * wide.abs(), "{x}: {found} {expected}");
            }
        }

        #[test]
        fn rounding_to_bf16_is_that_of_half(bits: u32) {
            let value = f32::from_bits(bits);
            let mut narrowed = [bf16::ZERO];
            vectorised!(to_bf16(&[value], &mut narrowed));
            prop_assert_eq!(narrowed[0].to_bits(), bf16::from_f32(value).to_bits());
        }

        #[test]
        fn a_norm_is_its_formula(row in prop::collection::vec(-1e2f32..1e2, 1..80)) {
            let weight: Vec<f32> = (0..row.len()).map(|n| n as f32 * 0.1 - 1.).collect();
            let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / row.len() as f64;
            let (mut target, mut own) = (vec![0.; row.len()], row.clone());
            let mut centred = (row.clone(), vec![0.; row.len()]);
            vectorised!(layer_norm_in_place(&mut centred.0, &weight, &weight, 1e-3));
            vectorised!(layer_norm(&row, &weight, &weight, 1e-3, &mut centred.1));
            let centre = row.iter().map(|x| f64::from(*x)).sum::<f64>() / row.len() as f64;
            let variance = row.iter().map(|x| (f64::from(*x) - centre).powi(2)).sum::<f64>() / row.len() as f64;
            vectorised!(rms_norm(&row, &weight, 1e-6, &mut target));
            vectorised!(rms_norm_in_place(&mut own, &weight, 1e-6));
            for n in 0..row.len() {
                let expected = f64::from(row[n]) / (mean + 1e-6).sqrt() * f64::from(weight[n]);
                prop_assert!((f64::from(target[n]) - expected).abs() <= 1e-5 * expected.abs() + 1e-7);
                prop_assert!((f64::from(own[n]) - expected).abs() <= 1e-5 * expected.abs() + 1e-7);
                let expected = (f64::from(row[n]) - centre) / (variance + 1e-3).sqrt() * f64::from(weight[n]);
                for found in [centred.0[n], centred.1[n]] {
                    let off = f64::from(found) - expected - f64::from(weight[n]);
                    prop_assert!(off.abs() <= 1e-4 * (1. + expected.abs()), "{found} {expected}");
                }
            }
        }
    }

    #[test]
    fn nan_and_infinity_survive() {
        for value in [f32::NAN, f32::INFINITY] {
            let mut row = [1f32; 20];
            row[3] = value;
            let mut gated = [0.; 20];
            super::gated(Activation::Silu, &row, &[1.; 20], &mut gated);
            assert!(!gated[3].is_finite());
        }
        for function in [exp, erf, tanh, relu, gelu_erf, gelu_tanh] {
            assert!(function(f32::NAN).is_nan());
        }
    }

    #[test]
    fn a_quarter_turn_swaps_the_halves() {
        let mut head = [1., 2., 3., 4.];
        apply_rope(&mut head, &[0., 0.], &[1., 1.]);
        assert_eq!(head.map(|value| value as i32), [-3, -4, 1, 2]);
    }
}
