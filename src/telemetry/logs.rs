//! The log: to standard error, as text or as one JSON object a line.
//!
//! At info level each request is one line. With `RUST_LOG=podium=debug` a request's spans are in
//! the log too: each stage is a line when it ends, and every line names the request that it belongs
//! to.

use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::{FilterExt, FilterFn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::secrets::MaskingWriter;
use super::traces::trace_id;
use super::{RequestRecord, TelemetrySettings, Traces};

/// The log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `RUST_LOG` is not a filter.
    #[error("RUST_LOG is not a filter: {0}")]
    Filter(String),
    /// The process has a log already.
    #[error("cannot start the log: {0}")]
    Started(String),
}

/// Starts the log of this process, which panics go to as well, and hands spans to `traces`.
///
/// # Errors
/// A `RUST_LOG` that cannot be parsed, a log that was started before.
pub fn start_logs(settings: &TelemetrySettings, traces: Option<&Traces>) -> Result<(), LogError> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => {
            EnvFilter::try_new(directives).map_err(|error| LogError::Filter(error.to_string()))?
        }
        // Most of what libraries log is of no use to an operator.
        _ => EnvFilter::new(match settings.log_level.as_str() {
            level @ ("off" | "error" | "warn") => level.to_owned(),
            level => format!("warn,podium={level}"),
        }),
    };
    let is_terminal = std::io::stderr().is_terminal();
    let started = tracing_subscriber::registry()
        .with(traces.map(Traces::layer))
        .with(log_layer(settings.log_format == "json", is_terminal, filter, std::io::stderr))
        .try_init();
    started.map_err(|error| LogError::Started(error.to_string()))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// The layer that writes the log. Spans are only made for it at debug level: at info level they
/// would cost time and lengthen every line.
fn log_layer<S, W>(is_json: bool, is_terminal: bool, filter: EnvFilter, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let max_level = filter.max_level_hint().unwrap_or(LevelFilter::TRACE);
    let with_spans = max_level >= LevelFilter::DEBUG;
    // Without the hint, the libraries' `log` records of all levels are formatted first and filtered
    // then. The tokenizer makes many for each text.
    let spans = FilterFn::new(move |metadata| with_spans || metadata.is_event()).with_max_level_hint(max_level);
    let filter = filter.and(spans);
    let layer = tracing_subscriber::fmt::layer().with_writer(MaskingWriter(writer)).with_span_events(FmtSpan::CLOSE);
    if is_json {
        let json = layer.json().flatten_event(true).with_current_span(true).with_span_list(true);
        json.with_filter(filter).boxed()
    } else {
        layer.with_ansi(is_terminal).with_target(false).with_filter(filter).boxed()
    }
}

/// Logs a panic. Its message may be made from a caller's text, such as a string that could not be
/// sliced; only a message that is literally in the source is repeated.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let message = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(withheld: made at run time)");
    tracing::error!(place, message, "panic");
}

macro_rules! log_at {
    ($level:expr, $($field:tt)*) => {
        match $level {
            Level::ERROR => tracing::error!($($field)*),
            Level::WARN => tracing::warn!($($field)*),
            Level::INFO => tracing::info!($($field)*),
            Level::DEBUG => tracing::debug!($($field)*),
            Level::TRACE => tracing::trace!($($field)*),
        }
    };
}

