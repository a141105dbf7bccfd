//! The deviation of bf16, int8 and mistral.rs's quantised forms on the same checkpoints.

use podium::runtime::packed::ComputeSettings;
use podium::runtime::{Checkpoint, Runtime};

use crate::fixtures::{RuntimeGolden, golden, load_as, run_alone};
use crate::nano::NanoGolden;
use crate::requests::{Loaded, usual_limits};

/// Checkpoints that the layers for CPUs read: random weights, which forgive less than trained ones.
const CASES: [&str; 4] = ["qwen2-gqa2-untied", "qwen3-gqa2-sharded", "qwen3-gqa4-projector", "qwen3-gqa8-head128"];

fn numbers(dtype: &str, quantize: &str) -> ComputeSettings {
    ComputeSettings { dtype: dtype.to_owned(), quantize: quantize.to_owned(), ..ComputeSettings::reference() }
}

/// The root mean square of the differences.
fn error(found: impl IntoIterator<Item = f32>, expected: impl IntoIterator<Item = f32>) -> f32 {
    let squares: Vec<f32> =
        found.into_iter().zip(expected).map(|(found, expected)| (found - expected).powi(2)).collect();
    (squares.iter().sum::<f32>() / squares.len() as f32).sqrt()
}

#[test]
fn final_states_in_bf16_and_8_bit_integers_stay_near_those_of_transformers_in_f32() {
    // Final states have a root mean square of about 1.
    for (settings, limit) in [(numbers("bf16", "none"), 0.03), (numbers("f32", "int8"), 0.08)] {
        for case in CASES {
            let (golden, runtime) = (golden::<RuntimeGolden>(case), load_as(case, &settings));
            assert_eq!(runtime.facts().dtype, runtime_name(&settings), "{case} is not computed in f32 instead");
            let states = golden.passes.iter().flat_map(|pass| run_alone(&runtime, pass.reading_states(false)));
            let expected = golden.passes.iter().flat_map(|pass| pass.hidden_states.clone());
            let error = error(states.flatten(), expected.flatten());
            println!("{case}, {}: {error:.4}", runtime_name(&settings));
            assert!(error < limit, "{case}, {}: {error}", runtime_name(&settings));
        }
    }
}

fn runtime_name(settings: &ComputeSettings) -> &str {
    if settings.quantize == "none" { &settings.dtype } else { &settings.quantize }
}

#[test]
fn the_embedded_models_cosines_survive_every_quantised_form() {
    let golden: NanoGolden = golden("podium-nano");
    let forms = [
        ("bf16", 0.01),
        ("int8", 0.01),
        ("q8_0", 0.01),
        ("q6k", 0.03),
        ("q5k", 0.05),
        ("q5_0", 0.05),
        ("q4k", 0.1),
        ("q4_0", 0.1),
        ("fp8", 0.1),
        ("hqq8", 0.02),
        ("hqq4", 0.1),
        ("q3k", 0.2),
        ("q2k", 0.5),
    ];
    // mistral.rs's own forms are slow on a CPU: some requests are enough to see that one is wrong.
    let cases = &golden.cases[..golden.cases.len().min(3)];
    for (form, limit) in forms {
        let settings = if form == "bf16" { numbers("bf16", "none") } else { numbers("f32", form) };
        let loaded = Loaded::new_as(&Checkpoint::podium_nano(), "auto", &settings);
        let found = cases.iter().flat_map(|case| loaded.run(&case.request(), &usual_limits()).1.raw);
        let error = error(found, cases.iter().flat_map(|case| case.scores.clone()));
        println!("podium-nano's cosines in {form}: {error:.5}");
        assert!(error < limit, "{form}: {error}");
    }
}
