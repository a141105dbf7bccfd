//! `podium eval --early-exit`: measures a model without an exit, and with one after each layer.

use indicatif::ProgressBar;

use super::args::EvalArgs;
use super::{Evaluation, UsageError};
use crate::eval::comparison::{SystemComparison, compare};
use crate::eval::datasets::Dataset;
use crate::eval::report::SystemFacts;
use crate::eval::settings::{EvalSettings, ExitPoint};
use crate::eval::system::System;

/// Evaluates the model once without an exit and once for each layer, and compares.
pub(super) fn measure(
    args: &EvalArgs,
    runtime: &tokio::runtime::Runtime,
    (system, facts): (&System, &SystemFacts),
    (settings, sets): (&EvalSettings, &mut [Dataset]),
    bar: &ProgressBar,
) -> anyhow::Result<SystemComparison> {
    if let System::InProcess(reranker) = system {
        for layer in &args.early_exit {
            let checked = reranker.check_early_exit(*layer, settings.mode);
            checked.map_err(|problem| UsageError(format!("--early-exit: {problem}")))?;
        }
    }
    let keep = args.exit_keep.get();
    let exits = args.early_exit.iter().map(|layer| Some(ExitPoint { layer: *layer, keep }));
    let (mut names, mut reports) = (Vec::new(), Vec::new());
    for early_exit in std::iter::once(None).chain(exits) {
        let name = early_exit
            .map_or_else(|| "no exit".to_owned(), |exit| format!("exit after {}, {} go on", exit.layer, exit.keep));
        let settings = EvalSettings { early_exit, ..settings.clone() };
        let evaluation = Evaluation { runtime, system, settings, write_runs: None };
        reports.push(evaluation.run(facts.clone(), sets, None, bar)?);
        names.push(name);
    }
    let (first, others) = reports.split_first().ok_or_else(|| anyhow::anyhow!("nothing was measured"))?;
    Ok(compare(names, first, others))
}
