//! The log: to standard error, for people or as one JSON object a line.

use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing::Level;
use tracing_subscriber::EnvFilter;

use super::{QUIET_ROUTES, RequestRecord, RequestTrace, TelemetrySettings};

/// The log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `RUST_LOG` is not a filter.
    #[error("RUST_LOG is not a filter: {0}")]
    Filter(String),
    /// There is a log already.
    #[error("cannot start the log: {0}")]
    Started(String),
}

/// Starts the log of this process, and sends panics there.
///
/// # Errors
/// A `RUST_LOG` that cannot be parsed, a log that was started before.
pub fn start_logs(settings: &TelemetrySettings) -> Result<(), LogError> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => {
            EnvFilter::try_new(directives).map_err(|error| LogError::Filter(error.to_string()))?
        }
        // The libraries below say little that an operator can use.
        _ => EnvFilter::new(match settings.log_level.as_str() {
            level @ ("off" | "error" | "warn") => level.to_owned(),
            level => format!("warn,podium={level}"),
        }),
    };
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if settings.log_format == "json" {
        subscriber.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        subscriber.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
    };
    started.map_err(|error| LogError::Started(error.to_string()))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// A panic's message may be made from anything at hand, such as the text that could not be sliced; only one that was
/// written out in the source is repeated. The place says the rest.
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
    let &RequestRecord { id, key, method, route, status, elapsed, ranking, failure, trace, .. } = request;
    let trace_id = trace.map(RequestTrace::id);
    let milliseconds = elapsed.as_micros() as f64 / 1000.0;
    let usual = if QUIET_ROUTES.contains(&route) { Level::DEBUG } else { Level::INFO };
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
