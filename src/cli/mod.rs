//! The command line: `serve`, `rerank`, `eval`, `bench`, `check`. Results go to standard output, everything else to standard error.

mod bench;
mod check;
mod endpoint;
mod eval;
mod input;
mod keys;
mod output;
mod output_file;
mod rerank;
mod serve;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand};
use toml::Value;

use crate::bench::measure::MeasureError;
use crate::config::{ConfigError, Configuration, FlagValue, Sources};
use crate::eval::datasets::DataError;
use crate::eval::endpoint::EndpointError;
use crate::eval::gate::GateError;
use crate::eval::run::QueryFailure;
use crate::eval::system::SystemError;
use crate::http::auth::KeyError;
use crate::rerank::RerankError;
use crate::telemetry::{LogError, TraceError, mask_url_secrets, start_logs};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// A rerank server: it reads a query, an instruction and up to 64 documents in one pass, and orders the documents.
///
/// Without any option it uses podium-nano, a small model that is compiled in.
#[derive(Debug, Parser)]
#[command(name = "podium", version, styles = STYLES, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "\
Settings come from the built-in defaults, then a file (--config), then the environment \
(PODIUM__SECTION__KEY), then flags; later ones win. `podium check` prints what is in effect and why.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer rerank requests over HTTP until SIGTERM or Ctrl-C.
    Serve(serve::ServeArgs),
    /// Rerank documents here and now, and print them in order.
    Rerank(rerank::RerankArgs),
    /// Measure relevance on labelled data, against the input order and BM25.
    Eval(Box<eval::EvalArgs>),
    /// Measure how fast a reranker is: requests of chosen sizes, and where their time goes.
    Bench(Box<bench::BenchArgs>),
    /// Check configuration and model, and print what is in effect.
    Check(check::CheckArgs),
}

/// What every command needs to find its model.
#[derive(Debug, Args)]
struct SettingsArgs {
    /// Configuration file (TOML); config/default.toml in the source lists every key
    #[arg(long, value_name = "FILE", env = "PODIUM_CONFIG", hide_env_values = true, help_heading = "Settings")]
    config: Option<PathBuf>,
    /// podium-nano (compiled in), a folder with a checkpoint, or a Hugging Face hub id
    #[arg(long, short, value_name = "MODEL", help_heading = "Settings")]
    model: Option<String>,
    /// Branch, tag or commit on the hub
    #[arg(long, value_name = "REVISION", help_heading = "Settings")]
    revision: Option<String>,
    /// Prompt family, where it cannot be found from the checkpoint (auto)
    #[arg(long, value_name = "FAMILY", help_heading = "Settings")]
    family: Option<String>,
    /// auto, cpu, cuda or metal
    #[arg(long, value_name = "DEVICE", help_heading = "Settings")]
    device: Option<String>,
    /// In which numbers the model computes: auto, f32 or bf16
    #[arg(long, value_name = "TYPE", help_heading = "Settings")]
    dtype: Option<String>,
    /// Quantise weights when they are loaded: int8 (on a CPU), or a form of mistral.rs such as q6k, q4k, fp8
    #[arg(long, value_name = "FORM", help_heading = "Settings")]
    quantize: Option<String>,
    /// Never ask the hub: use only files that are here
    #[arg(long, help_heading = "Settings")]
    offline: bool,
}

impl SettingsArgs {
    /// The configuration with these flags, and `more`, on top.
    fn configuration(&self, more: Vec<FlagValue>) -> Result<Configuration, ConfigError> {
        Configuration::load(&self.sources(more))
    }

    /// Where the configuration comes from, these flags, and `more`, among it.
    fn sources(&self, more: Vec<FlagValue>) -> Sources {
        let text = |flag, key, value: &Option<String>| {
            value.as_ref().map(|value| FlagValue { flag, key, value: Value::from(value.as_str()) })
        };
        let flags = [
            text("--model", "model.source", &self.model),
            text("--revision", "model.revision", &self.revision),
            text("--family", "model.family", &self.family),
            text("--device", "model.device", &self.device),
            text("--dtype", "model.dtype", &self.dtype),
            text("--quantize", "model.quantize", &self.quantize),
            self.offline.then(|| FlagValue { flag: "--offline", key: "model.offline", value: Value::from(true) }),
        ];
        let environment = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
        Sources {
            file: self.config.clone(),
            environment: environment.collect(),
            flags: flags.into_iter().flatten().chain(more).collect(),
        }
    }
}

