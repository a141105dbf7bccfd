use candle_core::{D, Device, Result, Tensor};

use super::check::relative_error;
use super::{Angles, LogSums, NormRope, add_rms_norm, gated, merge};
use crate::runtime::packed::candle_layers::activate;
use crate::runtime::spec::Activation;

fn numbers(shape: &[usize], seed: usize) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|n| ((n + seed) * 7919 % 2003) as f32 / 500. - 2.).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn list(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_near(found: &Tensor, expected: &Tensor) {
    assert_eq!(found.dims(), expected.dims());
    let error = relative_error(&list(found), &list(expected));
    assert!(error < 1e-5, "{error}");
}

/// `x / rms(x) * weight` over the last dimension.
fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(weight)
}

#[test]
fn a_sum_and_its_norm_are_those_of_two_operations_also_for_parts_of_rows() {
    let (x, y, weight) = (numbers(&[5, 40], 0).narrow(1, 8, 24).unwrap(), numbers(&[5, 24], 3), numbers(&[24], 7));
    let (sum, normed) = add_rms_norm(&x, &y, &weight, 1e-5).unwrap();
    let expected = (&x + &y).unwrap();
    assert_near(&sum, &expected);
    assert_near(&normed, &rms_norm(&expected, &weight, 1e-5).unwrap());
}

#[test]
fn heads_are_normalised_and_rotated_as_by_candles_operations() {
    let (rows, heads, dim) = (6, 3, 8);
    let x = numbers(&[rows, 40], 1).narrow(1, 4, heads * dim).unwrap();
    let weight = numbers(&[dim], 5);
    let (cosines, sines) = (numbers(&[11, dim / 2], 2), numbers(&[11, dim / 2], 3));
    let positions = Tensor::new(&[3u32, 0, 10, 1, 1, 7], &Device::Cpu).unwrap();
    let apart = x.contiguous().unwrap().reshape((rows, heads, dim)).unwrap();
    let turned = |x: &Tensor| {
        let select = |table: &Tensor| table.index_select(&positions, 0).unwrap();
        let x = x.unsqueeze(0).unwrap().contiguous().unwrap();
        candle_nn::rotary_emb::rope_thd(&x, &select(&cosines), &select(&sines)).unwrap().squeeze(0).unwrap()
    };
    let normed = rms_norm(&apart, &weight, 1e-6).unwrap();
    let angles = Angles { cosines: &cosines, sines: &sines, positions: &positions };
    let apply = |norm, angles, room| NormRope { heads, dim, norm, angles, room }.apply(&x).unwrap();
    assert_near(&apply(None, None, 0), &apart);
    assert_near(&apply(None, Some(angles), 0), &turned(&apart));
    assert_near(&apply(Some((&weight, 1e-6)), None, 0), &normed);
    let with_room = apply(Some((&weight, 1e-6)), Some(angles), 2);
    assert_eq!(with_room.dims(), [rows + 2, heads, dim]);
    assert_near(&with_room.narrow(0, 0, rows).unwrap(), &turned(&normed));
}

#[test]
fn a_gate_is_the_activation_of_one_half_times_the_other() {
    let x = numbers(&[4, 36], 0).narrow(1, 2, 32).unwrap();
    let half = |start| x.narrow(1, start, 16).unwrap().contiguous().unwrap();
    for activation in [Activation::Silu, Activation::GeluErf, Activation::GeluTanh, Activation::Relu, Activation::Tanh]
    {
        let expected = (activate(activation, &half(0)).unwrap() * half(16)).unwrap();
        assert_near(&gated(&x, activation).unwrap(), &expected);
    }
}

#[test]
fn attention_over_two_sets_of_keys_is_weighted_by_their_sums() {
    let (own, other) = (numbers(&[3, 2, 4], 0), numbers(&[3, 2, 4], 9));
    // [heads, rows]
    let sums = |values: [f32; 6]| LogSums {
        values: Tensor::from_slice(&values, 6, &Device::Cpu).unwrap(),
        places: Tensor::new(&[0u32, 1, 2], &Device::Cpu).unwrap(),
        head_distance: 3,
    };
    let none = f32::INFINITY;
    // A query without keys has the other's values.
    let own_sums = sums([0., none, 1., 2., 0., 0.]);
    let merged = merge((&own, &own_sums), (&other, &sums([3f32.ln(), 0., none, 2., 0., none])));
    let (merged, own, other) = (list(&merged.unwrap()), list(&own), list(&other));
    let shares = [[0.75, 0.5], [1., 0.5], [0., 0.]];
    for (place, found) in merged.iter().enumerate() {
        let share: f32 = shares[place / 8][place / 4 % 2];
        let expected = own[place] + share * (other[place] - own[place]);
        assert!((found - expected).abs() < 1e-6, "{place}: {found} against {expected}");
    }
}

#[test]
fn rows_whose_numbers_are_apart_are_refused() {
    let transposed = numbers(&[8, 4], 0).t().unwrap();
    assert!(gated(&transposed, Activation::Silu).unwrap_err().to_string().contains("do not lie side by side"));
}
