//! The command line of `podium bench`, and its conversion to the types of `bench`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};

use super::super::endpoint::EndpointArgs;
use super::super::rerank::mode_parser;
use super::super::{SettingsArgs, UsageError};
use super::requests;
use crate::bench::checkpoint::{Recipe, Stored, default_family};
use crate::bench::measure::{Plan, StopAfter};
use crate::bench::open_loop::Objective;
use crate::bench::shape::{NAMES, Shape};
use crate::bench::workload::{Grid, Length, RequestSet, Route, Tokenizer, read_tokenizer};
use crate::rerank::Mode;

/// Default number of requests of each client, without --runs and --seconds.
const DEFAULT_RUNS: usize = 20;

/// Default number of seconds in which requests arrive at a rate.
const DEFAULT_RATE_SECONDS: f64 = 20.0;

/// A measurement of requests that arrive at given rates.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OpenLoopPlan {
    /// The rates.
    pub(super) rates: RequestRate,
    /// For how long requests arrive at each rate.
    pub(super) duration: Duration,
    /// The latency to meet.
    pub(super) objective: Objective,
    /// The rate to serve, for the number of replicas.
    pub(super) target_rate: Option<f64>,
    /// Seed of the arrival times.
    pub(super) seed: u64,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  podium bench
  podium bench --documents 16,64 --tokens 128,512 --concurrency 1,8 \\
    --seconds 20
  podium bench --over in-process,http --concurrency 1,64 --plot bench.svg
  podium bench --requests mine.jsonl --model Qwen/Qwen3-Reranker-0.6B
  podium bench --shape qwen3-0.6b --documents 16 --runs 5
  podium bench --shape qwen3-4b --family qwen3-reranker --layers 4 \\
    --tokens 20-400
  podium bench --over http --request-rate auto --slo-ms 300 --target-rate 40
  podium bench --json now.json --compare before.json
  podium bench --url http://localhost:3000 --api tei --concurrency 1,16 \\
    --json tei.json

Every combination of documents, tokens, clients and routes is a case. Each round measures a part of every case, so that \
a slow phase of the machine affects all of them. A client sends its next request when it has the response to the last; \
with --request-rate requests arrive at random times instead, however busy the system is, latencies begin at the planned \
arrival, and a rejected request counts as too late. The capacity is the highest measured rate at which 99 of 100 requests \
are completed within --slo-ms.

