//! Requests from a JSONL file, each line as the server takes it.

use std::fs;
use std::path::Path;

use super::super::UsageError;
use crate::bench::workload::Kind;
use crate::http::dialects::podium;
use crate::rerank::{Mode, RerankRequest};

/// Reads a file of at least one request. `mode`, where it is given, wins over the requests' own.
pub(super) fn read(path: &Path, mode: Option<Mode>) -> Result<Kind, UsageError> {
    let shown = path.display();
    let refuse = |problem: String| UsageError(format!("--requests: {problem}"));
    let text = fs::read_to_string(path).map_err(|error| refuse(format!("cannot read {shown}: {error}")))?;
    let mut requests = Vec::new();
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let request =
            request(line, mode).map_err(|problem| refuse(format!("{shown}, line {}: {problem}", index + 1)))?;
        requests.push(request);
    }
    if requests.is_empty() {
        return Err(refuse(format!("{shown} holds no request")));
    }
    Ok(Kind { length: None, requests: requests.into() })
}

fn request(line: &str, mode: Option<Mode>) -> Result<RerankRequest, String> {
    let request = podium::parse(line.as_bytes()).map_err(|error| error.to_string())?;
    if request.documents.is_empty() {
        return Err("documents: must hold at least one document".to_owned());
    }
    // Which model answers is the command line's to say, and the endpoint's client knows only whole rankings.
    Ok(RerankRequest { model: None, top_n: None, mode: mode.unwrap_or(request.mode), ..request })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_line_by_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(
            file.path(),
            "{\"query\":\"q\",\"documents\":[\"a\",{\"text\":\"b\"}],\"instruction\":\"i\",\"top_n\":1}\n\n",
        )
        .unwrap();
        let kind = read(file.path(), Some(Mode::Pointwise)).unwrap();
        let expected = RerankRequest {
            instruction: Some("i".into()),
            mode: Mode::Pointwise,
            ..RerankRequest::new("q", vec!["a".to_owned(), "b".to_owned()])
        };
        assert_eq!(*kind.requests, [expected]);
        for (text, problem) in [
            ("\n", "holds no request"),
            ("{\"query\":\"q\",\"documents\":[\"a\"]}\n{\"query\":1}", "line 2: query: expected a string"),
            ("{\"query\":\"q\",\"documents\":[]}", "line 1: documents: must hold at least one document"),
        ] {
            fs::write(file.path(), text).unwrap();
            let UsageError(found) = read(file.path(), None).unwrap_err();
            assert!(found.contains(problem) && found.contains(&file.path().display().to_string()), "{found}");
        }
    }
}
