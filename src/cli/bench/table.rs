//! Prints a bench report as tables.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table, TableComponent};

use crate::bench::comparison::{BenchComparison, Verdict};
use crate::bench::report::{CaseReport, Report};

/// The cell of a figure that is unknown, or has too few samples.
pub(super) const NONE: &str = "-";

/// Prints the system and the machine.
pub(super) fn write_heading(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    writeln!(out, "{}", heading(report))?;
    writeln!(out, "{}\n", describe_machine(report))
}

/// Prints two tables, and remarks on the figures.
pub(super) fn write_cases(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    let mut speed = new_table(&[
        "route", "docs", "tokens", "clients", "requests", "req/s", "docs/s", "tokens/s", "min", "p50", "p95", "p99",
    ]);
    let mut parts = new_table(&[
        "route",
        "docs",
        "tokens",
        "clients",
        "queue",
        "tokenize",
        "forward",
        "other",
        "GFLOP/s",
        "of product",
        "peak",
    ]);
    for case in &report.cases {
        let name = [
            case.route.to_owned(),
            format_significant(case.documents),
            case.tokens_asked
                .clone()
                .or_else(|| case.tokens_per_document.map(format_significant))
                .unwrap_or_else(|| NONE.to_owned()),
            case.concurrency.to_string(),
        ];
        speed.add_row(name.iter().cloned().chain(speed_cells(case)));
        parts.add_row(name.iter().cloned().chain(part_cells(case)));
    }
    writeln!(out, "latency of a request in ms; tokens/s: tokens through the model per second\n{}", align_right(speed))?;
    writeln!(out, "\nmean time of each stage in ms; peak memory of this process\n{}", align_right(parts))?;
    for remark in remarks(report) {
        writeln!(out, "{remark}")?;
    }
    Ok(())
}

/// Prints every case beside its earlier latency.
pub(super) fn write_comparison(out: &mut dyn Write, compared: &BenchComparison) -> io::Result<()> {
    let mut table = new_table(&["route", "docs", "tokens", "clients", "before", "now", "ratio", "95 %", ""]);
    for case in &compared.cases {
        table.add_row([
            case.route.clone(),
            format_significant(case.documents),
            case.tokens_asked.clone().unwrap_or_else(|| NONE.to_owned()),
            case.concurrency.to_string(),
            format_significant(case.before_ms),
            format_significant(case.now_ms),
            format!("{:.3}", case.ratio),
            format!("[{:.3}, {:.3}]", case.interval.0, case.interval.1),
            match case.verdict {
                Verdict::Faster => "faster",
                Verdict::Same => "no difference",
                Verdict::Slower => "SLOWER",
            }
            .to_owned(),
        ]);
    }
    writeln!(out, "\nmedian latency in ms beside the earlier report on {}\n{}", compared.before, align_right(table))?;
    if compared.only_now > 0 {
        writeln!(out, "\n{} cases are not in the earlier report", compared.only_now)?;
    }
    for remark in &compared.remarks {
        writeln!(out, "\n{remark}")?;
    }
    Ok(())
}

fn heading(report: &Report) -> String {
    let system = &report.system;
    let mut facts: Vec<String> =
        [&system.family, &system.device, &system.dtype, &system.url].into_iter().flatten().cloned().collect();
    facts.extend(system.parameters.map(|count| format!("{} M parameters", format_significant(count as f64 / 1e6))));
    facts.extend(system.resident_bytes.map(|bytes| format!("{} after loading", format_bytes(bytes))));
    format!("{} ({})", system.name, facts.join(", "))
}