Documents are generated sentences. The model's tokenizer counts their tokens (with --url: that of podium-mini, or \
--tokenizer). --requests takes a JSONL file instead, with one request on each line:
  {\"query\": \"...\", \"documents\": [\"...\"], \"instruction\": \"...\"}

--shape times a model without its weights: its published sizes with random values. The scores are meaningless.

GFLOP/s counts the operations that the model computes, attention included. \"of product\" compares it with a large matrix \
product, measured on the same device between the rounds. tools/compare measures transformers with the same weights and \
tokens.")]
pub(in crate::cli) struct BenchArgs {
    /// Documents in each request
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "16,64", help_heading = "Requests")]
    documents: Vec<NonZeroUsize>,
    /// Tokens in each document; a range such as 20-400 is drawn uniformly
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "128", help_heading = "Requests")]
    tokens: Vec<Length>,
    /// Number of concurrent clients
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1", help_heading = "Requests")]
    concurrency: Vec<NonZeroUsize>,
    /// The instruction of every request
    #[arg(long, short, value_name = "TEXT", conflicts_with = "requests", help_heading = "Requests")]
    instruction: Option<String>,
    /// Read all documents of a slate in one pass, or one document at a time
    #[arg(long, value_name = "MODE", value_parser = mode_parser(), help_heading = "Requests")]
    mode: Option<Mode>,
    /// Send the requests of a JSONL file instead of generated ones
    #[arg(long, value_name = "FILE", conflicts_with_all = ["documents", "tokens"], help_heading = "Requests")]
    requests: Option<PathBuf>,

    /// Requests of each client in each case [default: 20]
    #[arg(long, value_name = "N", conflicts_with = "seconds", help_heading = "Measuring")]
    runs: Option<NonZeroUsize>,
    /// Measure each case for S seconds instead
    #[arg(long, value_name = "S", value_parser = seconds_parser, help_heading = "Measuring")]
    seconds: Option<f64>,
    /// Instead of clients that wait, let requests arrive at these rates (per second, at random
    /// times) for S seconds each [default: 20]; "auto" chooses rates around the throughput
    #[arg(long, value_name = "R,...|auto", value_parser = parse_rates, conflicts_with_all = ["concurrency", "runs", "rounds", "plot"], help_heading = "Measuring")]
    request_rate: Option<RequestRate>,
    /// The 99th percentile of the latency that --request-rate is to meet
    #[arg(long, value_name = "MS", default_value = "300", value_parser = positive_parser, requires = "request_rate", help_heading = "Measuring")]
    slo_ms: f64,
    /// Say how many replicas serve this rate within the objective
    #[arg(long, value_name = "R", value_parser = positive_parser, requires = "request_rate", help_heading = "Measuring")]
    target_rate: Option<f64>,
    /// Number of rounds that --runs or --seconds are split into
    #[arg(long, value_name = "N", default_value = "5", help_heading = "Measuring")]
    rounds: NonZeroUsize,
    /// Requests of each case before the measurement
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Measuring")]
    warm_up: usize,
    /// Enable the prefix cache, as in a server. Requests repeat, so every prefix is a cache hit.
    /// GFLOP/s is not reported
    #[arg(long, conflicts_with = "url", help_heading = "Measuring")]
    warm_prefixes: bool,
    /// Seed of texts and random weights
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Measuring")]
    seed: u64,
    /// Call the model in this process, over HTTP through a server on a free port, or both
    #[arg(
        long,
        value_name = "ROUTE,...",
        value_enum,
        value_delimiter = ',',
        default_value = "in-process",
        conflicts_with = "url",
        help_heading = "Measuring"
    )]
    over: Vec<RouteName>,

    /// Time a model of this shape with random weights
    #[arg(long, value_name = "SHAPE", value_parser = PossibleValuesParser::new(NAMES), conflicts_with_all = ["model", "revision", "url"], help_heading = "Random weights")]
    shape: Option<String>,
    /// Use N layers instead of the model's own number
    #[arg(long, value_name = "N", requires = "shape", help_heading = "Random weights")]
    layers: Option<NonZeroUsize>,
    /// Type of its weights in the file
    #[arg(
        long,
        value_name = "TYPE",
        value_enum,
        default_value = "bf16",
        requires = "shape",
        help_heading = "Random weights"
    )]
    stored: StoredName,
    /// Keep the checkpoint in this folder, which must not exist
    #[arg(long, value_name = "FOLDER", requires = "shape", help_heading = "Random weights")]
    keep: Option<PathBuf>,
    /// Use this tokenizer.json instead of a generated one [with --url: it counts tokens]
    #[arg(long, value_name = "FILE", help_heading = "Random weights")]
    tokenizer: Option<PathBuf>,

    /// Write the report as JSON; "-" prints it instead of the table
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(super) json: Option<PathBuf>,
    /// Compare the latencies with those of this earlier JSON report
    #[arg(long, value_name = "FILE", conflicts_with = "request_rate", help_heading = "Results")]
    pub(super) compare: Option<PathBuf>,
    /// Draw latency by documents and tokens as SVG
    #[arg(long, value_name = "FILE.svg", help_heading = "Results")]
    pub(super) plot: Option<PathBuf>,

    #[command(flatten)]
    pub(super) endpoint: EndpointArgs,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RouteName {
    InProcess,
    Http,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StoredName {
    Bf16,
    F32,
}

/// The rates of --request-rate.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum RequestRate {
    /// Around the throughput of clients that wait.
    Auto,
    /// These, in requests per second.
    Listed(Vec<f64>),
}

fn parse_rates(text: &str) -> Result<RequestRate, String> {
    if text == "auto" {
        return Ok(RequestRate::Auto);
    }
    text.split(',').map(|rate| positive_parser(rate.trim())).collect::<Result<_, _>>().map(RequestRate::Listed)
}

fn positive_parser(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| *value > 0.0 && *value <= 1e6);
    value.ok_or_else(|| "expected a number above 0 and up to 1000000".to_owned())
}

fn seconds_parser(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| *value > 0.0 && *value <= 86_400.0);
    value.ok_or_else(|| "expected a number of seconds above 0 and up to 86400".to_owned())
}

