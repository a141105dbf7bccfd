//! A report as tables for people.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table, TableComponent};

use crate::eval::gate::Comparison;
use crate::eval::report::{Estimate, Gain, Report, SetReport, Verdict};

/// Everything of a report that fits on a screen; what needs a look comes last.
pub(super) fn write_report(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    writeln!(out, "{}", heading(report))?;
    for set in &report.sets {
        writeln!(out, "{}: {}", set.name, about(set))?;
    }
    writeln!(out)?;
    writeln!(out, "{}", quality(report))?;
    writeln!(out, "\ngain in {} (queries won, tied, lost)", shown(&report.primary))?;
    writeln!(out, "{}", gains(report))?;
    if report.sets.iter().any(|set| set.instruction.is_some()) {
        writeln!(out, "\ninstruction, with against without, in the given order")?;
        writeln!(out, "{}", instructions(report))?;
    }
    writeln!(out, "\nscores")?;
    writeln!(out, "{}", robustness(report))?;
    writeln!(out, "\ntime of a request, one at a time")?;
    writeln!(out, "{}", speed(report))?;
    let warnings: Vec<String> = report.sets.iter().filter_map(|set| warning(report, set)).collect();
    if !warnings.is_empty() {
        writeln!(out, "\n{}", warnings.join("\n"))?;
    }
    Ok(())
}

/// The gate's comparisons.
pub(super) fn write_gate(out: &mut dyn Write, compared: &[Comparison], max_drop: f64) -> io::Result<()> {
    let Some(first) = compared.first() else { return Ok(()) };
    writeln!(out, "\ngate: {} may fall by {max_drop}", shown(&first.metric))?;
    let mut table = table(&["set", "was", "is", "drop", ""]);
    for set in compared {
        let verdict = if set.failed { "FELL" } else { "ok" };
        table.add_row([
            set.set.clone(),
            format!("{:.4}", set.was),
            format!("{:.4}", set.is),
            format!("{:+.4}", set.drop()),
            verdict.to_owned(),
        ]);
    }
    writeln!(out, "{}", aligned(table, 4))
}

fn heading(report: &Report) -> String {
    let (system, settings) = (&report.system, &report.settings);
    let facts: Vec<&str> =
        [&system.family, &system.device, &system.url].into_iter().flatten().map(String::as_str).collect();
    let orders = match settings.orders {
        1 => "1 input order".to_owned(),
        orders => format!("mean of {orders} input orders"),
    };
    format!(
        "{} ({}): first {} documents reranked, {orders}, seed {}, {:.0} s",
        system.name,
        facts.join(", "),
        settings.top,
        settings.seed,
        report.seconds
    )
}

/// What a set holds, and what of it was left out.
fn about(set: &SetReport) -> String {
    let mut parts =
        vec![format!("{} of {} documents, {}", counted(set.queries, "query"), set.documents, set.first_stage)];
    let left = &set.left_out;
    for (count, what) in [
        (left.queries_not_sampled, "not in the sample"),
        (left.queries_without_relevant, "without a relevant document left out"),
        (left.queries_unjudged, "without judgements left out"),
        (left.queries_without_candidates, "for which the first stage found nothing score 0"),
    ] {
        if count > 0 {
            parts.push(format!("{} {what}", counted(count, "query")));
        }
    }
    if left.relevant_not_reranked > 0 {
        let relevant: usize = set.per_query.iter().map(|query| query.relevant).sum();
        let missing = left.relevant_not_reranked;
        parts.push(format!("{missing} of {relevant} relevant documents are not among those reranked"));
    }
    parts.join("; ")
}

fn quality(report: &Report) -> String {
    let mut header = vec!["set".to_owned(), "order".to_owned(), shown(&report.primary), "95 %".to_owned()];
    header.extend(report.metrics.iter().filter(|name| **name != report.primary).map(|name| shown(name)));
    let mut table = table(&header);
    for set in &report.sets {
        let systems = &set.systems;
        for (name, order, values) in
            [(&*set.name, "reranked", &systems.reranked), ("", "BM25", &systems.bm25), ("", "input", &systems.input)]
        {
            let mut row = vec![name.to_owned(), order.to_owned()];
            row.extend(
                values
                    .get(&report.primary)
                    .map_or(["".to_owned(), "".to_owned()], |value| [format!("{:.3}", value.mean), interval(value)]),
            );
            let others = report.metrics.iter().filter(|name| **name != report.primary);
            row.extend(others.map(|name| values.get(name).map_or(String::new(), |value| format!("{:.3}", value.mean))));
            table.add_row(row);
        }
    }
    aligned(table, 2)
}

fn gains(report: &Report) -> String {
    let mut table = table(&["set", "over BM25", "95 %", "p", "w/t/l", "over input", "95 %", "p", "w/t/l", ""]);
    for set in &report.sets {
        let mut row = vec![set.name.clone()];
        for gains in [&set.gains.bm25, &set.gains.input] {
            row.extend(gains.get(&report.primary).map_or_else(|| [const { String::new() }; 4], cells));
        }
        row.push(match set.verdict {
            Verdict::Better => "better than BM25".to_owned(),
            Verdict::Unclear => "unclear".to_owned(),
            Verdict::NotBetter => "NOT better than BM25".to_owned(),
        });
        table.add_row(row);
    }
    aligned(table, 1)
}

