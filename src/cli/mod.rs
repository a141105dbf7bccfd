//! The command line: `serve`, `rerank`, `eval`, `bench`, `check`, `passes`.
//!
//! Results go to standard output; logs and errors go to standard error.

mod bench;
mod check;
mod endpoint;
mod eval;
mod input;
mod keys;
mod output;
mod output_file;
mod passes;
mod rerank;
mod serve;
mod tips;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand};
use toml::Value;

use crate::bench::measure::MeasureError;
use crate::config::{CONFIG_VARIABLE, ConfigError, Configuration, FlagValue, Sources};
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

/// Rerank server: orders documents by their relevance to a query, following an instruction in plain
/// language.
///
/// The model reads the query, the instruction and up to 64 documents in one pass. Without --model
/// it is podium-mini, a small model that is compiled in.
#[derive(Debug, Parser)]
#[command(name = "podium", version, styles = STYLES, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "\
Start with:
  podium serve            and in another terminal: podium serve --help
  podium rerank --help    to rank without a server

Settings: later sources win.
  defaults < file (--config) < environment (PODIUM__SECTION__KEY) < flags
  podium check --no-model prints every setting, its value and its source.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the rerank API over HTTP until SIGTERM or Ctrl-C
    Serve(serve::ServeArgs),
    /// Rank documents without a server and print them in order
    Rerank(rerank::RerankArgs),
    /// Measure ranking quality on labelled data, against the input order and BM25
    Eval(Box<eval::EvalArgs>),
    /// Measure latency and throughput, by request size and by stage
    Bench(Box<bench::BenchArgs>),
    /// Check settings and model, and print the values in effect
    Check(check::CheckArgs),
    /// Run forward passes given as token ids, to compare a device with a reference
    Passes(passes::PassesArgs),
}

/// Flags that every command with a model takes.
#[derive(Debug, Args)]
struct SettingsArgs {
    /// Configuration file (TOML); `podium check --no-model` prints every key
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE, hide_env_values = true, help_heading = "Settings")]
    config: Option<PathBuf>,
    /// podium-mini or podium-nano (compiled in), a folder with a checkpoint, or a Hugging Face hub
    /// id [default: podium-mini]
    #[arg(long, short, value_name = "MODEL", help_heading = "Settings")]
    model: Option<String>,
    /// Branch, tag or commit on the hub [default: main]
    #[arg(long, value_name = "REVISION", help_heading = "Settings")]
    revision: Option<String>,
    /// Prompt family; auto detects it from the checkpoint [default: auto]
    #[arg(long, value_name = "FAMILY", help_heading = "Settings")]
    family: Option<String>,
    /// Device: auto, cpu, cuda, cuda:N or metal [default: auto]
    #[arg(long, value_name = "DEVICE", help_heading = "Settings")]
    device: Option<String>,
    /// Data type of the computation: auto, f32 or bf16 [default: auto]
    #[arg(long, value_name = "TYPE", help_heading = "Settings")]
    dtype: Option<String>,
    /// Quantise weights while loading: none, int8 (on a CPU), or a type of mistral.rs such as
    /// q6k, q4k, fp8 [default: none]
    #[arg(long, value_name = "TYPE", help_heading = "Settings")]
    quantize: Option<String>,
    /// Never contact the hub; use only its local cache
    #[arg(long, help_heading = "Settings")]
    offline: bool,
}

impl SettingsArgs {
    /// The configuration, with these flags and `more` in force.
    fn configuration(&self, more: Vec<FlagValue>) -> Result<Configuration, ConfigError> {
        Configuration::load(&self.sources(more))
    }