impl BenchArgs {
    /// Rejects flags that would have no effect.
    pub(super) fn check(&self) -> Result<(), UsageError> {
        let refuse = |problem: &str| Err(UsageError(problem.to_owned()));
        self.endpoint.check(&self.settings)?;
        if self.endpoint.is_foreign_api() && self.mode.is_some() {
            return refuse("--mode works only with --api rerank");
        }
        if self.tokenizer.is_some() && self.shape.is_none() && !self.endpoint.is_set() {
            return refuse("--tokenizer works only with --shape or --url; a model has its own tokenizer");
        }
        if self.tokenizer.is_some() && self.requests.is_some() && self.shape.is_none() {
            return refuse("--tokenizer has no effect with --requests; remove one of them");
        }
        if self.json.is_some() && self.json == self.compare {
            return refuse("--json would overwrite the report of --compare; choose another file");
        }
        if self.json.is_some() && self.json == self.plot {
            return refuse("--json and --plot are the same file; choose two files");
        }
        if self.instruction.as_ref().is_some_and(|text| text.trim().is_empty()) {
            return refuse("--instruction must not be blank");
        }
        if let Some(folder) = &self.keep
            && folder.exists()
        {
            return Err(UsageError(format!("--keep: {} already exists; choose a new folder", folder.display())));
        }
        Ok(())
    }

    /// The settings of the measurement.
    pub(super) fn plan(&self) -> Plan {
        let stop_after = match (self.seconds, self.runs) {
            (Some(seconds), _) => StopAfter::Time(Duration::from_secs_f64(seconds)),
            (None, runs) => StopAfter::Requests(runs.map_or(DEFAULT_RUNS, NonZeroUsize::get)),
        };
        Plan { stop_after, rounds: self.rounds.get(), warm_up: self.warm_up }
    }

    /// The load that --request-rate asks for, if it is given.
    pub(super) fn open_loop(&self) -> Option<OpenLoopPlan> {
        let rates = self.request_rate.clone()?;
        Some(OpenLoopPlan {
            rates,
            duration: Duration::from_secs_f64(self.seconds.unwrap_or(DEFAULT_RATE_SECONDS)),
            objective: Objective { p99_ms: self.slo_ms },
            target_rate: self.target_rate,
            seed: self.seed,
        })
    }

    pub(super) fn routes(&self) -> Vec<Route> {
        if self.endpoint.is_set() {
            return vec![Route::Url];
        }
        let mut routes = Vec::new();
        for name in &self.over {
            let route = if *name == RouteName::Http { Route::Http } else { Route::InProcess };
            if !routes.contains(&route) {
                routes.push(route);
            }
        }
        routes
    }

    pub(super) const fn warm_prefixes(&self) -> bool {
        self.warm_prefixes
    }

    pub(super) fn concurrency(&self) -> Vec<usize> {
        self.concurrency.iter().map(|clients| clients.get()).collect()
    }

    /// The description of the random checkpoint, if --shape is given.
    pub(super) fn recipe(&self) -> anyhow::Result<Option<Recipe>> {
        let Some(name) = &self.shape else { return Ok(None) };
        let Some(mut shape) = Shape::named(name) else { return Ok(None) };
        if let Some(layers) = self.layers {
            shape.num_hidden_layers = layers.get();
        }
        let family = self.settings.family.clone().filter(|family| family != "auto");
        Ok(Some(Recipe {
            shape,
            family: family.unwrap_or_else(|| default_family(name).to_owned()),
            stored: if self.stored == StoredName::F32 { Stored::F32 } else { Stored::Bf16 },
            tokenizer: self.read_tokenizer_file()?,
            seed: self.seed,
        }))
    }

    /// The name of a random checkpoint in reports.
    pub(super) fn shape_name(&self) -> String {
        let layers = match self.layers.map(NonZeroUsize::get) {
            None => String::new(),
            Some(1) => ", 1 layer".to_owned(),
            Some(layers) => format!(", {layers} layers"),
        };
        format!("{} with random weights{layers}", self.shape.as_deref().unwrap_or_default())
    }

    pub(super) fn keep_folder(&self) -> Option<&Path> {
        self.keep.as_deref()
    }

    /// Reads the file of --tokenizer, if given.
    pub(super) fn read_tokenizer_file(&self) -> Result<Option<Vec<u8>>, UsageError> {
        let read = |path: &PathBuf| {
            std::fs::read(path)
                .map_err(|error| UsageError(format!("--tokenizer: cannot read {}: {error}", path.display())))
        };
        self.tokenizer.as_ref().map(read).transpose()
    }

