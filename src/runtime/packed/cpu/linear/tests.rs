//! Products and their inputs against their definitions.

use candle_core::Device;
use proptest::prelude::*;

use super::*;

/// A number between -1 and 1.
fn value(seed: u32, n: usize) -> f32 {
    ((n as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 16) as f32 / 32768. - 1.
}

fn matrix(seed: u32, rows: usize, columns: usize) -> (Vec<f32>, Tensor) {
    let values: Vec<f32> = (0..rows * columns).map(|n| value(seed, n)).collect();
    let tensor = Tensor::from_vec(values.clone(), (rows, columns), &Device::Cpu).unwrap();
    (values, tensor)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_product_is_its_definition_for_any_size(
        rows in 0usize..260, inputs in 1usize..90, outputs in (1usize..90, 1usize..90), whole: bool, has_bias: bool,
        width in prop::sample::select(vec![COLUMNS, 2 * COLUMNS, 3 * COLUMNS]), seed in 0u32..1000,
    ) {
        let count = outputs.0 + outputs.1;
        let columns = if whole { 0..count } else { outputs.0 / COLUMNS * COLUMNS..count };
        let (x, _) = matrix(seed, rows, inputs);
        let parts = [outputs.0, outputs.1].map(|count| matrix(seed + count as u32, count, inputs));
        let bias: Vec<f32> = (0..count).map(|n| value(seed, n)).collect();
        let weights = [parts[0].0.as_slice(), &parts[1].0].concat();
        for (dtype, tolerance) in
            [(CpuDtype::F32, 1e-5), (CpuDtype::Bf16, 8e-3), (CpuDtype::Int8, 8e-3), (CpuDtype::Int8Rows, 8e-3)]
        {
            let of_bias = |range: Range<usize>| has_bias.then(|| Tensor::new(&bias[range], &Device::Cpu).unwrap());
            let linear = Linear::new(
                &[(parts[0].1.clone(), of_bias(0..outputs.0)), (parts[1].1.clone(), of_bias(outputs.0..count))],
                dtype,
            );
            let linear = linear.unwrap();
            let mut input = Input::default();
            linear.prepare(rows, &mut input, |row, target| {
                target.copy_from_slice(&x[row * inputs..][..inputs]);
            });
            let padded = columns.len().next_multiple_of(width);
            let mut made = vec![f32::NAN; rows * padded];
            let shared = SharedRows::new(&mut made, padded);
            linear.multiply(columns.clone(), width, &input, |rows, piece, tile| {
                for (row, values) in rows.zip(tile.chunks_exact(width)) {
                    // SAFETY: each piece of a row comes once.
                    unsafe { shared.part(row, piece * width..(piece + 1) * width).copy_from_slice(values) }
                }
            });
            for row in 0..rows {
                for (place, column) in columns.clone().enumerate() {
                    let epilogue = x[row * inputs..][..inputs].iter().zip(&weights[column * inputs..]);
                    let exact = epilogue.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>()
                        + if has_bias { f64::from(bias[column]) } else { 0. };
                    // Each term is off by its own rounding, and all of them may point the same way.
                    let allowed = tolerance * (1. + inputs as f64);
                    let found = f64::from(made[row * padded + place]);
                    prop_assert!((found - exact).abs() < allowed, "{dtype:?} {row} {column}");
                }
            }
        }
    }

    #[test]
    fn inputs_written_in_parts_are_those_that_are_written_at_once(
        rows in 1usize..20, inputs in 1usize..100, seed in 0u32..1000,
    ) {
        let (x, _) = matrix(seed, rows, inputs);
        let (_, weights) = matrix(seed, COLUMNS, inputs);
        for dtype in [CpuDtype::F32, CpuDtype::Bf16, CpuDtype::Int8] {
            let linear = Linear::new(&[(weights.clone(), None)], dtype).unwrap();
            let products = |input: &Input| {
                let mut made = vec![0.; rows * COLUMNS];
                let shared = SharedRows::new(&mut made, COLUMNS);
                linear.multiply(0..COLUMNS, COLUMNS, input, |rows, _, tile| {
                    for (row, values) in rows.zip(tile.chunks_exact(COLUMNS)) {
                        // SAFETY: there is one piece of each row.
                        unsafe { shared.part(row, 0..COLUMNS).copy_from_slice(values) }
                    }
                });
                made
            };
            let (mut whole, mut in_parts) = (Input::default(), Input::default());
            linear.prepare(rows, &mut whole, |row, target| target.copy_from_slice(&x[row * inputs..][..inputs]));
            let parts = linear.parts(rows, &mut in_parts).unwrap();
            for (row, values) in x.chunks_exact(inputs).enumerate() {
                for (part, values) in values.chunks(COLUMNS).enumerate() {
                    let mut padded = [f32::NAN; COLUMNS];
                    padded[..values.len()].copy_from_slice(values);
                    // SAFETY: nothing else writes.
                    unsafe { parts.write(row, part * COLUMNS, &padded) }
                }
            }
            prop_assert_eq!(products(&whole), products(&in_parts), "{:?}", dtype);
        }
        let rows_at_once = Linear::new(&[(weights, None)], CpuDtype::Int8Rows).unwrap();
        prop_assert!(inputs <= COLUMNS || rows_at_once.parts(rows, &mut Input::default()).is_none());
    }
}