fn instructions(report: &Report) -> String {
    let metric = shown(&report.primary);
    let mut table = table(&[
        "set",
        "queries",
        "texts",
        &format!("{metric} with"),
        "without",
        "gain",
        "95 %",
        "p",
        "w/t/l",
        "tau",
        "other first",
    ]);
    for set in &report.sets {
        let Some(effect) = &set.instruction else { continue };
        let mean = |values: &std::collections::BTreeMap<String, Estimate>| {
            values.get(&report.primary).map_or(String::new(), |value| format!("{:.3}", value.mean))
        };
        let mut row = vec![set.name.clone(), effect.queries.to_string(), effect.texts.to_string()];
        row.extend([mean(&effect.systems.instructed), mean(&effect.systems.plain)]);
        row.extend(effect.gain.get(&report.primary).map_or_else(|| [const { String::new() }; 4], cells));
        row.extend([three(effect.kendall_tau), percent(Some(effect.first_changed))]);
        table.add_row(row);
    }
    aligned(table, 1)
}

fn robustness(report: &Report) -> String {
    let header = ["set", "tau between orders", "5 % below", "position rho", "ECE", "Brier", "relevant", "cut"];
    let mut table = table(&header);
    for set in &report.sets {
        let order = set.order.as_ref();
        let tau = order.and_then(|order| order.kendall_tau);
        let calibration = &set.calibration;
        table.add_row([
            set.name.clone(),
            three(tau.map(|tau| tau.mean)),
            three(tau.map(|tau| tau.p5)),
            three(order.map(|order| order.position_bias.spearman)),
            format!("{:.3}", calibration.ece),
            format!("{:.3}", calibration.brier),
            percent(Some(calibration.relevant_share)),
            percent(set.truncated_share),
        ]);
    }
    aligned(table, 1)
}

fn speed(report: &Report) -> String {
    let header =
        ["set", "requests", "mean ms", "p50", "p95", "p99", "max", "tokens/request", "tokens/document", "tokens/s"];
    let mut table = table(&header);
    for set in &report.sets {
        let time = &set.latency_ms;
        let mut row = vec![set.name.clone(), time.requests.to_string()];
        row.extend([time.mean, time.p50, time.p95, time.p99, time.max].map(|value| format!("{value:.0}")));
        row.extend(set.tokens.map_or_else(
            || ["-"; 3].map(str::to_owned),
            |tokens| {
                [tokens.per_request.mean, tokens.per_document.mean, tokens.per_second]
                    .map(|value| format!("{value:.0}"))
            },
        ));
        table.add_row(row);
    }
    aligned(table, 1)
}

/// A line about a set that needs a look.
fn warning(report: &Report, set: &SetReport) -> Option<String> {
    let (name, metric) = (&set.name, shown(&report.primary));
    let mean = |values: &std::collections::BTreeMap<String, Estimate>| {
        values.get(&report.primary).map_or(0.0, |value| value.mean)
    };
    let (is, bm25) = (mean(&set.systems.reranked), mean(&set.systems.bm25));
    match set.verdict {
        Verdict::Better => None,
        Verdict::Unclear => Some(format!(
            " ? {name}: perhaps no better than BM25: {metric} {is:.3} against {bm25:.3}, and the interval of the gain holds 0"
        )),
        Verdict::NotBetter => Some(format!("!! {name}: not better than BM25: {metric} {is:.3} against {bm25:.3}")),
    }
}

/// Mean with sign, interval, p, and wins, ties and losses.
fn cells(gain: &Gain) -> [String; 4] {
    let p = if gain.p < 0.001 { "<0.001".to_owned() } else { format!("{:.3}", gain.p) };
    let estimate = &gain.estimate;
    let interval = format!("[{:+.3}, {:+.3}]", estimate.low, estimate.high);
    [format!("{:+.3}", estimate.mean), interval, p, format!("{}/{}/{}", gain.wins, gain.ties, gain.losses)]
}

fn interval(value: &Estimate) -> String {
    format!("[{:.3}, {:.3}]", value.low, value.high)
}

fn three(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

/// A measure's name as people write it: `nDCG@10`.
fn shown(name: &str) -> String {
    let (measure, cut) = name.split_once('@').map_or((name, String::new()), |(measure, k)| (measure, format!("@{k}")));
    let measure = match measure {
        "ndcg" => "nDCG",
        "mrr" => "MRR",
        "hit" => "Hit",
        "recall" => "Recall",
        "map" => "MAP",
        other => other,
    };
    format!("{measure}{cut}")
}

fn counted(count: usize, what: &str) -> String {
    match (count, what) {
        (1, _) => format!("1 {what}"),
        (_, "query") => format!("{count} queries"),
        _ => format!("{count} {what}s"),
    }
}

fn table<T: AsRef<str>>(header: &[T]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_style(TableComponent::HeaderLines, '─');
    table.set_header(header.iter().map(AsRef::as_ref));
    table
}

/// The table with every column from `first` on at the right.
fn aligned(mut table: Table, first: usize) -> String {
    for column in table.column_iter_mut().skip(first) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}
