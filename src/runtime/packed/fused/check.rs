//! Compares the kernels of a device with the loops of the CPU, when a model is loaded.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::{Angles, LogSums, NormRope, add_rms_norm, gated, has_kernels, merge};
use crate::runtime::spec::Activation;

const ROWS: usize = 37;
const WIDTH: usize = 512;
const HEADS: usize = 3;
const DIM: usize = 64;

/// Rejects a device whose kernels compute something else than the CPU.
///
/// # Errors
/// A kernel that cannot be compiled or launched, or whose result is off by more than rounding.
pub(in crate::runtime::packed) fn check(device: &Device, dtype: DType) -> Result<()> {
    if device.is_cpu() || !has_kernels(device, dtype, WIDTH) {
        return Ok(());
    }
    let found = results(device, dtype)?;
    let expected = results(&Device::Cpu, dtype)?;
    // Relative to the norm: the intermediate numbers of a kernel are rounded at other places.
    let bound = if dtype == DType::F32 { 1e-4 } else { 1e-2 };
    for ((name, found), (_, expected)) in found.into_iter().zip(expected) {
        let error = relative_error(&found, &expected);
        if error.is_nan() || error > bound {
            bail!("the kernel `{name}` is off by {error:.1e} on this device");
        }
    }
    Ok(())
}

/// The norm of the differences over that of the expected numbers.
pub(in crate::runtime::packed) fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = found.iter().zip(expected).map(|(found, expected)| square(found - expected)).sum();
    let size: f64 = expected.iter().map(|expected| square(*expected)).sum();
    (difference / size).sqrt() as f32
}

/// Each operation on numbers that `dtype` holds exactly; on a CPU in f32.
fn results(device: &Device, dtype: DType) -> Result<Vec<(&'static str, Vec<f32>)>> {
    let numbers = |shape: &[usize], seed: usize, scale: f32| {
        let count: usize = shape.iter().product();
        let values = (0..count).map(|n| (((n + seed) * 7919 % 2003) as f32 / 1001.5 - 1.) * scale);
        let exact = Tensor::from_vec(values.collect::<Vec<f32>>(), shape, &Device::Cpu)?.to_dtype(dtype)?;
        if device.is_cpu() { exact.to_dtype(DType::F32) } else { exact.to_device(device) }
    };
    let list = |x: &Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let (wide, y) = (numbers(&[ROWS, 2 * WIDTH], 0, 2.)?, numbers(&[ROWS, WIDTH], 5, 3.)?);
    let x = wide.narrow(1, WIDTH, WIDTH)?;
    let (sum, normed) = add_rms_norm(&x, &y, &numbers(&[WIDTH], 9, 1.)?, 1e-6)?;
    let heads = wide.narrow(1, 16, HEADS * DIM)?;
    let positions = Tensor::from_vec((0..ROWS as u32).map(|row| row * 5 % 31).collect::<Vec<_>>(), ROWS, device)?;
    let (cosines, sines) = (numbers(&[31, DIM / 2], 1, 1.)?, numbers(&[31, DIM / 2], 2, 1.)?);
    let angles = Angles { cosines: &cosines, sines: &sines, positions: &positions };
    let weight = numbers(&[DIM], 3, 1.)?;
    let rotated = |norm, angles| NormRope { heads: HEADS, dim: DIM, norm, angles, room: 0 }.apply(&heads);
    let (own, other) = (numbers(&[ROWS, HEADS, DIM], 1, 1.)?, numbers(&[ROWS, HEADS, DIM], 4, 1.)?);
    let lse = |seed: usize| {
        let value = |n: usize| if (n + seed).is_multiple_of(7) { f32::INFINITY } else { (n * seed % 13) as f32 - 6. };
        let places: Vec<u32> = (0..ROWS as u32).rev().collect();
        Ok::<_, candle_core::Error>(LogSums {
            values: Tensor::from_vec((0..HEADS * ROWS).map(value).collect::<Vec<f32>>(), HEADS * ROWS, device)?,
            places: Tensor::from_vec(places, ROWS, device)?,
            head_distance: ROWS,
        })
    };
    Ok(vec![
        ("sum", list(&sum)?),
        ("rms norm", list(&normed)?),
        ("rope", list(&rotated(None, Some(angles))?)?),
        ("head norm", list(&rotated(Some((&weight, 1e-6)), None)?)?),
        ("head norm and rope", list(&rotated(Some((&weight, 1e-6)), Some(angles))?)?),
        ("silu gate", list(&gated(&wide, Activation::Silu)?)?),
        ("gelu gate", list(&gated(&wide, Activation::GeluErf)?)?),
        ("gelu gate with a tanh", list(&gated(&wide, Activation::GeluTanh)?)?),
        ("merged attention", list(&merge((&own, &lse(3)?), (&other, &lse(5)?))?)?),
    ])
}