fn describe_machine(report: &Report) -> String {
    let (machine, settings) = (&report.machine, &report.settings);
    let length = match (settings.runs, settings.seconds) {
        (Some(1), _) => "1 request per client".to_owned(),
        (Some(runs), _) => format!("{runs} requests per client"),
        (None, seconds) => format!("{} s per case", format_significant(seconds.unwrap_or_default())),
    };
    let rounds = if settings.rounds == 1 { "1 round".to_owned() } else { format!("{} rounds", settings.rounds) };
    let mut text = format!("{length} in {rounds}, warm-up of {}, seed {}", settings.warm_up, settings.seed);
    if let Some(rate) = machine.product_rate {
        text = format!(
            "{} threads, a large matrix product runs at {} GFLOP/s; {text}",
            machine.threads,
            format_significant(rate / 1e9)
        );
    }
    text
}

fn speed_cells(case: &CaseReport) -> [String; 8] {
    let latency = &case.latency_ms;
    let optional = |value: Option<f64>| value.map_or_else(|| NONE.to_owned(), format_significant);
    [
        case.requests.to_string(),
        format_significant(case.requests_per_second),
        format_significant(case.documents_per_second),
        optional(case.tokens_per_second),
        format_significant(latency.min),
        optional(latency.p50),
        optional(latency.p95),
        optional(latency.p99),
    ]
}

fn part_cells(case: &CaseReport) -> [String; 7] {
    let optional = |value: Option<f64>| value.map_or_else(|| NONE.to_owned(), format_significant);
    let parts = case.parts_ms.as_ref();
    [
        optional(parts.map(|parts| parts.queue)),
        optional(parts.map(|parts| parts.tokenize)),
        optional(parts.map(|parts| parts.forward)),
        optional(parts.map(|parts| parts.other)),
        optional(case.operations_per_second.map(|rate| rate / 1e9)),
        case.product_share.map_or_else(|| NONE.to_owned(), |share| format!("{:.0} %", share * 100.0)),
        case.peak_bytes.map_or_else(|| NONE.to_owned(), format_bytes),
    ]
}

/// Remarks for reading the figures.
fn remarks(report: &Report) -> Vec<String> {
    let mut remarks = Vec::new();
    let cases = &report.cases;
    let cut: usize = cases.iter().map(|case| case.truncated_documents).sum();
    if cut > 0 {
        remarks.push(format!(
            "\n{cut} documents were truncated to the model's limit: fewer tokens were read than the column tokens shows"
        ));
    }
    let retries: usize = cases.iter().map(|case| case.retries).sum();
    if retries > 0 {
        remarks.push(format!(
            "\n{retries} requests were retried because the server was busy; latency is that of the last attempt"
        ));
    }
    if cases.iter().any(|case| [case.latency_ms.p50, case.latency_ms.p95, case.latency_ms.p99].contains(&None)) {
        remarks.push("\np50 needs 2 requests, p95 20, p99 100; increase --runs or --seconds".to_owned());
    }
    if report.system.url.is_none() && cases.iter().any(|case| case.peak_bytes.is_none()) {
        remarks.push("\npeak memory is not shown: this system does not let a process reset it".to_owned());
    }
    remarks
}

/// Formats a number with three significant digits.
pub(super) fn format_significant(value: f64) -> String {
    let decimals = match value.abs() {
        value if value >= 99.95 || value == 0.0 => 0,
        value if (value - value.round()).abs() < 1e-9 => 0,
        value if value >= 9.995 => 1,
        value if value >= 0.9995 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// Formats bytes as MiB or GiB.
pub(super) fn format_bytes(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes >= 1024.0 { format!("{:.2} GiB", mebibytes / 1024.0) } else { format!("{mebibytes:.0} MiB") }
}

pub(super) fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_style(TableComponent::HeaderLines, '─').set_header(header.iter().copied());
    table
}

/// Aligns all columns but the first to the right.
pub(super) fn align_right(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_significant_digits() {
        let shown = [1234.56, 123.4, 45.678, 8.0, 1.234, 0.01234].map(format_significant);
        assert_eq!(shown, ["1235", "123", "45.7", "8", "1.23", "0.012"]);
        assert_eq!((format_bytes(5 << 20), format_bytes(3 << 30)), ("5 MiB".to_owned(), "3.00 GiB".to_owned()));
    }
}
