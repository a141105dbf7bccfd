//! Measures requests that arrive at given rates, and prints the result.

use std::io::{self, Write};
use std::time::Duration;

use indicatif::ProgressBar;

use super::args::{OpenLoopPlan, RequestRate};
use super::subject::Subject;
use super::table::{NONE, align_right, format_significant, new_table};
use crate::bench::measure::{CaseSamples, MeasureError, Plan, RequestFailure, StopAfter, measure};
use crate::bench::open_loop::{self, Load, RateReport, capacities, rates_around};
use crate::bench::report::OpenLoopReport;
use crate::bench::workload::Case;

/// For `auto`: the number of waiting clients and the time that measure the throughput.
const CLIENTS: usize = 8;
const THROUGHPUT_TIME: Duration = Duration::from_secs(5);

/// Measures every case at every rate.
pub(super) fn measure_rates(
    plan: &OpenLoopPlan,
    subject: &Subject,
    runtime: &tokio::runtime::Runtime,
    cases: &[Case],
    bar: &ProgressBar,
) -> Result<OpenLoopReport, MeasureError> {
    let mut rates = Vec::new();
    for case in cases {
        bar.set_message("warming up");
        let chosen = match &plan.rates {
            RequestRate::Listed(rates) => rates.clone(),
            RequestRate::Auto => rates_around(throughput(subject, runtime, case, bar)?),
        };
        let Some(system) = subject.systems.system_for(case.route) else { continue };
        for rate in chosen {
            bar.set_message(format!("{} requests/s", format_significant(rate)));
            let load = Load { rate, duration: plan.duration, seed: plan.seed };
            let outcomes = runtime.block_on(open_loop::run(system, case, &load, &|| bar.inc(1))).map_err(|cause| {
                RequestFailure { documents: case.mean_documents() as usize, route: case.route, concurrency: 1, cause }
            })?;
            rates.push(RateReport::new(case, &load, &outcomes, plan.objective));
        }
    }
    Ok(OpenLoopReport {
        objective_p99_ms: plan.objective.p99_ms,
        seconds: plan.duration.as_secs_f64(),
        target_rate: plan.target_rate,
        capacities: capacities(&rates, plan.objective, plan.target_rate),
        rates,
    })
}

/// Requests per second of clients that wait for their responses.
fn throughput(
    subject: &Subject,
    runtime: &tokio::runtime::Runtime,
    case: &Case,
    bar: &ProgressBar,
) -> Result<f64, MeasureError> {
    let waiting = [Case { concurrency: CLIENTS, ..case.clone() }];
    let plan = Plan { stop_after: StopAfter::Time(THROUGHPUT_TIME), rounds: 1, warm_up: 1 };
    let measured = measure(runtime, &subject.systems, &waiting, &plan, |_| Ok(()), &|| bar.inc(1))?;
    let per_second = |samples: &CaseSamples| samples.samples.len() as f64 / samples.seconds;
    Ok(measured.first().map_or(1.0, per_second).max(0.01))
}

/// Prints the rates and the capacity of each case.
pub(super) fn write(out: &mut dyn Write, report: &OpenLoopReport) -> io::Result<()> {
    let objective = format_significant(report.objective_p99_ms);
    let within = format!("within {objective} ms");
    let mut table = new_table(&[
        "route",
        "docs",
        "tokens",
        "req/s",
        "requests",
        "rejected",
        "done/s",
        &within,
        "goodput/s",
        "p50",
        "p95",
        "p99",
        "max",
    ]);
    for rate in &report.rates {
        let latency = &rate.latency_ms;
        let percentile = |value: Option<f64>| value.map_or_else(|| NONE.to_owned(), format_significant);
        table.add_row([
            rate.route.to_owned(),
            format_significant(rate.documents),
            rate.tokens_asked.clone().unwrap_or_else(|| NONE.to_owned()),
            format_significant(rate.rate),
            rate.requests.to_string(),
            rate.rejected.to_string(),
            format_significant(rate.completed_per_second),
            format!("{:.1} %", rate.within_objective * 100.0),
            format_significant(rate.goodput),
            percentile(latency.p50),
            percentile(latency.p95),
            percentile(latency.p99),
            format_significant(latency.max),
        ]);
    }
    writeln!(
        out,
        "requests arrive at random times for {} s at each rate; latency in ms from the planned arrival\n{}",
        format_significant(report.seconds),
        align_right(table)
    )?;
    for found in &report.capacities {
        let tokens = found.tokens_asked.as_deref().map(|tokens| format!(" of {tokens} tokens")).unwrap_or_default();
        let case = format!("{}, {} documents{tokens}", found.route, format_significant(found.documents));
        match (found.requests_per_second, report.target_rate.zip(found.replicas)) {
            (None, _) => writeln!(out, "capacity ({case}): no measured rate has 99 % of its requests {within}")?,
            (Some(rate), None) => {
                writeln!(out, "capacity ({case}): {} requests/s, 99 % {within}", format_significant(rate))?;
            }
            (Some(rate), Some((target, replicas))) => writeln!(
                out,
                "capacity ({case}): {} requests/s, 99 % {within}; for {} requests/s {replicas} replicas",
                format_significant(rate),
                format_significant(target)
            )?,
        }
    }
    Ok(())
}
