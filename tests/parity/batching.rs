//! A pass gives the same numbers alone, in any batch, in any order, and as plain sequences.

use podium::runtime::{ForwardPass, JointLayers, Mark, Probe, Runtime};

use crate::deviation::{Table, largest_relative};
use crate::fixtures::{GoldenPass, RUNTIME_CASES, RuntimeGolden, golden, load, rows, run_alone};

const TOLERANCE: f32 = 1e-5;

#[test]
fn a_batch_gives_what_each_pass_gives_alone_in_any_order() {
    let mut table = Table::default();
    for case in RUNTIME_CASES {
        let (golden, runtime) = (golden::<RuntimeGolden>(case), load(case));
        // States and logits in one batch: kinds of probes mix.
        let passes: Vec<_> =
            golden.passes.iter().flat_map(|pass| [pass.reading_states(false), pass.reading_logits()]).collect();
        let alone: Vec<_> = passes.iter().map(|pass| run_alone(&runtime, pass.clone())).collect();
        let mut order: Vec<usize> = (0..passes.len()).collect();
        for arrangement in ["as they come", "back to front", "rotated"] {
            match arrangement {
                "back to front" => order.reverse(),
                "rotated" => order.rotate_left(passes.len() / 3),
                _ => (),
            }
            let batch: Vec<_> = order.iter().map(|&place| passes[place].clone()).collect();
            let readouts = runtime.run(&batch).unwrap();
            for (&place, readout) in order.iter().zip(readouts) {
                table.note(case, &golden.shape, arrangement, largest_relative(&rows(readout), &alone[place]));
            }
        }
    }
    println!("\nlargest deviation of a pass in a batch, from alone\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn branches_give_what_one_sequence_each_gives() {
    let mut table = Table::default();
    for case in RUNTIME_CASES {
        let (golden, runtime) = (golden::<RuntimeGolden>(case), load(case));
        for pass in golden.passes.iter().filter(|pass| pass.joint == 0) {
            let together = run_alone(&runtime, pass.reading_states(false));
            let apart: Vec<_> = pass.marks.iter().map(|&mark| run_alone(&runtime, sequence(pass, mark))).collect();
            let apart: Vec<_> = apart.into_iter().flatten().collect();
            table.note(case, &golden.shape, "one sequence each", largest_relative(&together, &apart));
        }
    }
    println!("\nlargest deviation of a pass as branches, from one sequence each\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn the_order_of_branches_changes_nothing() {
    let mut table = Table::default();
    for case in RUNTIME_CASES {
        let (golden, runtime) = (golden::<RuntimeGolden>(case), load(case));
        for pass in golden.passes.iter().filter(|pass| pass.branches.len() > 1) {
            let given = run_alone(&runtime, pass.reading_states(false));
            let shuffled = run_alone(&runtime, with_branches_turned(&pass.reading_states(false)));
            table.note(case, &golden.shape, "branches turned around", largest_relative(&shuffled, &given));
        }
    }
    println!("\nlargest deviation of a pass with its branches in another order\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

/// The path to one mark as a plain sequence of its own.
fn sequence(pass: &GoldenPass, (segment, offset): (usize, usize)) -> ForwardPass {
    let mut trunk = pass.trunk.clone();
    let mut mark = offset;
    if segment > 0 {
        mark += trunk.len();
        trunk.extend(&pass.branches[segment - 1]);
    }
    ForwardPass {
        trunk,
        branches: Vec::new(),
        joint_layers: JointLayers::default(),
        probe: Probe::HiddenStates { marks: vec![Mark::trunk(mark)], project: false },
    }
}

/// The same pass with its branches in the opposite order; marks are read in the old order.
fn with_branches_turned(pass: &ForwardPass) -> ForwardPass {
    let count = pass.branches.len();
    let turned = |mark: &Mark| match mark.segment {
        0 => *mark,
        segment => Mark { segment: count + 1 - segment, offset: mark.offset },
    };
    let Probe::HiddenStates { marks, project } = &pass.probe else { unreachable!("these tests read states") };
    ForwardPass {
        trunk: pass.trunk.clone(),
        branches: pass.branches.iter().rev().cloned().collect(),
        joint_layers: JointLayers {
            count: pass.joint_layers.count,
            shared: pass.joint_layers.shared.iter().map(turned).collect(),
        },
        probe: Probe::HiddenStates { marks: marks.iter().map(turned).collect(), project: *project },
    }
}
