//! The cost of requests: latency, tokens, truncated documents.

use crate::eval::report::{Distribution, Latency, Tokens};
use crate::eval::run::Pass;
use crate::eval::statistics::{mean, quantile};

/// Share of the scored documents that were truncated; `None` if the system does not report it.
pub(super) fn truncated_share(passes: &[&Pass]) -> Option<f64> {
    let reported: Vec<&Vec<bool>> = passes.iter().map(|pass| pass.truncated.as_ref()).collect::<Option<_>>()?;
    let documents: usize = reported.iter().map(|cut| cut.len()).sum();
    let cut: usize = reported.iter().flat_map(|cut| cut.iter()).filter(|cut| **cut).count();
    (documents > 0).then(|| cut as f64 / documents as f64)
}

pub(super) fn latency_ms(pass: &Pass) -> f64 {
    pass.latency.as_secs_f64() * 1000.0
}

pub(super) fn summarize_latency(passes: &[&Pass]) -> Latency {
    let times: Vec<f64> = passes.iter().map(|pass| latency_ms(pass)).collect();
    Latency {
        requests: times.len(),
        retries: passes.iter().map(|pass| pass.retries).sum(),
        mean: mean(&times),
        p50: quantile(&times, 0.5),
        p95: quantile(&times, 0.95),
        p99: quantile(&times, 0.99),
        max: quantile(&times, 1.0),
    }
}

pub(super) fn summarize_tokens(passes: &[&Pass]) -> Option<Tokens> {
    let totals: Vec<f64> =
        passes.iter().map(|pass| pass.prompt_tokens.map(|tokens| tokens as f64)).collect::<Option<_>>()?;
    let documents = |(pass, total): (&&Pass, &f64)| match &pass.tokens_read {
        Some(read) => read.iter().map(|tokens| *tokens as f64).collect(),
        None => vec![total / pass.ranking.len() as f64; pass.ranking.len()],
    };
    let documents: Vec<f64> = passes.iter().zip(&totals).flat_map(documents).collect();
    let seconds: f64 = passes.iter().map(|pass| pass.latency.as_secs_f64()).sum();
    (seconds > 0.0).then(|| Tokens {
        per_request: distribution(&totals),
        per_document: distribution(&documents),
        per_second: totals.iter().sum::<f64>() / seconds,
    })
}

fn distribution(values: &[f64]) -> Distribution {
    Distribution {
        mean: mean(values),
        p50: quantile(values, 0.5),
        p95: quantile(values, 0.95),
        max: quantile(values, 1.0),
    }
}