/// One line for one request.
pub(super) fn log(request: &RequestRecord<'_>) {
    let &RequestRecord { id, key, method, route, status, elapsed, ranking, failure, span, .. } = request;
    let trace_id = trace_id(span);
    let milliseconds = elapsed.as_micros() as f64 / 1000.0;
    let usual = if route.is_quiet() { Level::DEBUG } else { Level::INFO };
    let route = route.path;
    match (failure, ranking) {
        (Some(failure), _) => log_at!(
            failure.level,
            id,
            trace_id,
            key,
            method,
            route,
            status,
            milliseconds,
            code = failure.code,
            param = failure.param,
            cause = failure.cause,
            "request failed"
        ),
        (None, Some(ranking)) => log_at!(
            usual,
            id,
            trace_id,
            key,
            method,
            route,
            status,
            milliseconds,
            mode = ranking.mode.as_str(),
            documents = ranking.documents,
            slates = ranking.slates,
            tokens = ranking.usage.prompt_tokens,
            truncated = ranking.usage.truncated_documents,
            queue_ms = ranking.timing.queue.as_micros() as f64 / 1000.0,
            tokenize_ms = ranking.timing.tokenize.as_micros() as f64 / 1000.0,
            forward_ms = ranking.timing.forward.as_micros() as f64 / 1000.0,
            "ranked"
        ),
        (None, None) => log_at!(usual, id, trace_id, key, method, route, status, milliseconds, "request"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use reqwest::header::HeaderMap;
    use serde_json::Value;

    use super::*;

    #[test]
    fn records_below_the_level_of_the_log_are_skipped_before_they_are_made() {
        for (directives, level) in [("warn,podium=info", LevelFilter::INFO), ("podium=debug", LevelFilter::DEBUG)] {
            let layer = log_layer(false, false, EnvFilter::new(directives), std::io::sink);
            let subscriber = tracing_subscriber::registry().with(layer);
            assert_eq!(subscriber.max_level_hint(), Some(level));
        }
    }
    use crate::context::{RequestTimeline, Stage};
    use crate::telemetry::{Route, Telemetry, request_span};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The lines that one request with one stage leaves.
    fn logged(is_json: bool, filter: &str) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = log_layer(is_json, false, EnvFilter::new(filter), move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let route = Route::rank("/v1/rerank");
            let span = request_span("my-id", "POST", route, &HeaderMap::new());
            let timeline = RequestTimeline::new(span.clone());
            timeline.note_model("a-model");
            drop(timeline.begin(Stage::Tokenize, Some(12)));
            Telemetry::default().record(&RequestRecord {
                id: "my-id",
                key: None,
                method: "POST",
                route,
                status: 200,
                elapsed: std::time::Duration::from_millis(5),
                ranking: None,
                failure: None,
                timeline: &timeline,
                span: &span,
            });
        });
        let written = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        written.lines().map(str::to_owned).collect()
    }

    #[test]
    fn at_info_level_a_request_is_one_line_without_spans() {
        for (is_json, filter) in [(false, "warn,podium=info"), (true, "warn,podium=info")] {
            let lines = logged(is_json, filter);
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(!lines[0].contains("otel") && !lines[0].contains("span"), "{}", lines[0]);
        }
        assert!(logged(false, "warn").is_empty());
    }

    #[test]
    fn passwords_in_urls_are_masked_in_the_log() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = log_layer(true, false, EnvFilter::new("info"), move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(to = "http://user:hunter2@collector:4318", "setting changed");
        });
        let written = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(written.contains("http://***@collector:4318") && !written.contains("hunter2"), "{written}");
    }

    #[test]
    fn at_debug_level_the_log_tells_the_stages_of_a_request() {
        let lines = logged(false, "podium=debug");
        let has = |words: &[&str]| lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
        let of_request = "podium.request_id=\"my-id\"";
        assert!(has(&["request received", of_request]), "{lines:?}");
        assert!(has(&["tokenize{podium.tokens=12}: ", of_request, "close time.busy="]), "{lines:?}");
        assert!(has(&["podium.model=\"a-model\"", of_request, "close time.busy="]), "{lines:?}");
        let json: Vec<Value> =
            logged(true, "podium=debug").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let span = |name: &str| json.iter().map(|line| &line["span"]).find(|span| span["name"] == name).unwrap();
        assert_eq!(span("request")["podium.request_id"], "my-id");
        assert_eq!(span("tokenize")["podium.tokens"], 12);
    }
}
