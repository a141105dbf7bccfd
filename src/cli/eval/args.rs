//! The flags of `podium eval`, and their conversion to the types of `eval`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::super::endpoint::EndpointArgs;
use super::super::rerank::mode_parser;
use super::super::{SettingsArgs, UsageError};
use crate::eval::endpoint::Endpoint;
use crate::eval::gate::Gate;
use crate::eval::measures::Measure;
use crate::eval::settings::EvalSettings;
use crate::rerank::Mode;

#[derive(Debug, Args)]
#[command(after_help = "\
A SET is a folder or a file of slates. A folder is one of BEIR (corpus.jsonl, queries.jsonl, qrels/*.tsv), a dataset of \
MTEB (corpus/, queries/, qrels/ or data/, top_ranked/, instruction/ with Parquet files) or an export of ir_datasets \
(docs.tsv, queries.tsv, qrels.trec, scoreddocs.trec). Every file may be JSONL, TSV, TREC's columns, Parquet, or .gz of these. \
Slates are JSONL or Parquet:
  {\"query\": \"...\", \"documents\": [\"...\", \"...\"], \"relevance\": [0, 1]}
  {\"query\": \"...\", \"positive\": \"...\", \"negative\": [\"...\", \"...\"]}
Both may have an \"instruction\", and queries.jsonl too. Objects with \"title\", \"text\" and \"grade\" may replace texts.

Documents are reranked in the order of the first stage: a run, the set's own (top_ranked, scoreddocs), the order in a \
slate, or BM25 over the corpus.

Examples:
  podium eval slates.jsonl
  podium eval beir/scifact beir/nfcorpus --queries 100 --report report.html
  podium eval --corpus docs.tsv --topics topics.tsv --qrels qrels.txt \\
    --run bm25.trec
  podium eval slates.jsonl --instruction 'Prefer official documentation.'
  podium eval slates.jsonl --url http://localhost:3000 --api tei
  podium eval slates.jsonl --url https://api.cohere.com/v2/rerank \\
    --url-model rerank-v3.5 --api-key-env COHERE_API_KEY
  podium eval beir/scifact --measures 'nDCG@1,5,10 P@5 MAP' --write-runs runs
  podium eval beir/scifact --json baseline.json
  podium eval beir/scifact --json now.json --gate baseline.json \\
    --max-drop 0.01
  podium eval --compare baseline.json now.json other.json
  podium eval slates.jsonl --model Qwen/Qwen3-Reranker-0.6B \\
    --early-exit 14,18,22 --exit-keep 10 --plot exits.svg
  podium eval slates.jsonl --url http://localhost:8080 --top-n 10 \\
    --url-model podium-mini,careful --stop-when-sure 0.5,0.8 --plot price.svg

Measures are those of trec_eval, ERR and RBP those of ir_measures; a grade of 1 or more is relevant. The reranked order is compared with the input order \
and with BM25 on the same documents. Exit codes: 0; 1 if a set fails the gate or a system fails; 2 if the data or the \
command line is invalid.")]
pub(in crate::cli) struct EvalArgs {
    /// Folders of BEIR, MTEB or `ir_datasets`, and files of labelled slates
    #[arg(value_name = "SET", required_unless_present_any = ["corpus", "compare"], conflicts_with = "corpus")]
    pub(super) sets: Vec<PathBuf>,

    /// Judgements of a folder: qrels/NAME.tsv, or data/NAME-*.parquet [default: test, or the only
    /// one]
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    pub(super) split: Option<String>,
    /// Documents: a file of JSONL, Parquet or lines of id, tab, text, or a folder of shards
    /// (instead of a SET)
    #[arg(long, value_name = "FILE", requires_all = ["topics", "qrels"], help_heading = "Data")]
    pub(super) corpus: Option<PathBuf>,
    /// Queries, in the formats of the corpus
    #[arg(long, value_name = "FILE", requires = "corpus", help_heading = "Data")]
    pub(super) topics: Option<PathBuf>,
    /// Judgements, in TREC's four columns or BEIR's three
    #[arg(long, value_name = "FILE", requires = "corpus", help_heading = "Data")]
    pub(super) qrels: Option<PathBuf>,
    /// First-stage run in TREC's six columns; a file in the set's folder takes precedence [default:
    /// the set's own, or BM25]
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub(super) run: Option<PathBuf>,
    /// Evaluate N queries of each set, chosen by the seed [default: all]
    #[arg(long, value_name = "N", help_heading = "Data")]
    queries: Option<NonZeroUsize>,

    /// Rerank the first N documents of each query
    #[arg(long, value_name = "N", default_value = "32", help_heading = "Measuring")]
    top: NonZeroUsize,
    /// Measures, the primary one first: nDCG@k, MRR@k, Hit@k, Recall@k, P@k, ERR@k, MAP,
    /// RBP(p=0.8), as in 'nDCG@1,5,10 P@5 MAP' [default: nDCG, MRR, Hit and Recall at K, and MAP]
    #[arg(long, value_name = "LIST", value_parser = parse_measures, help_heading = "Measuring")]
    measures: Option<Measures>,
    /// Cut-off of the default measures
    #[arg(short, value_name = "K", default_value = "10", conflicts_with = "measures", help_heading = "Measuring")]
    k: NonZeroUsize,
    /// Number of input orders: the given one, the others shuffled; measures are means over them
    #[arg(long, value_name = "N", default_value = "3", help_heading = "Measuring")]
    orders: NonZeroUsize,
    /// Seed of sampling, shuffling and resampling
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Measuring")]
    seed: u64,
    /// Use this instruction for every query, and compare with no instruction
    #[arg(long, short, value_name = "TEXT", help_heading = "Measuring")]
    instruction: Option<String>,
    /// Read all documents of a slate in one pass, or one document at a time
    #[arg(long, value_name = "MODE", value_parser = mode_parser(), help_heading = "Measuring")]
    mode: Option<Mode>,
    /// Read at most N tokens of each document
    #[arg(long, value_name = "N", help_heading = "Measuring")]
    max_tokens_per_doc: Option<NonZeroUsize>,

    /// Measure early exits after each of these layers, as in 12,16,20, against no exit: documents
    /// leave the model there, but for the best --exit-keep of a pass
    #[arg(long, value_name = "LAYERS", value_delimiter = ',', conflicts_with_all = ["compare", "gate", "report", "resume", "write_runs"], help_heading = "Measuring")]
    pub(super) early_exit: Vec<u16>,
    /// Ask for the best N results; the other documents follow in the order in which they were sent
    #[arg(long, value_name = "N", help_heading = "Measuring")]
    top_n: Option<NonZeroUsize>,
    /// With --url: measure the last of --url-model, a cascade, also with each of these
    /// probabilities at which later stages are skipped, as in 0.5,0.8,0.95. Whether a stage is sure
    /// depends on --top-n
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = probability_parser, requires_all = ["url", "top_n"], conflicts_with_all = ["compare", "early_exit"], help_heading = "Measuring")]
    pub(super) stop_when_sure: Vec<f64>,

    /// Documents of a pass that go on after an early exit; 0: none, of a layer-wise checkpoint,
    /// whose layers have heads of their own
    #[arg(long, value_name = "N", default_value = "10", requires = "early_exit", help_heading = "Measuring")]
    pub(super) exit_keep: usize,

    /// Run N requests at the same time; latencies then include waiting
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Measuring")]
    concurrency: NonZeroUsize,
    /// Leave out a candidate that has the id of its query, as BEIR does
    #[arg(long, help_heading = "Measuring")]
    ignore_identical_ids: bool,

    /// Compare earlier JSON reports with the first of them, instead of a run
    #[arg(long, value_name = "REPORT", num_args = 2.., conflicts_with_all = ["sets", "corpus", "gate", "report"], help_heading = "Results")]
    pub(super) compare: Vec<PathBuf>,
    /// Where several systems are compared: draw their quality against their cost as SVG
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(super) plot: Option<PathBuf>,
    /// Keep finished queries in this file; if it exists, continue that run
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(super) resume: Option<PathBuf>,
    /// Write rankings and judgements as TREC files into this folder
    #[arg(long, value_name = "FOLDER", help_heading = "Results")]
    pub(super) write_runs: Option<PathBuf>,
    /// Write the report as JSON; "-" prints it instead of the tables
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(super) json: Option<PathBuf>,
    /// Write the report as a self-contained HTML page
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(super) report: Option<PathBuf>,
    /// Exit with 1 if a set is worse than in this earlier JSON report
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    gate: Option<PathBuf>,
    /// Maximum drop of the gate's metric
    #[arg(long, value_name = "X", default_value = "0.01", value_parser = drop_parser, requires = "gate", help_heading = "Results")]
    pub(super) max_drop: f64,
    /// Measure that the gate compares, such as ndcg or ndcg@5
    #[arg(long, value_name = "METRIC", default_value = "ndcg", value_parser = gate_metric_parser, requires = "gate", help_heading = "Results")]
    gate_metric: String,

    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

/// A list of measures. Its own type, because clap takes a plain list for a flag that is repeated.
#[derive(Debug, Clone)]
struct Measures(Vec<Measure>);

fn parse_measures(text: &str) -> Result<Measures, String> {
    Measure::parse_list(text).map(Measures)
}

/// A measure, or the name of one without its cut-off.
fn gate_metric_parser(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    if ["ndcg", "mrr", "hit", "recall", "p", "err"].contains(&&*lower) {
        return Ok(lower);
    }
    text.parse().map(Measure::name)
}

fn probability_parser(text: &str) -> Result<f64, String> {
    let value = text.trim().parse().ok().filter(|value| (0.0..=1.0).contains(value));
    value.ok_or_else(|| "expected a number between 0 and 1".to_owned())
}

fn drop_parser(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0);
    value.ok_or_else(|| "expected a number of 0 or more".to_owned())
}

impl EvalArgs {
    /// Rejects flags that would have no effect.
    pub(super) fn check(&self) -> Result<(), UsageError> {
        let refuse = |problem: &str| Err(UsageError(problem.to_owned()));
        self.endpoint.check(&self.settings)?;
        if self.endpoint.is_foreign_api() && (self.mode.is_some() || self.max_tokens_per_doc.is_some()) {
            return refuse("--mode and --max-tokens-per-doc work only with --api rerank");
        }
        if self.json.is_some() && self.json == self.gate {
            return refuse("--json would overwrite the baseline of --gate; choose another file");
        }
        if self.plot.is_some() && self.compare.is_empty() && !self.compares_systems() {
            return refuse(
                "--plot draws several systems; add --compare, --early-exit, --stop-when-sure or several --url-model",
            );
        }
        let writes_one_report =
            self.gate.is_some() || self.report.is_some() || self.resume.is_some() || self.write_runs.is_some();
        if self.compares_systems() && writes_one_report {
            return refuse("--gate, --report, --resume and --write-runs are for one system; several are compared here");
        }
        if self.endpoint.is_foreign_api() && !self.stop_when_sure.is_empty() {
            return refuse("--stop-when-sure works only with --api rerank");
        }
        if self.endpoint.is_set() && !self.early_exit.is_empty() {
            return refuse("--early-exit measures a model in this process; remove --url");
        }
        if self.instruction.as_ref().is_some_and(|text| text.trim().is_empty()) {
            return refuse("--instruction must not be blank");
        }
        Ok(())
    }

    /// The settings of the run.
    pub(super) fn eval_settings(&self) -> EvalSettings {
        EvalSettings {
            measures: self.measures.clone().map_or_else(|| Measure::defaults(self.k.get()), |measures| measures.0),
            top: self.top.get(),
            orders: self.orders.get(),
            seed: self.seed,
            queries: self.queries.map(NonZeroUsize::get),
            instruction: self.instruction.clone(),
            mode: self.mode.unwrap_or_default(),
            max_tokens_per_doc: self.max_tokens_per_doc.map(NonZeroUsize::get),
            ignore_identical_ids: self.ignore_identical_ids,
            concurrency: self.concurrency.get(),
            run: self.run.as_ref().map(|run| run.display().to_string()),
            early_exit: None,
            top_n: self.top_n.map(NonZeroUsize::get),
            stop_when_sure: None,
        }
    }

    /// Whether the run compares several systems.
    pub(super) fn compares_systems(&self) -> bool {
        !self.early_exit.is_empty() || !self.stop_when_sure.is_empty() || self.endpoint.has_several_models()
    }

    /// The endpoint for each model, if --url is given.
    pub(super) fn endpoints(&self) -> anyhow::Result<Vec<Endpoint>> {
        self.endpoint.endpoints()
    }

    /// Reads the baseline, if --gate is given.
    pub(super) fn gate(&self) -> anyhow::Result<Option<Gate>> {
        let read = |path: &PathBuf| Gate::read(path, &self.gate_metric, self.max_drop);
        Ok(self.gate.as_ref().map(read).transpose()?)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::super::{Cli, Command};
    use super::*;

    fn args(flags: &[&str]) -> Box<EvalArgs> {
        let cli = Cli::parse_from(["podium", "eval"].iter().chain(flags));
        let Command::Eval(args) = cli.command else { panic!("eval was asked for") };
        args
    }

    #[test]
    fn without_flags_the_settings_have_the_documented_defaults() {
        let expected = EvalSettings {
            measures: Measure::defaults(10),
            top: 32,
            orders: 3,
            seed: 1,
            queries: None,
            instruction: None,
            mode: Mode::Auto,
            max_tokens_per_doc: None,
            ignore_identical_ids: false,
            concurrency: 1,
            run: None,
            early_exit: None,
            top_n: None,
            stop_when_sure: None,
        };
        assert_eq!(args(&["set"]).eval_settings(), expected);
    }

    #[test]
    fn every_flag_is_converted_to_a_setting() {
        let made = args(&[
            "set",
            "-k",
            "5",
            "--top",
            "8",
            "--orders",
            "1",
            "--seed",
            "9",
            "--queries",
            "3",
            "-i",
            "x",
            "--mode",
            "pointwise",
            "--max-tokens-per-doc",
            "64",
            "--run",
            "r",
            "--concurrency",
            "4",
            "--ignore-identical-ids",
            "--top-n",
            "7",
        ]);
        let expected = EvalSettings {
            measures: Measure::defaults(5),
            top: 8,
            orders: 1,
            seed: 9,
            queries: Some(3),
            instruction: Some("x".to_owned()),
            mode: Mode::Pointwise,
            max_tokens_per_doc: Some(64),
            ignore_identical_ids: true,
            concurrency: 4,
            run: Some("r".to_owned()),
            early_exit: None,
            top_n: Some(7),
            stop_when_sure: None,
        };
        assert_eq!(made.eval_settings(), expected);
    }

    #[test]
    fn a_plot_and_an_early_exit_need_systems_to_compare() {
        let problem = |flags: &[&str]| args(flags).check().unwrap_err().0;
        let plot = "--plot draws several systems; add --compare, --early-exit, --stop-when-sure or several --url-model";
        assert_eq!(problem(&["set", "--plot", "x.svg"]), plot);
        let url = ["set", "--early-exit", "3,5", "--url", "http://x/"];
        assert_eq!(problem(&url), "--early-exit measures a model in this process; remove --url");
        let made = args(&["set", "--early-exit", "3,5", "--exit-keep", "4", "--plot", "x.svg"]);
        assert!(made.check().is_ok());
        assert_eq!((&made.early_exit[..], made.exit_keep), (&[3, 5][..], 4));
    }

    #[test]
    fn the_models_of_a_server_are_compared_and_the_last_one_with_each_probability() {
        let flags = ["set", "--url", "http://x/", "--url-model", "mini,careful", "--top-n", "10"];
        let models = args(&flags);
        assert!(models.compares_systems() && models.check().is_ok());
        assert_eq!(models.endpoints().unwrap().iter().map(Endpoint::name).collect::<Vec<_>>(), ["mini", "careful"]);
        let sure = args(&[&flags[..], &["--stop-when-sure", "0.5,0.95", "--plot", "x.svg"]].concat());
        assert!(sure.check().is_ok());
        assert_eq!(sure.stop_when_sure, [0.5, 0.95]);
        let gated = args(&[&flags[..], &["--gate", "old.json"]].concat());
        assert!(gated.check().unwrap_err().0.starts_with("--gate, --report, --resume and --write-runs are for one"));
        assert_eq!(probability_parser("1.2").unwrap_err(), "expected a number between 0 and 1");
        for (wrong, lacks) in [
            (&["set", "--stop-when-sure", "0.5", "--top-n", "3"][..], "--url"),
            (&["set", "--stop-when-sure", "0.5", "--url", "http://x/"][..], "--top-n"),
        ] {
            let error = Cli::try_parse_from(["podium", "eval"].iter().chain(wrong)).unwrap_err().to_string();
            assert!(error.contains(lacks), "{error}");
        }
    }

    #[test]
    fn a_blank_instruction_is_rejected() {
        let UsageError(problem) = args(&["set", "-i", " "]).check().unwrap_err();
        assert_eq!(problem, "--instruction must not be blank");
    }
}
