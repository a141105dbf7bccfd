//! `podium rerank`: rank documents without a server.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::input::{self, Format, Input, NO_DOCUMENTS};
use super::{SettingsArgs, UsageError, output, start_quiet_logs};
use crate::app;
use crate::http::dialects::documents::SentDocuments;
use crate::http::dialects::podium::RerankReply;
use crate::rerank::{MinScore, Mode, RerankRequest};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  podium rerank -q 'capital of France' -d 'Paris is the capital.' \\
    -d 'Lyon is a city.'
  podium rerank -q 'capital of France' --top-n 3 documents.txt
  cat documents.jsonl | podium rerank -q 'capital of France' \\
    --instruction 'prefer recent sources' --json
  podium rerank -q 'capital of France' --explain documents.txt
  podium rerank request.json

request.json holds a complete request, as for POST /v1/rerank; flags win over its fields.")]
pub(super) struct RerankArgs {
    /// File with documents or with a complete request; - is standard input
    #[arg(value_name = "FILE", conflicts_with = "documents")]
    file: Option<PathBuf>,
    /// Query to rank the documents for
    #[arg(long, short, value_name = "TEXT")]
    query: Option<String>,
    /// Document; can be repeated
    #[arg(long = "document", short, value_name = "TEXT")]
    documents: Vec<String>,
    /// Instruction in plain language: what makes a document relevant
    #[arg(long, short, value_name = "TEXT")]
    instruction: Option<String>,
    /// Name of a stored instruction, such as legal or recent
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Print only the best N documents
    #[arg(long, short = 'n', value_name = "N")]
    top_n: Option<usize>,
    /// Leave out documents below this relevance, from 0 to 1; auto cuts at the largest gap
    #[arg(long, value_name = "SCORE", value_parser = parse_min_score)]
    min_score: Option<MinScore>,
    /// auto, listwise (up to 64 documents in one pass) or pointwise (one document at a time)
    #[arg(long, value_name = "MODE", value_parser = mode_parser())]
    mode: Option<Mode>,
    /// Maximum tokens of each document; the rest is cut off
    #[arg(long, value_name = "N")]
    max_tokens_per_doc: Option<usize>,
    /// Refuse texts that are too long instead of truncating them
    #[arg(long)]
    no_truncation: bool,
    /// Format of the input
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "auto")]
    format: Format,
    /// Print the JSON response of POST /v1/rerank instead of a table
    #[arg(long)]
    json: bool,
    /// Print the prompts that the model would read, and do not rank
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

fn parse_min_score(word: &str) -> Result<MinScore, String> {
    if word == "auto" {
        return Ok(MinScore::Auto);
    }
    let score = word.parse().ok().filter(|score| (0.0..=1.0).contains(score));
    score.map(MinScore::Score).ok_or_else(|| "expected a number from 0 to 1, or auto".to_owned())
}

pub(super) fn mode_parser() -> impl TypedValueParser<Value = Mode> {
    let words = [Mode::Auto, Mode::Listwise, Mode::Pointwise].map(Mode::as_str);
    PossibleValuesParser::new(words).map(|word| match word.as_str() {
        "listwise" => Mode::Listwise,
        "pointwise" => Mode::Pointwise,
        _ => Mode::Auto,
    })
}

pub(super) fn run(args: RerankArgs) -> anyhow::Result<()> {
    let configuration = args.settings.configuration(Vec::new())?;
    start_quiet_logs(&configuration)?;
    let (json, explain) = (args.json, args.explain);
    let (request, warnings) = request(args)?;
    let texts = request.documents.clone();

    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let _inside = runtime.enter();
    let reranker = app::load_reranker(&configuration.settings)?;
    let mut out = std::io::stdout().lock();
    if explain {
        let explanation = reranker.explain(&request)?;
        if json {
            serde_json::to_writer_pretty(&mut out, &explanation)?;
            writeln!(out)?;
        } else {
            output::write_explanation(&mut out, &explanation)?;
        }
        return Ok(());
    }
    runtime.block_on(reranker.run_canary())?;
    let mut ranking = runtime.block_on(reranker.rerank(request))?;
    ranking.warnings.extend(warnings);
    if json {
        let sent = SentDocuments::from(texts.as_slice());
        let id = uuid::Uuid::new_v4().to_string();
        serde_json::to_writer_pretty(&mut out, &RerankReply::new(&id, &ranking, &sent))?;
        writeln!(out)?;
    } else {
        output::write_ranking(&mut out, &ranking, &texts)?;
        for warning in &ranking.warnings {
            writeln!(std::io::stderr(), "warning: {warning}")?;
        }
    }
    Ok(())
}

/// Builds the request from the flags and the input, with warnings about the input's fields.
fn request(args: RerankArgs) -> anyhow::Result<(RerankRequest, Vec<String>)> {
    let base = if args.documents.is_empty() {
        input::parse(&input::read(args.file.as_deref())?, args.format)?
    } else {
        Input::Documents(args.documents)
    };
    let (mut request, warnings) = match base {
        Input::Documents(documents) => (RerankRequest::new(String::new(), documents), Vec::new()),
        Input::Request(request, warnings) => (*request, warnings),
    };
    if request.documents.is_empty() {
        return Err(UsageError(NO_DOCUMENTS.to_owned()).into());
    }
    if let Some(query) = args.query {
        request.query = query;
    } else if request.query.is_empty() {
        return Err(UsageError("no query; give one with -q TEXT".to_owned()).into());
    }
    request.instruction = args.instruction.map(Into::into).or(request.instruction);
    request.profile = args.profile.map(Into::into).or(request.profile);
    request.top_n = args.top_n.or(request.top_n);
    request.min_score = args.min_score.or(request.min_score);
    request.mode = args.mode.unwrap_or(request.mode);
    request.max_tokens_per_doc = args.max_tokens_per_doc.or(request.max_tokens_per_doc);
    request.truncation &= !args.no_truncation;
    Ok((request, warnings))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;

    fn request_of(flags: &[&str]) -> RerankRequest {
        let cli = Cli::parse_from(["podium", "rerank"].iter().chain(flags));
        let Command::Rerank(args) = cli.command else { panic!("expected the command rerank") };
        request(args).unwrap().0
    }

    #[test]
    fn flags_build_a_request() {
        let made = request_of(&["-q", "q", "-d", "a", "-d", "b", "-n", "1", "--mode", "listwise", "--no-truncation"]);
        let expected = RerankRequest {
            top_n: Some(1),
            mode: Mode::Listwise,
            truncation: false,
            ..RerankRequest::new("q", vec!["a".to_owned(), "b".to_owned()])
        };
        assert_eq!(made, expected);
    }

    #[test]
    fn flags_win_over_a_request_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"query":"q","documents":["a"],"top_n":2,"instruction":"i"}"#).unwrap();
        let made = request_of(&["--top-n", "1", file.path().to_str().unwrap()]);
        assert_eq!(made.query, "q");
        assert_eq!(made.top_n, Some(1));
        assert_eq!(made.instruction.as_deref(), Some("i"));
    }
}