    /// The sources of the configuration: file, environment, these flags and `more`.
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

/// An invalid command line, or invalid input for it.
#[derive(Debug)]
struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Parses the command line, runs the command, and prints an error once, with its causes.
///
/// Exit codes: 0 for success; 2 for an invalid command line, configuration or request; 69 for a
/// lost device (a new process may find it again); 1 for every other error.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| tips::with_tip(error).exit());
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output has closed the pipe, as `head` does.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(is_broken_pipe) => ExitCode::SUCCESS,
        Err(error) => {
            // A failure to write to standard error cannot be reported anywhere.
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
        Command::Passes(args) => passes::run(&args),
    }
}

/// Starts the log of a command that prints a result: warnings only, unless a level is set.
fn start_quiet_logs(configuration: &Configuration) -> anyhow::Result<()> {
    let mut settings = configuration.settings.telemetry.clone();
    if configuration.is_default("telemetry.log_level") {
        "warn".clone_into(&mut settings.log_level);
    }
    Ok(start_logs(&settings, None)?)
}

/// Warns of environment variables that begin with `PODIUM_` and are not read.
fn warn_of_unknown_variables(variables: &[String]) {
    for name in variables {
        tracing::warn!(name, "unknown environment variable; settings are called PODIUM__SECTION__KEY");
    }
}

fn is_broken_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Exit code for a lost device: `EX_UNAVAILABLE` of sysexits.h.
const DEVICE_LOST: u8 = 69;

fn exit_code(error: &anyhow::Error) -> u8 {
    if matches!(error.downcast_ref(), Some(RerankError::DeviceLost(_))) {
        return DEVICE_LOST;
    }
    let is_user_error = error.is::<UsageError>()
        || error.is::<ConfigError>()
        || error.is::<KeyError>()
        || error.is::<DataError>()
        || error.is::<GateError>()
        || matches!(error.downcast_ref(), Some(TraceError::Value { .. }))
        || matches!(error.downcast_ref(), Some(LogError::Filter(_)))
        || error.downcast_ref::<RerankError>().is_some_and(is_request_error)
        || error.downcast_ref::<EndpointError>().is_some_and(is_address_error)
        || error.downcast_ref::<QueryFailure>().is_some_and(|failure| is_system_user_error(&failure.cause))
        || matches!(error.downcast_ref(), Some(MeasureError::Request(failure)) if is_system_user_error(&failure.cause));
    if is_user_error { 2 } else { 1 }
}

fn is_system_user_error(error: &SystemError) -> bool {
    match error {
        SystemError::Rerank(error) => is_request_error(error),
        SystemError::Endpoint(error) => is_address_error(error),
    }
}

/// Whether the request itself is invalid.
fn is_request_error(error: &RerankError) -> bool {
    match error {
        RerankError::InvalidField { .. }
        | RerankError::NoDocuments { .. }
        | RerankError::TooManyDocuments { .. }
        | RerankError::TooManyPassages { .. }
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

fn is_address_error(error: &EndpointError) -> bool {
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
    fn errors_that_the_user_can_fix_exit_with_2_and_others_with_1() {
        assert_eq!(exit_code(&UsageError("no documents".to_owned()).into()), 2);
        assert_eq!(exit_code(&RerankError::invalid("query", "blank").into()), 2);
        assert_eq!(exit_code(&ConfigError::Settings(String::new()).into()), 2);
        assert_eq!(exit_code(&RerankError::internal("broken").into()), 1);
        assert_eq!(exit_code(&anyhow::anyhow!("anything")), 1);
        assert_eq!(exit_code(&RerankError::DeviceLost("CUDA_ERROR_ILLEGAL_ADDRESS".into()).into()), 69);
    }

    #[test]
    fn flags_set_their_keys() {
        let cli = Cli::parse_from(["podium", "check", "--model", "a/b", "--device", "cpu", "--offline"]);
        let Command::Check(args) = cli.command else { panic!("expected the command check") };
        let settings = args.settings.configuration(Vec::new()).unwrap().settings;
        assert_eq!(settings.model.source, "a/b");
        assert_eq!(settings.model.device, "cpu");
        assert!(settings.model.offline);
    }
}
