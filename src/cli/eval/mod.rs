//! `podium eval`. [`args`] parses the flags, [`sets`] reads the data, [`systems`] measures several
//! systems, [`table`] and [`comparison_table`] print the results.

mod args;
mod comparison_table;
mod sets;
mod systems;
mod table;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

pub(super) use args::EvalArgs;

use super::output_file::OutputFile;
use super::{UsageError, start_quiet_logs};
use crate::app;
use crate::config::{Configuration, Settings};
use crate::eval::comparison::{SystemComparison, compare_reports};
use crate::eval::datasets::Dataset;
use crate::eval::endpoint::Endpoint;
use crate::eval::gate::Comparison;
use crate::eval::journal::Journal;
use crate::eval::page::render_page;
use crate::eval::price_plot::render_svg;
use crate::eval::report::{Report, SCHEMA, SystemFacts};
use crate::eval::settings::EvalSettings;
use crate::eval::system::System;
use crate::eval::{first_stage, run, run_files, summary};

pub(super) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    args.check()?;
    if !args.compare.is_empty() {
        return compare(args);
    }
    let configuration = configuration(args)?;
    start_quiet_logs(&configuration)?;
    let (settings, endpoints) = (args.eval_settings(), args.endpoints()?);
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));

    // Check inputs and outputs before a model is loaded.
    let mut sets = args.read_sets(&settings, |name| bar.set_message(format!("reading {name}")))?;
    let gate = args.gate()?;
    if let Some(gate) = &gate {
        gate.check(&settings, &sets)?;
    }
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    let json = args.json.as_deref().filter(|_| !to_stdout).map(OutputFile::create).transpose()?;
    let html = args.report.as_deref().map(OutputFile::create).transpose()?;

    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let _inside = runtime.enter();
    bar.set_message("loading the model");
    if let Some(folder) = &args.write_runs {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let mut systems = load_systems(endpoints, &configuration.settings)?;
    if args.compares_systems() {
        let compared = systems::measure(args, &runtime, &systems, (&settings, &mut sets), &bar)?;
        bar.finish_and_clear();
        return write_comparison(args, &compared);
    }
    let (system, facts) = systems.swap_remove(0);
    let mut journal =
        args.resume.as_deref().map(|path| Journal::open(path, &facts.name, &settings, &sets)).transpose()?;
    let evaluation =
        Evaluation { runtime: &runtime, system: &system, settings, write_runs: args.write_runs.as_deref() };
    let report = evaluation.run(facts, &mut sets, journal.as_mut(), &bar)?;
    bar.finish_and_clear();

    if let Some(file) = json {
        file.write(&serde_json::to_string_pretty(&report)?)?;
    }
    if let Some(file) = html {
        file.write(&render_page(&report)?)?;
    }
    let (mut stdout, mut stderr) = (std::io::stdout().lock(), std::io::stderr().lock());
    // If the JSON goes to standard output, the tables of the gate go to standard error.
    let out: &mut dyn Write = if to_stdout { &mut stderr } else { &mut stdout };
    if !to_stdout {
        table::write_report(out, &report)?;
        for path in args.json.iter().chain(&args.report) {
            writeln!(out, "wrote {}", path.display())?;
        }
    }
    let compared = gate.map(|gate| gate.compare(&report)).transpose()?;
    if let Some(compared) = &compared {
        table::write_gate(out, compared, args.max_drop)?;
    }
    if to_stdout {
        serde_json::to_writer_pretty(&mut stdout, &report)?;
        writeln!(stdout)?;
    }
    compared.map_or(Ok(()), |compared| fail_if_worse(&compared, args.max_drop))
}

/// The settings of the model; without its own exit where exits are measured.
fn configuration(args: &EvalArgs) -> anyhow::Result<Configuration> {
    let mut configuration = args.settings.configuration(Vec::new())?;
    if !args.early_exit.is_empty() {
        configuration.settings.model.early_exit = false;
        configuration.settings.model.cutoff_layer = 0;
    }
    Ok(configuration)
}

/// The systems to evaluate: the endpoints if given, otherwise the model of the settings.
fn load_systems(endpoints: Vec<Endpoint>, settings: &Settings) -> anyhow::Result<Vec<(System, SystemFacts)>> {
    if !endpoints.is_empty() {
        let system = |endpoint: Endpoint| {
            let url = Some(endpoint.display_url());
            let facts = SystemFacts { name: endpoint.name(), family: None, device: None, url };
            (System::Endpoint(Box::new(endpoint)), facts)
        };
        return Ok(endpoints.into_iter().map(system).collect());
    }
    let reranker = app::load_reranker(settings)?;
    tokio::runtime::Handle::current().block_on(reranker.run_canary())?;
    let facts = SystemFacts {
        name: reranker.names().first().cloned().unwrap_or_default(),
        family: Some(reranker.family().to_owned()),
        device: Some(reranker.facts().device.clone()),
        url: None,
    };
    Ok(vec![(System::InProcess(Arc::new(reranker)), facts)])
}

