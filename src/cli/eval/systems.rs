//! The systems that one run of `podium eval` compares: a model with and without early exits, the
//! models of a server, and a cascade with several values of `stop_when_sure`.

use indicatif::ProgressBar;

use super::args::EvalArgs;
use super::{Evaluation, UsageError};
use crate::eval::comparison::{SystemComparison, compare};
use crate::eval::datasets::Dataset;
use crate::eval::report::SystemFacts;
use crate::eval::settings::{EvalSettings, ExitPoint};
use crate::eval::system::System;

/// A system of the comparison.
struct Compared<'a> {
    name: String,
    system: &'a (System, SystemFacts),
    settings: EvalSettings,
}

/// Evaluates each system, and compares the others with the first.
pub(super) fn measure(
    args: &EvalArgs,
    runtime: &tokio::runtime::Runtime,
    systems: &[(System, SystemFacts)],
    (settings, sets): (&EvalSettings, &mut [Dataset]),
    bar: &ProgressBar,
) -> anyhow::Result<SystemComparison> {
    let all = match systems {
        [model] if !args.early_exit.is_empty() => early_exits(args, model, settings)?,
        served => models_of_a_server(args, served, settings),
    };
    let (mut names, mut reports) = (Vec::new(), Vec::new());
    for Compared { name, system: (system, facts), settings } in all {
        let evaluation = Evaluation { runtime, system, settings, write_runs: None };
        reports.push(evaluation.run(facts.clone(), sets, None, bar)?);
        names.push(name);
    }
    let (first, others) = reports.split_first().ok_or_else(|| anyhow::anyhow!("nothing was measured"))?;
    Ok(compare(names, first, others))
}

/// The model without an exit, and with one after each layer; or the scores of each layer of a
/// layer-wise checkpoint.
fn early_exits<'a>(
    args: &EvalArgs,
    model: &'a (System, SystemFacts),
    settings: &EvalSettings,
) -> Result<Vec<Compared<'a>>, UsageError> {
    let keep = args.exit_keep;
    if let System::InProcess(reranker) = &model.0 {
        for layer in &args.early_exit {
            let checked = match keep {
                0 => reranker.check_cutoff_layer(*layer),
                _ => reranker.check_early_exit(*layer, settings.mode),
            };
            checked.map_err(|problem| UsageError(format!("--early-exit: {problem}")))?;
        }
    }
    let exits = args.early_exit.iter().map(|layer| Some(ExitPoint { layer: *layer, keep }));
    let compared = |early_exit| {
        let name = match early_exit {
            None => "no exit".to_owned(),
            Some(ExitPoint { layer, keep: 0 }) => format!("scored after {layer}"),
            Some(ExitPoint { layer, keep }) => format!("exit after {layer}, {keep} go on"),
        };
        Compared { name, system: model, settings: EvalSettings { early_exit, ..settings.clone() } }
    };
    Ok(std::iter::once(None).chain(exits).map(compared).collect())
}

/// Each model of a server, and then the last one, a cascade, with each value of `stop_when_sure`.
fn models_of_a_server<'a>(
    args: &EvalArgs,
    systems: &'a [(System, SystemFacts)],
    settings: &EvalSettings,
) -> Vec<Compared<'a>> {
    let alone =
        systems.iter().map(|system| Compared { name: system.1.name.clone(), system, settings: settings.clone() });
    let cascade = systems.last().into_iter().flat_map(|system| {
        args.stop_when_sure.iter().map(move |probability| Compared {
            name: format!("{}, stop_when_sure {probability}", system.1.name),
            system,
            settings: EvalSettings { stop_when_sure: Some(*probability), ..settings.clone() },
        })
    });
    alone.chain(cascade).collect()
}
