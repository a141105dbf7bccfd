//! `podium bench`. [`args`] parses the flags, [`subject`] sets up the reranker to measure,
//! [`table`] prints the report, [`rates`] measures requests that arrive at given rates.

mod args;
mod rates;
mod requests;
mod subject;
mod table;

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tempfile::TempDir;

pub(super) use args::BenchArgs;
use subject::Subject;

use super::output_file::OutputFile;
use super::{UsageError, start_quiet_logs};
use crate::bench::checkpoint::{self, CreateError, Recipe};
use crate::bench::comparison::{Baseline, BenchComparison};
use crate::bench::machine::{self, Machine};
use crate::bench::measure::{CaseSamples, StopAfter, measure};
use crate::bench::plot::render_svg;
use crate::bench::report::{CaseReport, MachineFacts, Report, SCHEMA, Settings as ReportSettings};
use crate::bench::workload::{Case, RequestSet, combine_cases};
use crate::config::Settings;

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    args.check()?;
    let configuration = args.settings.configuration(Vec::new())?;
    start_quiet_logs(&configuration)?;
    let mut settings = configuration.settings;
    // Check inputs and outputs before a checkpoint is written or a model is loaded.
    let (endpoint, recipe, file) = (args.endpoint.endpoint()?, args.recipe()?, args.read_requests()?);
    if endpoint.is_none() {
        check_limits(args, file.as_ref(), &settings)?;
    }
    let baseline = args.compare.as_deref().map(Baseline::read).transpose()?;
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    let json = args.json.as_deref().filter(|_| !to_stdout).map(OutputFile::create).transpose()?;
    let plot = args.plot.as_deref().map(OutputFile::create).transpose()?;

    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    let created = recipe.map(|recipe| create_checkpoint(args, &recipe, &mut settings, &bar)).transpose()?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let _inside = runtime.enter();
    bar.set_message("loading the model");
    let (mut subject, tokenizer) = match endpoint {
        Some(endpoint) => (Subject::endpoint(endpoint), args.tokenizer_for_url()?),
        None => Subject::model(settings, &args.routes(), args.warm_prefixes(), &runtime)?,
    };
    if created.is_some() {
        subject.facts.name = args.shape_name();
    }
    bar.set_message("generating requests");
    let sets = match file {
        Some(set) => vec![set],
        None => args.grid().generate(&tokenizer)?,
    };
    let cases = combine_cases(&sets, &args.routes(), &args.concurrency());
    let report = match args.open_loop() {
        None => {
            let measured = measure_cases(args, &mut subject, &runtime, &cases, &bar)?;
            build_report(args, &subject, &cases, &measured)
        }
        Some(plan) => {
            let rates = rates::measure_rates(&plan, &subject, &runtime, &cases, &bar)?;
            Report { open_loop: Some(rates), ..build_report(args, &subject, &[], &[]) }
        }
    };
    let comparison = baseline.map(|baseline| baseline.compare(&report));
    let written = Written { report: &report, comparison: comparison.as_ref() };
    subject.stop(&runtime);
    bar.finish_and_clear();

    if let Some(file) = json {
        file.write(&serde_json::to_string_pretty(&written)?)?;
    }
    if let Some(file) = plot {
        file.write(render_svg(&report).trim_end())?;
    }
    if to_stdout {
        let mut out = std::io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, &written)?;
        writeln!(out)?;
        return Ok(());
    }
    print_report(args, created.as_ref(), &written)
}

/// Prints the tables, and the files that were written.
fn print_report(args: &BenchArgs, created: Option<&RandomCheckpoint>, written: &Written<'_>) -> anyhow::Result<()> {
    let Written { report, comparison } = *written;
    let mut out = std::io::stdout().lock();
    if let Some(created) = created {
        writeln!(out, "{}", created.summary)?;
    }
    table::write_heading(&mut out, report)?;
    if let Some(open_loop) = &report.open_loop {
        rates::write(&mut out, open_loop)?;
    } else {
        table::write_cases(&mut out, report)?;
    }
    if let Some(comparison) = comparison {
        table::write_comparison(&mut out, comparison)?;
    }
    for path in args.json.iter().chain(&args.plot) {
        writeln!(out, "wrote {}", path.display())?;
    }
    Ok(())
}

