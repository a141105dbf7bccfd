//! Tips in errors of the command line, such as for flags that other servers have and Podium does
//! not.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Flags of vLLM, text-embeddings-inference, Infinity and llama.cpp, and what to do instead.
const TIPS: [(&[&str], &str); 9] = [
    (
        &["--port", "--host", "--hostname", "-p", "--bind", "--address", "--addr", "--url"],
        "address and port are one value: --listen 0.0.0.0:8080",
    ),
    (
        &["--root-path", "--url-prefix", "--api-prefix", "--base-path", "--path-prefix", "--prefix"],
        "the prefix is a setting: server.path_prefix, or PODIUM__SERVER__PATH_PREFIX=/PATH",
    ),
    (
        &["--model-id", "--model-name-or-path", "--model-name", "--model-path", "--hf-repo", "-hf"],
        "the model is given as --model MODEL",
    ),
    (&["--max-client-batch-size"], "the limit on documents is a setting: limits.max_documents"),
    (
        &["--max-batch-tokens", "--max-num-batched-tokens", "--batch-size", "--ubatch-size"],
        "the size of batches is a setting: schedule.max_batch_tokens",
    ),
    (
        &["--max-concurrent-requests", "--max-num-seqs", "--max-queued-requests"],
        "the length of the queue is a setting: schedule.max_queued_requests",
    ),
    (&["--trust-remote-code"], "leave it out: Podium never runs a checkpoint's code"),
    (
        &["--rerank", "--reranking", "--embedding", "--task", "--runner", "--pooling", "--convert"],
        "leave it out: Podium only ranks",
    ),
    (
        &["--ssl-keyfile", "--ssl-certfile", "--ssl-key-file", "--ssl-cert-file"],
        "TLS belongs to the proxy in front; deploy/ has examples",
    ),
];

/// The same error, with a tip if its argument is one of another server, or a 0 where a count starts
/// at 1.
pub(super) fn with_tip(mut error: clap::Error) -> clap::Error {
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg)
        && let Some(tip) = tip(argument)
    {
        insert_tip(&mut error, tip);
    }
    // The standard library's words for a 0 are "number would be zero for non-zero type".
    if error.kind() == ErrorKind::ValueValidation && error.to_string().contains("non-zero type") {
        insert_tip(&mut error, "the least value is 1".to_owned());
    }
    error
}

fn insert_tip(error: &mut clap::Error, tip: String) {
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
}

fn tip(argument: &str) -> Option<String> {
    let flag = argument.split('=').next().unwrap_or_default();
    if !flag.starts_with('-') {
        return Some(format!("a model is given as --model {argument}"));
    }
    let flag = flag.replace('_', "-");
    TIPS.iter().find(|(flags, _)| flags.contains(&flag.as_str())).map(|(_, tip)| (*tip).to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Cli;
    use super::*;

    #[test]
    fn flags_of_other_servers_and_counts_of_0_have_a_tip() {
        for (arguments, expected) in [
            (&["serve", "--port", "8080"][..], "--listen 0.0.0.0:8080"),
            (&["serve", "--host=0.0.0.0"], "--listen 0.0.0.0:8080"),
            (&["serve", "-p", "8080"], "--listen 0.0.0.0:8080"),
            (&["serve", "Qwen/Qwen3-Reranker-0.6B"], "--model Qwen/Qwen3-Reranker-0.6B"),
            (&["serve", "--model-id", "a/b"], "--model MODEL"),
            (&["serve", "--root-path", "/x"], "server.path_prefix"),
            (&["serve", "--trust-remote-code"], "never runs a checkpoint's code"),
            (&["bench", "--documents", "0"], "the least value is 1"),
        ] {
            let arguments = std::iter::once("podium").chain(arguments.iter().copied());
            let error = with_tip(Cli::try_parse_from(arguments).unwrap_err()).to_string();
            assert!(error.contains("tip:") && error.contains(expected), "{error}");
        }
    }
}