/// Compares earlier reports and prints the result.
fn compare(args: &EvalArgs) -> anyhow::Result<()> {
    write_comparison(args, &compare_reports(&args.compare)?)
}

/// Prints a comparison, and writes the files that are asked for.
fn write_comparison(args: &EvalArgs, compared: &SystemComparison) -> anyhow::Result<()> {
    if let Some(path) = &args.plot {
        let measure = table::display_name(&compared.measure);
        OutputFile::create(path)?.write(&render_svg(&compared.prices, &measure))?;
    }
    let mut stdout = std::io::stdout().lock();
    match args.json.as_deref() {
        Some(path) if path == Path::new("-") => {
            serde_json::to_writer_pretty(&mut stdout, compared)?;
            writeln!(stdout)?;
        }
        json => {
            comparison_table::write(&mut stdout, compared)?;
            if let Some(path) = json {
                OutputFile::create(path)?.write(&serde_json::to_string_pretty(compared)?)?;
            }
            for path in json.into_iter().chain(args.plot.as_deref()) {
                writeln!(stdout, "wrote {}", path.display())?;
            }
        }
    }
    Ok(())
}

/// A run over all sets.
struct Evaluation<'a> {
    runtime: &'a tokio::runtime::Runtime,
    system: &'a System,
    settings: EvalSettings,
    write_runs: Option<&'a Path>,
}

impl Evaluation<'_> {
    fn run(
        self,
        mut facts: SystemFacts,
        sets: &mut [Dataset],
        mut journal: Option<&mut Journal>,
        bar: &ProgressBar,
    ) -> anyhow::Result<Report> {
        let Self { runtime, system, settings, write_runs } = self;
        let started = Instant::now();
        let mut bm25 = Vec::with_capacity(sets.len());
        for set in &mut *sets {
            bar.set_message(format!("indexing {}", set.name));
            bm25.push(first_stage::prepare(set, &settings));
        }
        bar.set_message("warming up");
        if let Some(set) = sets.first()
            && let Some(name) = runtime.block_on(run::warm_up(system, set, &settings))?
        {
            facts.name = name;
        }
        bar.set_style(ProgressStyle::with_template("{msg:.bold} {wide_bar} {pos}/{len} queries, {eta} left")?);
        bar.set_length(sets.iter().map(|set| set.queries.len() as u64).sum());
        bar.reset();
        let mut reports = Vec::with_capacity(sets.len());
        for (set, bm25) in sets.iter().zip(&bm25) {
            bar.set_message(set.name.clone());
            let runs = run::run_set(system, set, &settings, journal.as_deref_mut(), || bar.inc(1));
            let runs = runtime.block_on(runs)?;
            if let Some(folder) = write_runs {
                run_files::write(folder, set, &runs, bm25, &facts.name).map_err(|(path, cause)| {
                    anyhow::Error::new(cause).context(format!("cannot write {}", path.display()))
                })?;
            }
            reports.push(summary::summarize(set, &runs, bm25, &settings));
        }
        let metrics: Vec<String> = settings.measures.iter().map(|measure| measure.name()).collect();
        Ok(Report {
            schema: SCHEMA,
            podium: env!("CARGO_PKG_VERSION").to_owned(),
            created_unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs()),
            seconds: started.elapsed().as_secs_f64(),
            system: facts,
            settings,
            primary: metrics[0].clone(),
            metrics,
            sets: reports,
        })
    }
}

/// Returns an error that names every set that fails the gate.
fn fail_if_worse(compared: &[Comparison], max_drop: f64) -> anyhow::Result<()> {
    let failed: Vec<String> = compared
        .iter()
        .filter(|set| set.failed)
        .map(|set| format!("{} dropped by {:.4}, from {:.4} to {:.4}", set.set, set.drop(), set.baseline, set.current))
        .collect();
    match compared.first() {
        Some(first) if !failed.is_empty() => {
            anyhow::bail!("{} dropped by more than --max-drop {max_drop}: {}", first.metric, failed.join("; "))
        }
        _ => Ok(()),
    }
}