/// The JSON: the report, and beside it the comparison with an earlier one.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    report: &'a Report,
    comparison: Option<&'a BenchComparison>,
}

/// Rejects requests that the server of this model would reject.
fn check_limits(args: &BenchArgs, file: Option<&RequestSet>, settings: &Settings) -> Result<(), UsageError> {
    let documents = match file {
        Some(set) => set.requests.iter().map(|request| request.documents.len()).max().unwrap_or_default(),
        None => args.max_documents(),
    };
    let (limit, queue) = (settings.limits.max_documents, settings.schedule.max_queued_requests);
    if documents > limit {
        return Err(UsageError(format!(
            "{documents} documents in a request exceed limits.max_documents ({limit}); send fewer or raise the limit"
        )));
    }
    match args.concurrency().into_iter().find(|&clients| clients > queue) {
        Some(clients) => Err(UsageError(format!(
            "--concurrency: {clients} clients exceed schedule.max_queued_requests ({queue}); use fewer or raise the limit"
        ))),
        None => Ok(()),
    }
}

/// A random checkpoint. Its temporary folder, if it has one, is deleted with it.
struct RandomCheckpoint {
    /// One line about the checkpoint, for the terminal.
    summary: String,
    _folder: Option<TempDir>,
}

/// Writes a random checkpoint and selects it in the settings.
fn create_checkpoint(
    args: &BenchArgs,
    recipe: &Recipe,
    settings: &mut Settings,
    bar: &ProgressBar,
) -> anyhow::Result<RandomCheckpoint> {
    bar.set_message(format!("writing {}", args.shape_name()));
    let (path, folder) = if let Some(path) = args.keep_folder() {
        std::fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
        (path.to_owned(), None)
    } else {
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        (PathBuf::from(folder.path()), Some(folder))
    };
    let size = checkpoint::create(recipe, &path).map_err(|error| match error {
        CreateError::Write(_) => anyhow::Error::from(error),
        CreateError::Family(_) | CreateError::Tokenizer(_) | CreateError::Model(_) => {
            UsageError(error.to_string()).into()
        }
    })?;
    settings.model.source = path.display().to_string();
    settings.model.family.clone_from(&recipe.family);
    let summary = format!(
        "wrote {} for the family {}: {:.1} M parameters, {}{}",
        args.shape_name(),
        recipe.family,
        size.parameters as f64 / 1e6,
        table::format_bytes(size.bytes),
        args.keep_folder().map(|path| format!(", in {}", path.display())).unwrap_or_default()
    );
    Ok(RandomCheckpoint { summary, _folder: folder })
}

/// Measures all cases, with a progress bar.
fn measure_cases(
    args: &BenchArgs,
    subject: &mut Subject,
    runtime: &tokio::runtime::Runtime,
    cases: &[Case],
    bar: &ProgressBar,
) -> anyhow::Result<Vec<CaseSamples>> {
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

fn build_report(args: &BenchArgs, subject: &Subject, cases: &[Case], measured: &[CaseSamples]) -> Report {
    let product_rates = subject.machine.as_ref().map(|machine| machine.rates().to_vec()).unwrap_or_default();
    let product_rate = subject.machine.as_ref().and_then(Machine::rate);
    let plan = args.plan();
    let (runs, seconds) = match plan.stop_after {
        StopAfter::Requests(runs) => (Some(runs), None),
        StopAfter::Time(time) => (None, Some(time.as_secs_f64())),
    };
    let reports = cases.iter().zip(measured).map(|(case, measured)| CaseReport::new(case, measured, product_rate));
    Report {
        schema: SCHEMA,
        podium: env!("CARGO_PKG_VERSION").to_owned(),
        revision: option_env!("PODIUM_REVISION"),
        created_unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs()),
        system: subject.facts.clone(),
        machine: MachineFacts {
            processor: machine::processor(),
            instruction_sets: machine::instruction_sets(),
            logical_processors: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            gpu_driver: machine::gpu_driver(),
            threads: rayon::current_num_threads(),
            product_rates,
            product_rate,
        },
        settings: ReportSettings {
            runs,
            seconds,
            rounds: plan.rounds(),
            warm_up: plan.warm_up,
            seed: args.seed(),
            mode: args.mode().to_string(),
            instruction: args.instruction(),
            requests: args.requests_file(),
        },
        cases: reports.collect(),
        open_loop: None,
    }
}