    /// The tokenizer that counts the tokens of generated documents for an endpoint.
    pub(super) fn tokenizer_for_url(&self) -> Result<Tokenizer, UsageError> {
        let bytes = self.read_tokenizer_file()?;
        let file = self.tokenizer.as_deref().unwrap_or(Path::new("the embedded tokenizer"));
        read_tokenizer(bytes, &file.display().to_string()).map_err(|error| UsageError(format!("--tokenizer: {error}")))
    }

    /// The sizes of generated requests.
    pub(super) fn grid(&self) -> Grid {
        Grid {
            documents: self.documents.iter().map(|count| count.get()).collect(),
            lengths: self.tokens.clone(),
            instruction: self.instruction.clone(),
            mode: self.mode.unwrap_or_default(),
            set_limit: !self.endpoint.is_set(),
            seed: self.seed,
        }
    }

    /// Maximum number of documents in a generated request.
    pub(super) fn max_documents(&self) -> usize {
        self.documents.iter().map(|count| count.get()).max().unwrap_or_default()
    }

    /// Reads the requests of --requests, if given.
    pub(super) fn read_requests(&self) -> Result<Option<RequestSet>, UsageError> {
        self.requests.as_deref().map(|path| requests::read(path, self.mode)).transpose()
    }

    /// The path of --requests, for the report.
    pub(super) fn requests_file(&self) -> Option<String> {
        self.requests.as_ref().map(|path| path.display().to_string())
    }

    pub(super) fn instruction(&self) -> Option<String> {
        self.instruction.clone()
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::super::{Cli, Command};
    use super::*;

    fn args(flags: &[&str]) -> Box<BenchArgs> {
        let cli = Cli::parse_from(["podium", "bench"].iter().chain(flags));
        let Command::Bench(args) = cli.command else { panic!("bench was asked for") };
        args
    }

    fn check_error(flags: &[&str]) -> String {
        let UsageError(problem) = args(flags).check().unwrap_err();
        problem
    }

    #[test]
    fn flags_are_converted_to_a_grid_and_a_plan() {
        let made = args(&["--documents", "4,8", "--tokens", "16,20-40", "--concurrency", "1,3", "--seconds", "2.5"]);
        let grid = made.grid();
        assert_eq!((grid.documents, grid.lengths.len(), grid.set_limit), (vec![4, 8], 2, true));
        assert_eq!((made.concurrency(), made.max_documents()), (vec![1, 3], 8));
        let stop_after = StopAfter::Time(Duration::from_millis(2500));
        assert_eq!(made.plan(), Plan { stop_after, rounds: 5, warm_up: 1 });
        assert_eq!(args(&[]).plan().stop_after, StopAfter::Requests(DEFAULT_RUNS));
        assert_eq!(args(&["--over", "http,in-process,http"]).routes(), [Route::Http, Route::InProcess]);
        assert_eq!(args(&["--url", "http://h"]).routes(), [Route::Url]);
    }

    #[test]
    fn a_shape_has_a_default_family_and_number_of_layers() {
        let recipe = args(&["--shape", "qwen3-0.6b", "--layers", "3", "--stored", "f32"]).recipe().unwrap().unwrap();
        assert_eq!(
            (recipe.family.as_str(), recipe.shape.num_hidden_layers, recipe.stored),
            ("jina-v3", 3, Stored::F32)
        );
        let other = args(&["--shape", "nano", "--family", "first"]).recipe().unwrap().unwrap();
        assert_eq!((other.family.as_str(), other.stored), ("first", Stored::Bf16));
        assert!(args(&[]).recipe().unwrap().is_none());
    }

    #[test]
    fn flags_without_effect_are_rejected() {
        assert_eq!(check_error(&["-i", " "]), "--instruction must not be blank");
        assert_eq!(
            check_error(&["--tokenizer", "t"]),
            "--tokenizer works only with --shape or --url; a model has its own tokenizer"
        );
        assert_eq!(
            check_error(&["--json", "x", "--plot", "x"]),
            "--json and --plot are the same file; choose two files"
        );
        assert!(check_error(&["--url", "http://h", "--model", "m"]).contains("use --url-model"));
        assert_eq!(
            check_error(&["--url", "http://h", "--api", "tei", "--mode", "pointwise"]),
            "--mode works only with --api rerank"
        );
        assert!(check_error(&["--shape", "nano", "--keep", "/"]).starts_with("--keep: / already exists"));
    }
}
