//! Reads requests from a JSONL file. Each line is a body of `POST /v1/rerank`.

use std::fs;
use std::path::Path;

use super::super::UsageError;
use crate::bench::workload::RequestSet;
use crate::http::dialects::podium;
use crate::rerank::{Mode, RerankRequest};

/// Reads a file with at least one request. `mode`, if given, overrides that of the requests.
pub(super) fn read(path: &Path, mode: Option<Mode>) -> Result<RequestSet, UsageError> {
    let file = path.display();
    let invalid = |problem: String| UsageError(format!("--requests: {problem}"));
    let text = fs::read_to_string(path).map_err(|error| invalid(format!("cannot read {file}: {error}")))?;
    let mut requests = Vec::new();
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let request =
            parse_request(line, mode).map_err(|problem| invalid(format!("{file}, line {}: {problem}", index + 1)))?;
        requests.push(request);
    }
    if requests.is_empty() {
        return Err(invalid(format!("{file} has no requests")));
    }
    Ok(RequestSet { length: None, requests: requests.into() })
}

fn parse_request(line: &str, mode: Option<Mode>) -> Result<RerankRequest, String> {
    let (request, _) = podium::parse(line.as_bytes()).map_err(|error| error.to_string())?;
    if request.documents.is_empty() {
        return Err("documents: must not be empty".to_owned());
    }
    // The command line selects the model, and the endpoint's client expects complete rankings.
    Ok(RerankRequest { model: None, top_n: None, mode: mode.unwrap_or(request.mode), ..request })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_and_errors_name_the_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(
            file.path(),
            "{\"query\":\"q\",\"documents\":[\"a\",{\"text\":\"b\"}],\"instruction\":\"i\",\"top_n\":1}\n\n",
        )
        .unwrap();
        let set = read(file.path(), Some(Mode::Pointwise)).unwrap();
        let expected = RerankRequest {
            instruction: Some("i".into()),
            mode: Mode::Pointwise,
            ..RerankRequest::new("q", vec!["a".to_owned(), "b".to_owned()])
        };
        assert_eq!(*set.requests, [expected]);
        for (text, problem) in [
            ("\n", "has no requests"),
            ("{\"query\":\"q\",\"documents\":[\"a\"]}\n{\"query\":1}", "line 2: query: expected a string"),
            ("{\"query\":\"q\",\"documents\":[]}", "line 1: documents: must not be empty"),
        ] {
            fs::write(file.path(), text).unwrap();
            let UsageError(found) = read(file.path(), None).unwrap_err();
            assert!(found.contains(problem) && found.contains(&file.path().display().to_string()), "{found}");
        }
    }
}
