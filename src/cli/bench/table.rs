//! A bench report as a table for people.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table, TableComponent};

use crate::bench::report::{CaseReport, Report};

/// Where a figure is not known, or its samples do not support it.
const NONE: &str = "-";

/// What ran where, the table, and what needs a word.
pub(super) fn write_report(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    writeln!(out, "{}", heading(report))?;
    writeln!(out, "{}\n", machine(report))?;
    let mut speed = table(&[
        "route", "docs", "tokens", "clients", "requests", "req/s", "docs/s", "tokens/s", "min", "p50", "p95", "p99",
    ]);
    let mut parts = table(&[
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
            short(case.documents),
            case.tokens_asked
                .clone()
                .or_else(|| case.tokens_per_document.map(short))
                .unwrap_or_else(|| NONE.to_owned()),
            case.concurrency.to_string(),
        ];
        speed.add_row(name.iter().cloned().chain(speed_cells(case)));
        parts.add_row(name.iter().cloned().chain(part_cells(case)));
    }
    writeln!(out, "a request's time in ms; tokens/s through the model\n{}", aligned(speed))?;
    writeln!(out, "\nwhere it goes: means in ms; peak memory of this process\n{}", aligned(parts))?;
    for remark in remarks(report) {
        writeln!(out, "{remark}")?;
    }
    Ok(())
}

fn heading(report: &Report) -> String {
    let system = &report.system;
    let mut facts: Vec<String> =
        [&system.family, &system.device, &system.dtype, &system.url].into_iter().flatten().cloned().collect();
    facts.extend(system.parameters.map(|count| format!("{} M parameters", short(count as f64 / 1e6))));
    facts.extend(system.resident_bytes.map(|bytes| format!("{} when loaded", memory(bytes))));
    format!("{} ({})", system.name, facts.join(", "))
}

fn machine(report: &Report) -> String {
    let (machine, settings) = (&report.machine, &report.settings);
    let length = match (settings.runs, settings.seconds) {
        (Some(1), _) => "1 request a client".to_owned(),
        (Some(runs), _) => format!("{runs} requests a client"),
        (None, seconds) => format!("{} s a case", short(seconds.unwrap_or_default())),
    };
    let rounds = if settings.rounds == 1 { "1 round".to_owned() } else { format!("{} rounds", settings.rounds) };
    let mut text = format!("{length} in {rounds} after {} for warming up, seed {}", settings.warm_up, settings.seed);
    if let Some(rate) = machine.product_rate {
        text = format!("{} threads, a large product runs at {} GFLOP/s; {text}", machine.threads, short(rate / 1e9));
    }
    text
}

fn speed_cells(case: &CaseReport) -> [String; 8] {
    let latency = &case.latency_ms;
    let optional = |value: Option<f64>| value.map_or_else(|| NONE.to_owned(), short);
    [
        case.requests.to_string(),
        short(case.requests_per_second),
        short(case.documents_per_second),
        optional(case.tokens_per_second),
        short(latency.min),
        optional(latency.p50),
        optional(latency.p95),
        optional(latency.p99),
    ]
}

fn part_cells(case: &CaseReport) -> [String; 7] {
    let optional = |value: Option<f64>| value.map_or_else(|| NONE.to_owned(), short);
    let parts = case.parts_ms.as_ref();
    [
        optional(parts.map(|parts| parts.queue)),
        optional(parts.map(|parts| parts.tokenize)),
        optional(parts.map(|parts| parts.forward)),
        optional(parts.map(|parts| parts.other)),
        optional(case.operations_per_second.map(|rate| rate / 1e9)),
        case.product_share.map_or_else(|| NONE.to_owned(), |share| format!("{:.0} %", share * 100.0)),
        case.peak_bytes.map_or_else(|| NONE.to_owned(), memory),
    ]
}

/// What the figures alone do not say.
fn remarks(report: &Report) -> Vec<String> {
    let mut remarks = Vec::new();
    let cases = &report.cases;
    let cut: usize = cases.iter().map(|case| case.truncated_documents).sum();
    if cut > 0 {
        remarks.push(format!(
            "\n{cut} documents were cut to the model's limit: what was read is shorter than the column tokens says"
        ));
    }
    let retries: usize = cases.iter().map(|case| case.retries).sum();
    if retries > 0 {
        remarks.push(format!(
            "\n{retries} requests were repeated because the server was busy; a time is that of the last try"
        ));
    }
    if cases.iter().any(|case| [case.latency_ms.p50, case.latency_ms.p95, case.latency_ms.p99].contains(&None)) {
        remarks.push("\np50 needs 2 requests, p95 20, p99 100; --runs or --seconds for more".to_owned());
    }
    if report.system.url.is_none() && cases.iter().any(|case| case.peak_bytes.is_none()) {
        remarks.push("\nthis system does not let a process reset its peak memory; none is shown".to_owned());
    }
    remarks
}

/// Three digits that count.
fn short(value: f64) -> String {
    let decimals = match value.abs() {
        value if value >= 99.95 || value == 0.0 => 0,
        value if (value - value.round()).abs() < 1e-9 => 0,
        value if value >= 9.995 => 1,
        value if value >= 0.9995 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// Bytes for people.
pub(super) fn memory(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes >= 1024.0 { format!("{:.2} GiB", mebibytes / 1024.0) } else { format!("{mebibytes:.0} MiB") }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_style(TableComponent::HeaderLines, '─').set_header(header.iter().copied());
    table
}

/// All columns but the first flush right.
fn aligned(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        let shown = [1234.56, 123.4, 45.678, 8.0, 1.234, 0.01234].map(short);
        assert_eq!(shown, ["1235", "123", "45.7", "8", "1.23", "0.012"]);
        assert_eq!((memory(5 << 20), memory(3 << 30)), ("5 MiB".to_owned(), "3.00 GiB".to_owned()));
    }
}