/// A command line that cannot be carried out as it stands.
#[derive(Debug)]
struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Parses the command line, runs it, and prints what went wrong, once.
///
/// The exit code is 0, 2 for a command line, a configuration or a request that cannot be carried out, 69 for a device
/// that is gone (a new process may find it again), and 1 for everything else.
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has read enough.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(is_broken_pipe) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done where this fails too.
            let _unwritten = writeln!(io::stderr(), "error: {}", mask_url_secrets(&format!("{error:#}")));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Rerank(args) => rerank::run(args),
        Command::Eval(args) => eval::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Check(args) => check::run(&args),
    }
}

/// The log of a command that prints its result and ends: warnings only, unless more was asked for.
fn start_quiet_logs(configuration: &Configuration) -> anyhow::Result<()> {
    let mut settings = configuration.settings.telemetry.clone();
    if configuration.is_default("telemetry.log_level") {
        "warn".clone_into(&mut settings.log_level);
    }
    Ok(start_logs(&settings, None)?)
}

/// Says which environment variables look like settings and are none.
fn warn_of_unread(variables: &[String]) {
    for name in variables {
        tracing::warn!(name, "an environment variable that is not read: settings are PODIUM__SECTION__KEY");
    }
}

fn is_broken_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// `EX_UNAVAILABLE` of sysexits.h: a service that is needed is not there.
const DEVICE_LOST: u8 = 69;

fn exit_code(error: &anyhow::Error) -> u8 {
    if matches!(error.downcast_ref(), Some(RerankError::DeviceLost(_))) {
        return DEVICE_LOST;
    }
    let asked_wrong = error.is::<UsageError>()
        || error.is::<ConfigError>()
        || error.is::<KeyError>()
        || error.is::<DataError>()
        || error.is::<GateError>()
        || matches!(error.downcast_ref(), Some(TraceError::Value { .. }))
        || matches!(error.downcast_ref(), Some(LogError::Filter(_)))
        || error.downcast_ref::<RerankError>().is_some_and(is_callers)
        || error.downcast_ref::<EndpointError>().is_some_and(is_address)
        || error.downcast_ref::<QueryFailure>().is_some_and(|failure| is_askers(&failure.cause))
        || matches!(error.downcast_ref(), Some(MeasureError::Request(failure)) if is_askers(&failure.cause));
    if asked_wrong { 2 } else { 1 }
}

fn is_askers(error: &SystemError) -> bool {
    match error {
        SystemError::Rerank(error) => is_callers(error),
        SystemError::Endpoint(error) => is_address(error),
    }
}

/// Whether a rerank failed because of what was asked.
fn is_callers(error: &RerankError) -> bool {
    match error {
        RerankError::InvalidField { .. }
        | RerankError::NoDocuments { .. }
        | RerankError::TooManyDocuments { .. }
        | RerankError::TextTooLong { .. }
        | RerankError::PromptTooLong { .. }
        | RerankError::UnknownModel { .. }
        | RerankError::UnsupportedMode { .. }
        | RerankError::TooManyTokens { .. }
        | RerankError::OverBudget { .. } => true,
        RerankError::Overloaded { .. }
        | RerankError::DeadlineExceeded { .. }
        | RerankError::Draining
        | RerankError::ModelUnavailable { .. }
        | RerankError::TooLargeForDevice { .. }
        | RerankError::DeviceLost(_)
        | RerankError::Stalled { .. }
        | RerankError::Internal(_) => false,
    }
}

fn is_address(error: &EndpointError) -> bool {
    matches!(error, EndpointError::Address { .. })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_the_caller_can_mend_exits_with_2_and_the_rest_with_1() {
        assert_eq!(exit_code(&UsageError("no documents".to_owned()).into()), 2);
        assert_eq!(exit_code(&RerankError::invalid("query", "blank").into()), 2);
        assert_eq!(exit_code(&ConfigError::Settings(String::new()).into()), 2);
        assert_eq!(exit_code(&RerankError::internal("broken").into()), 1);
        assert_eq!(exit_code(&anyhow::anyhow!("anything")), 1);
        assert_eq!(exit_code(&RerankError::DeviceLost("CUDA_ERROR_ILLEGAL_ADDRESS".into()).into()), 69);
    }

    #[test]
    fn flags_become_settings() {
        let cli = Cli::parse_from(["podium", "check", "--model", "a/b", "--device", "cpu", "--offline"]);
        let Command::Check(args) = cli.command else { panic!("check was asked for") };
        let settings = args.settings.configuration(Vec::new()).unwrap().settings;
        assert_eq!(settings.model.source, "a/b");
        assert_eq!(settings.model.device, "cpu");
        assert!(settings.model.offline);
    }
}
