//! `podium bench`: the order of things. Flags are read in [`args`], what is measured is set up in [`subject`], results
//! are printed in [`table`].

mod args;
mod requests;
mod subject;
mod table;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;

pub(super) use args::BenchArgs;
use subject::Subject;

use super::output_file::OutputFile;
use super::{UsageError, start_quiet_logs};
use crate::bench::checkpoint::{self, MakeError, Recipe};
use crate::bench::machine::Machine;
use crate::bench::measure::{Budget, Measured, measure};
use crate::bench::plot;
use crate::bench::report::{CaseReport, MachineFacts, Report, SCHEMA, Settings as ReportSettings};
use crate::bench::workload::{Case, Kind, cases};
use crate::config::Settings;

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    args.check()?;
    let configuration = args.settings.configuration(Vec::new())?;
    start_quiet_logs(&configuration)?;
    let mut settings = configuration.settings;
    // Whatever is wrong with input and output is found before a model is made or loaded.
    let (endpoint, recipe, file) = (args.endpoint.endpoint()?, args.recipe()?, args.file()?);
    if endpoint.is_none() {
        check_limits(args, file.as_ref(), &settings)?;
    }
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    let json = args.json.as_deref().filter(|_| !to_stdout).map(OutputFile::create).transpose()?;
    let picture = args.plot.as_deref().map(OutputFile::create).transpose()?;

    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    let made = recipe.map(|recipe| make(args, &recipe, &mut settings, &bar)).transpose()?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let _inside = runtime.enter();
    bar.set_message("loading the model");
    let (mut subject, tokenizer) = match endpoint {
        Some(endpoint) => (Subject::endpoint(endpoint), args.tokenizer_for_url()?),
        None => Subject::model(settings, &args.routes(), args.warm_prefixes(), &runtime)?,
    };
    if made.is_some() {
        subject.facts.name = args.shape_name();
    }
    bar.set_message("writing requests");
    let kinds = match file {
        Some(kind) => vec![kind],
        None => args.grid().kinds(&tokenizer)?,
    };
    let cases = cases(&kinds, &args.routes(), &args.concurrency());
    let measured = all(args, &mut subject, &runtime, &cases, &bar)?;
    let report = report(args, &subject, &cases, &measured);
    subject.stop(&runtime);
    bar.finish_and_clear();

    if let Some(file) = json {
        file.write(&serde_json::to_string_pretty(&report)?)?;
    }
    if let Some(file) = picture {
        file.write(plot::svg(&report).trim_end())?;
    }
    let mut out = std::io::stdout().lock();
    if to_stdout {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
        return Ok(());
    }
    if let Some(Made { told, .. }) = &made {
        writeln!(out, "{told}")?;
    }
    table::write_report(&mut out, &report)?;
    for path in args.json.iter().chain(&args.plot) {
        writeln!(out, "wrote {}", path.display())?;
    }
    Ok(())
}

/// Refuses what the model's own server would refuse, before time is spent.
fn check_limits(args: &BenchArgs, file: Option<&Kind>, settings: &Settings) -> Result<(), UsageError> {
    let most = match file {
        Some(kind) => kind.requests.iter().map(|request| request.documents.len()).max().unwrap_or_default(),
        None => args.most_documents(),
    };
    let (limit, queue) = (settings.limits.max_documents, settings.schedule.max_queued_requests);
    if most > limit {
        return Err(UsageError(format!("{most} documents in a request; limits.max_documents is {limit}")));
    }
    match args.concurrency().into_iter().find(|&clients| clients > queue) {
        Some(clients) => {
            Err(UsageError(format!("--concurrency: {clients} clients; schedule.max_queued_requests is {queue}")))
        }
        None => Ok(()),
    }
}

/// A random checkpoint that was made; a temporary folder goes with it.
struct Made {
    told: String,
    _folder: Option<TempDir>,
}

/// Makes a random checkpoint and lets the settings name it.
fn make(args: &BenchArgs, recipe: &Recipe, settings: &mut Settings, bar: &ProgressBar) -> anyhow::Result<Made> {
    bar.set_message(format!("making {}", args.shape_name()));
    let (path, folder) = if let Some(path) = args.kept_in() {
        std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        (path.to_owned(), None)
    } else {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        (PathBuf::from(folder.path()), Some(folder))
    };
    let made = checkpoint::make(recipe, &path).map_err(|error| match error {
        MakeError::Write(_) => anyhow::Error::from(error),
        MakeError::Family(_) | MakeError::Tokenizer(_) | MakeError::Model(_) => UsageError(error.to_string()).into(),
    })?;
    settings.model.source = path.display().to_string();
    settings.model.family.clone_from(&recipe.family);
    let told = format!(
        "made {} for {}: {:.1} M parameters, {}{}",
        args.shape_name(),
        recipe.family,
        made.parameters as f64 / 1e6,
        table::memory(made.bytes),
        args.kept_in().map(|path| format!(", kept in {}", path.display())).unwrap_or_default()
    );
    Ok(Made { told, _folder: folder })
}

/// Measures all cases under a bar.
fn all(
    args: &BenchArgs,
    subject: &mut Subject,
    runtime: &tokio::runtime::Runtime,
    cases: &[Case],
    bar: &ProgressBar,
) -> anyhow::Result<Vec<Measured>> {
    let plan = args.plan();
    bar.set_message("warming up");
    if let Some(requests) = plan.requests(cases) {
        bar.set_style(ProgressStyle::with_template("{msg:.bold} {wide_bar} {pos}/{len} requests, {eta} left")?);
        bar.set_length(requests as u64);
    }
    let mut machine = subject.machine.as_mut();
    let before_round = |round: usize| {
        bar.set_message(format!("round {} of {}", round + 1, plan.rounds()));
        machine.as_mut().map_or(Ok(()), |machine| machine.sample())
    };
    Ok(measure(runtime, &subject.systems, cases, &plan, before_round, &|| bar.inc(1))?)
}

fn report(args: &BenchArgs, subject: &Subject, cases: &[Case], measured: &[Measured]) -> Report {
    let product_rates = subject.machine.as_ref().map(|machine| machine.rates().to_vec()).unwrap_or_default();
    let product_rate = subject.machine.as_ref().and_then(Machine::rate);
    let plan = args.plan();
    let (runs, seconds) = match plan.budget {
        Budget::Runs(runs) => (Some(runs), None),
        Budget::Time(time) => (None, Some(time.as_secs_f64())),
    };
    let reports = cases.iter().zip(measured).map(|(case, measured)| CaseReport::of(case, measured, product_rate));
    Report {
        schema: SCHEMA,
        podium: env!("CARGO_PKG_VERSION").to_owned(),
        created_unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs()),
        system: subject.facts.clone(),
        machine: MachineFacts { threads: rayon::current_num_threads(), product_rates, product_rate },
        settings: ReportSettings {
            runs,
            seconds,
            rounds: plan.rounds(),
            warm_up: plan.warm_up,
            seed: args.seed(),
            mode: args.mode().to_string(),
            instruction: args.instruction(),
            requests: args.source(),
        },
        cases: reports.collect(),
    }
}
