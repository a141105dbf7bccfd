//! The fused operations in f32 on a CPU: plain loops over rows.

use candle_core::cpu::erf::erf_f64;
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::{LogSums, NormRope, Rows};
use crate::runtime::spec::Activation;

type Matrix<'a> = (&'a [f32], Rows);

fn row((numbers, rows): Matrix<'_>, row: usize) -> &[f32] {
    &numbers[rows.start + row * rows.stride..][..rows.width]
}

/// The sums of all rows, then the normed ones.
pub(super) fn add_rms_norm(x: Matrix<'_>, y: Matrix<'_>, weight: &[f32], eps: f32) -> Vec<f32> {
    let (count, width) = (x.1.count, x.1.width);
    let mut output = vec![0f32; 2 * count * width];
    let (sums, normed) = output.split_at_mut(count * width);
    sums.par_chunks_mut(width).zip(normed.par_chunks_mut(width)).enumerate().for_each(|(number, (sum, normed))| {
        let pairs = row(x, number).iter().zip(row(y, number));
        sum.iter_mut().zip(pairs).for_each(|(sum, (x, y))| *sum = x + y);
        let scale = rms_scale(sum, eps);
        normed.iter_mut().zip(&*sum).zip(weight).for_each(|((normed, sum), weight)| *normed = sum * scale * weight);
    });
    output
}

/// The factor that gives a row a root mean square of 1.
fn rms_scale(row: &[f32], eps: f32) -> f32 {
    let squares: f32 = row.iter().map(|x| x * x).sum();
    (squares / row.len() as f32 + eps).sqrt().recip()
}

pub(super) fn norm_rope(spec: &NormRope<'_>, x: &[f32], rows: Rows) -> Result<Vec<f32>> {
    let weight = spec.norm.map(|(weight, eps)| Ok::<_, candle_core::Error>((weight.to_vec1::<f32>()?, eps as f32)));
    let norm = weight.transpose()?;
    let half = spec.dim / 2;
    let angles = match spec.angles {
        None => None,
        Some(angles) => {
            let table = |table: &Tensor| table.flatten_all()?.to_vec1::<f32>();
            let positions = angles.positions.to_vec1::<u32>()?;
            let (cosines, sines) = (table(angles.cosines)?, table(angles.sines)?);
            if positions.len() != rows.count || positions.iter().any(|at| (*at as usize + 1) * half > cosines.len()) {
                bail!("{} positions for {} rows, or one beyond the table", positions.len(), rows.count);
            }
            Some((positions, cosines, sines))
        }
    };
    let mut output = vec![0f32; (rows.count + spec.room) * rows.width];
    output.par_chunks_mut(rows.width).take(rows.count).enumerate().for_each(|(number, heads)| {
        heads.copy_from_slice(row((x, rows), number));
        for head in heads.chunks_mut(spec.dim) {
            if let Some((weight, eps)) = &norm {
                let scale = rms_scale(head, *eps);
                head.iter_mut().zip(weight).for_each(|(x, weight)| *x *= scale * weight);
            }
            if let Some((positions, cosines, sines)) = &angles {
                let start = positions[number] as usize * half;
                let (first, second) = head.split_at_mut(half);
                let turned = first.iter_mut().zip(second).zip(&cosines[start..]).zip(&sines[start..]);
                turned.for_each(|(((a, b), cos), sin)| (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin));
            }
        }
    });
    Ok(output)
}

pub(super) fn gated(x: &[f32], rows: Rows, activation: Activation) -> Vec<f32> {
    let width = rows.width / 2;
    let mut output = vec![0f32; rows.count * width];
    output.par_chunks_mut(width).enumerate().for_each(|(number, output)| {
        let (gate, up) = row((x, rows), number).split_at(width);
        let pairs = gate.iter().zip(up);
        output.iter_mut().zip(pairs).for_each(|(output, (gate, up))| *output = activate(activation, *gate) * up);
    });
    output
}

fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Silu => x / (1. + (-x).exp()),
        Activation::GeluErf => {
            let x = f64::from(x);
            (0.5 * x * (1. + erf_f64(x * std::f64::consts::FRAC_1_SQRT_2))) as f32
        }
        Activation::GeluTanh => {
            let inner = (2. / std::f32::consts::PI).sqrt() * x * (1. + 0.044_715 * x * x);
            0.5 * x * (1. + inner.tanh())
        }
        Activation::Relu => x.max(0.),
        Activation::Tanh => x.tanh(),
    }
}

pub(super) fn merge(
    (own, own_sums): (Matrix<'_>, &LogSums),
    (other, other_sums): (Matrix<'_>, &LogSums),
    heads: usize,
) -> Result<Vec<f32>> {
    let (count, width) = (own.1.count, own.1.width);
    let dim = width / heads;
    let lists =
        |sums: &LogSums| Ok::<_, candle_core::Error>((sums.values.to_vec1::<f32>()?, sums.places.to_vec1::<u32>()?));
    let (own_lists, other_lists) = (lists(own_sums)?, lists(other_sums)?);
    let value = |(values, places): &(Vec<f32>, Vec<u32>), sums: &LogSums, row: usize, head: usize| {
        values[places[row] as usize + head * sums.head_distance]
    };
    let mut output = vec![0f32; count * width];
    output.par_chunks_mut(width).enumerate().for_each(|(number, output)| {
        let (own, other) = (row(own, number), row(other, number));
        for (head, output) in output.chunks_mut(dim).enumerate() {
            let own_sum = value(&own_lists, own_sums, number, head);
            let other_sum = value(&other_lists, other_sums, number, head);
            let share = match (own_sum.is_finite(), other_sum.is_finite()) {
                (_, false) => 0.,
                (false, true) => 1.,
                (true, true) => (1. + (own_sum - other_sum).exp()).recip(),
            };
            let pairs = own[head * dim..].iter().zip(&other[head * dim..]);
            output.iter_mut().zip(pairs).for_each(|(output, (own, other))| *output = own + share * (other - own));
        }
    });
    Ok(output)
}
