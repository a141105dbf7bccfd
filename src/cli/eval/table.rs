//! Prints an eval report as tables.

use std::fmt::Write as _;
use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table, TableComponent};

use crate::eval::gate::Comparison;
use crate::eval::measures::Measure;
use crate::eval::report::{ByMeasure, Estimate, Gain, InstructionEffect, Report, SetReport, Systems, Verdict};
use crate::eval::statistics::mean;

/// Minimum number of queries for a verdict without a warning.
const MIN_QUERIES: usize = 30;

/// Prints the summary of a report. Warnings come last.
pub(super) fn write_report(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    writeln!(out, "{}", heading(report))?;
    for set in &report.sets {
        writeln!(out, "{}: {}", set.name, describe_set(set))?;
    }
    writeln!(out)?;
    writeln!(out, "{}", quality_table(report))?;
    writeln!(out, "\ngain in {}, paired by query (w/t/l: queries won, tied, lost)", display_name(&report.primary))?;
    writeln!(out, "{}", gains_table(report))?;
    if report.sets.iter().any(|set| set.instruction.is_some()) {
        let metric = display_name(&report.primary);
        writeln!(out, "\n{metric} with and without the instruction, in the given input order")?;
        writeln!(out, "{}", instructions_table(report))?;
        let twins = report.sets.iter().filter_map(|set| describe_twins(&set.name, set.instruction.as_ref()?));
        for line in twins {
            writeln!(out, "{line}")?;
        }
    }
    writeln!(out, "\nrobustness and calibration of the scores")?;
    writeln!(out, "{}", robustness_table(report))?;
    let at_a_time =
        if report.settings.concurrency == 1 { "one".to_owned() } else { report.settings.concurrency.to_string() };
    writeln!(out, "\nlatency of a request, {at_a_time} at a time")?;
    writeln!(out, "{}", latency_table(report))?;
    let warnings: Vec<String> = report.sets.iter().filter_map(|set| warning(report, set)).collect();
    if !warnings.is_empty() {
        writeln!(out, "\n{}", warnings.join("\n"))?;
    }
    Ok(())
}

/// Prints the comparisons of the gate.
pub(super) fn write_gate(out: &mut dyn Write, compared: &[Comparison], max_drop: f64) -> io::Result<()> {
    let Some(first) = compared.first() else { return Ok(()) };
    writeln!(out, "\ngate: {} may drop by {max_drop}", display_name(&first.metric))?;
    let mut table = new_table(&["set", "baseline", "now", "drop", ""]);
    for set in compared {
        let verdict = if set.failed { "FAILED" } else { "ok" };
        table.add_row([
            set.set.clone(),
            format!("{:.4}", set.baseline),
            format!("{:.4}", set.current),
            format!("{:+.4}", set.drop()),
            verdict.to_owned(),
        ]);
    }
    writeln!(out, "{}", align_right(table, 4))
}

/// The system and the settings of the run.
fn heading(report: &Report) -> String {
    let (system, settings) = (&report.system, &report.settings);
    let facts: Vec<&str> =
        [&system.family, &system.device, &system.url].into_iter().flatten().map(String::as_str).collect();
    let orders = match settings.orders {
        1 => "1 input order".to_owned(),
        orders => format!("mean of {orders} input orders"),
    };
    let mut heading = format!(
        "{} ({}): top {} reranked, {orders}, seed {}, {:.0} s",
        system.name,
        facts.join(", "),
        settings.top,
        settings.seed,
        report.seconds
    );
    if let Some(instruction) = &settings.instruction {
        let _infallible = write!(heading, "\ninstruction: {instruction}");
    }
    heading
}

/// Describes the size of a set and what was left out.
fn describe_set(set: &SetReport) -> String {
    let mut parts =
        vec![format!("{} over {} documents, {}", pluralize(set.queries, "query"), set.documents, set.first_stage)];
    let left = &set.left_out;
    for (count, what) in [
        (left.queries_not_sampled, "not in the sample"),
        (left.queries_without_relevant, "left out: no relevant document"),
        (left.queries_unjudged, "left out: no judgements"),
        (left.queries_without_candidates, "without candidates, scored 0"),
    ] {
        if count > 0 {
            parts.push(format!("{} {what}", pluralize(count, "query")));
        }
    }
    if left.relevant_not_reranked > 0 {
        let relevant: usize = set.per_query.iter().map(|query| query.relevant).sum();
        let missing = left.relevant_not_reranked;
        parts.push(format!("{missing} of {relevant} relevant documents not among the reranked candidates"));
    }
    if set.calibration.clamped > 0 {
        parts.push(format!("{} outside 0 to 1 clamped", pluralize(set.calibration.clamped, "score")));
    }
    if set.latency_ms.retries > 0 {
        parts.push(format!("{} retried: the server was busy", pluralize(set.latency_ms.retries, "request")));
    }
    parts.join("; ")
}

/// The measures of one order.
type SelectOrder = fn(&Systems<ByMeasure<Estimate>>) -> &ByMeasure<Estimate>;

/// The rows with the means over all sets.
const MEANS: [(&str, &str, SelectOrder); 3] = [
    ("mean of the sets", "reranked", |systems| &systems.reranked),
    ("", "BM25", |systems| &systems.bm25),
    ("", "input", |systems| &systems.input),
];

fn quality_table(report: &Report) -> String {
    let others: Vec<&String> = report.metrics.iter().filter(|name| **name != report.primary).collect();
    let mut header = vec!["set".to_owned(), "order".to_owned(), display_name(&report.primary), "95 %".to_owned()];
    header.extend(others.iter().map(|name| display_name(name)));
    let mut table = new_table(&header);
    for set in &report.sets {
        let systems = &set.systems;
        for (name, order, values) in
            [(&*set.name, "reranked", &systems.reranked), ("", "BM25", &systems.bm25), ("", "input", &systems.input)]
        {
            let primary = &values[&report.primary];
            let mut row = vec![name.to_owned(), order.to_owned(), three_decimals(primary.mean)];
            row.push(format!("[{:.3}, {:.3}]", primary.low, primary.high));
            row.extend(others.iter().map(|name| three_decimals(values[*name].mean)));
            table.add_row(row);
        }
    }
    if report.sets.len() > 1 {
        for (name, order, select) in MEANS {
            let over_sets = |metric: &String| {
                let values: Vec<f64> = report.sets.iter().map(|set| select(&set.systems)[metric].mean).collect();
                three_decimals(mean(&values))
            };
            let mut row = vec![name.to_owned(), order.to_owned(), over_sets(&report.primary), String::new()];
            row.extend(others.iter().map(|metric| over_sets(metric)));
            table.add_row(row);
        }
    }
    align_right(table, 2)
}

fn gains_table(report: &Report) -> String {
    let mut table = new_table(&["set", "over BM25", "95 %", "p", "w/t/l", "over input", "95 %", "p", "w/t/l", ""]);
    for set in &report.sets {
        let mut row = vec![set.name.clone()];
        row.extend(gain_cells(&set.gains.bm25[&report.primary]));
        row.extend(gain_cells(&set.gains.input[&report.primary]));
        row.push(match set.verdict {
            Verdict::Better => "better than BM25".to_owned(),
            Verdict::Unclear => "unclear".to_owned(),
            Verdict::Even => "as good as BM25".to_owned(),
            Verdict::NotBetter => "NOT better than BM25".to_owned(),
        });
        table.add_row(row);
    }
    align_right(table, 1)
}

fn instructions_table(report: &Report) -> String {
    let header = [
        "set",
        "queries",
        "texts",
        "with",
        "without",
        "gain",
        "95 %",
        "p",
        "w/t/l",
        "tau",
        "first document changed",
        "harmed",
    ];
    let mut table = new_table(&header);
    for set in &report.sets {
        let Some(effect) = &set.instruction else { continue };
        let mut row = vec![set.name.clone(), effect.queries.to_string(), effect.texts.to_string()];
        let systems = [&effect.systems.instructed, &effect.systems.plain];
        row.extend(systems.map(|values| three_decimals(values[&report.primary].mean)));
        row.extend(gain_cells(&effect.gain[&report.primary]));
        row.extend([effect.kendall_tau.map_or_else(dash, three_decimals), percent(effect.first_changed)]);
        row.push(percent(effect.harmed));
        table.add_row(row);
    }
    align_right(table, 1)
}

/// The result on queries that differ only in their instruction.
fn describe_twins(set: &str, effect: &InstructionEffect) -> Option<String> {
    let twins = effect.twins?;
    let p_mrr = twins.p_mrr.map_or_else(dash, |value| format!("{value:+.3}"));
    let pairs = pluralize(twins.pairs, "pair");
    let both = percent(twins.both_right);
    Some(format!("{set}: {pairs} of queries that differ only in the instruction: both right {both}, p-MRR {p_mrr}"))
}

fn robustness_table(report: &Report) -> String {
    let header = ["set", "order tau", "5th pct", "position rho", "ECE", "Brier", "relevant", "truncated"];
    let mut table = new_table(&header);
    for set in &report.sets {
        let order = set.order.as_ref();
        let tau = order.and_then(|order| order.kendall_tau);
        let calibration = &set.calibration;
        table.add_row([
            set.name.clone(),
            tau.map_or_else(dash, |tau| three_decimals(tau.mean)),
            tau.map_or_else(dash, |tau| three_decimals(tau.p5)),
            order.map_or_else(dash, |order| three_decimals(order.position_bias.spearman)),
            three_decimals(calibration.ece),
            three_decimals(calibration.brier),
            percent(calibration.relevant_share),
            set.truncated_share.map_or_else(dash, percent),
        ]);
    }
    align_right(table, 1)
}

fn latency_table(report: &Report) -> String {
    let header =
        ["set", "requests", "mean ms", "p50", "p95", "p99", "max", "tokens/request", "tokens/document", "tokens/s"];
    let mut table = new_table(&header);
    for set in &report.sets {
        let time = &set.latency_ms;
        let mut row = vec![set.name.clone(), time.requests.to_string()];
        row.extend([time.mean, time.p50, time.p95, time.p99, time.max].map(|value| format!("{value:.0}")));
        row.extend(set.tokens.map_or_else(
            || [(); 3].map(|()| dash()),
            |tokens| {
                let numbers = [tokens.per_request.mean, tokens.per_document.mean, tokens.per_second];
                numbers.map(|value| format!("{value:.0}"))
            },
        ));
        table.add_row(row);
    }
    align_right(table, 1)
}

/// The warning about a set, if its result is unclear or not better than BM25.
fn warning(report: &Report, set: &SetReport) -> Option<String> {
    let (name, metric) = (&set.name, display_name(&report.primary));
    let [reranked, bm25] = [&set.systems.reranked, &set.systems.bm25].map(|values| values[&report.primary].mean);
    let numbers = format!("{metric} {reranked:.3}, BM25 {bm25:.3}");
    let (sign, found) = match set.verdict {
        Verdict::Better => (" ?", "better than BM25"),
        Verdict::Unclear => (" ?", "perhaps not better than BM25"),
        Verdict::Even => (" ?", "as good as BM25, and not better"),
        Verdict::NotBetter => ("!!", "not better than BM25"),
    };
    if set.queries < MIN_QUERIES {
        let queries = pluralize(set.queries, "query");
        return Some(format!(
            " ? {name}: {queries} are too few for a verdict (use {MIN_QUERIES} or more); on these, {found}: {numbers}"
        ));
    }
    let interval = if set.verdict == Verdict::Unclear { "; the gain's interval contains 0" } else { "" };
    (set.verdict != Verdict::Better).then(|| format!("{sign} {name}: {found}: {numbers}{interval}"))
}

/// The cells of a gain: mean with sign, interval, p value, and wins, ties and losses.
pub(super) fn gain_cells(gain: &Gain) -> [String; 4] {
    let p = if gain.p < 0.001 { "<0.001".to_owned() } else { format!("{:.3}", gain.p) };
    let estimate = &gain.estimate;
    let interval = format!("[{:+.3}, {:+.3}]", estimate.low, estimate.high);
    [format!("{:+.3}", estimate.mean), interval, p, format!("{}/{}/{}", gain.wins, gain.ties, gain.losses)]
}

pub(super) fn three_decimals(value: f64) -> String {
    format!("{value:.3}")
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// The cell of a number that is unknown.
fn dash() -> String {
    "-".to_owned()
}

/// The usual spelling of a measure's name, such as `nDCG@10`.
pub(super) fn display_name(name: &str) -> String {
    name.parse::<Measure>().map_or_else(|_| name.to_owned(), |measure| measure.to_string())
}

/// `1 query`, `2 queries`, `2 scores`.
fn pluralize(count: usize, what: &str) -> String {
    match (count, what) {
        (1, _) => format!("1 {what}"),
        (_, "query") => format!("{count} queries"),
        _ => format!("{count} {what}s"),
    }
}

pub(super) fn new_table<T: AsRef<str>>(header: &[T]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_style(TableComponent::HeaderLines, '─');
    table.set_header(header.iter().map(AsRef::as_ref));
    table
}

/// Aligns every column from `first` on to the right.
pub(super) fn align_right(mut table: Table, first: usize) -> String {
    for column in table.column_iter_mut().skip(first) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::eval::calibration::Calibration;
    use crate::eval::datasets::LeftOut;
    use crate::eval::report::{Gains, Latency, SystemFacts};
    use crate::eval::settings::EvalSettings;
    use crate::rerank::Mode;

    /// A report on one set with this verdict, without input orders, token counts and truncation.
    fn report(verdict: Verdict) -> Report {
        let by_name = |mean: f64| BTreeMap::from([("ndcg@10".to_owned(), Estimate { mean, low: mean, high: mean })]);
        let estimate = Estimate { mean: -0.009, low: -0.02, high: 0.01 };
        let gain = BTreeMap::from([("ndcg@10".to_owned(), Gain { estimate, p: 0.0004, wins: 3, ties: 1, losses: 6 })]);
        let left_out = LeftOut { queries_unjudged: 1, queries_without_relevant: 2, ..LeftOut::default() };
        let set = SetReport {
            name: "npl".to_owned(),
            source: "/npl".to_owned(),
            queries: 40,
            queries_without_relevant: 2,
            left_out,
            documents: 400,
            first_stage: "run bm25.trec".to_owned(),
            systems: Systems { reranked: by_name(0.361), input: by_name(0.3), bm25: by_name(0.370) },
            gains: Gains { input: gain.clone(), bm25: gain },
            verdict,
            order: None,
            instruction: None,
            calibration: Calibration::from_scores(&[(1.5, true)]),
            truncated_share: None,
            latency_ms: Latency { requests: 10, retries: 4, mean: 1.0, p50: 1.0, p95: 1.0, p99: 1.0, max: 1.0 },
            tokens: None,
            per_query: Vec::new(),
            worst: Vec::new(),
            best: Vec::new(),
        };
        Report {
            schema: 2,
            podium: "0".to_owned(),
            created_unix_seconds: 0,
            seconds: 3.0,
            system: SystemFacts { name: "m".to_owned(), family: None, device: None, url: Some("http://h/".to_owned()) },
            settings: EvalSettings {
                measures: vec![Measure::Ndcg(10)],
                top: 32,
                orders: 1,
                seed: 1,
                queries: None,
                instruction: Some("be strict".to_owned()),
                mode: Mode::Auto,
                max_tokens_per_doc: None,
                ignore_identical_ids: false,
                concurrency: 1,
                run: Some("bm25.trec".to_owned()),
                early_exit: None,
                top_n: None,
                stop_when_sure: None,
            },
            primary: "ndcg@10".to_owned(),
            metrics: vec!["ndcg@10".to_owned()],
            sets: vec![set],
        }
    }

    fn printed(report: &Report) -> String {
        let mut out = Vec::new();
        write_report(&mut out, report).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_heading_has_the_settings_and_counts_what_was_left_out() {
        let printed = printed(&report(Verdict::Better));
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines[0], "m (http://h/): top 32 reranked, 1 input order, seed 1, 3 s");
        assert_eq!(lines[1], "instruction: be strict");
        assert_eq!(
            lines[2],
            "npl: 40 queries over 400 documents, run bm25.trec; 2 queries left out: no relevant document; \
             1 query left out: no judgements; 1 score outside 0 to 1 clamped; \
             4 requests retried: the server was busy"
        );
        assert!(printed.contains("<0.001  3/1/6"), "{printed}");
        assert!(!printed.contains("!!") && !printed.contains(" ? "), "{printed}");
    }

    #[test]
    fn the_last_line_warns_of_a_set_that_is_not_better_than_bm25() {
        let last = |verdict| printed(&report(verdict)).lines().last().unwrap_or_default().to_owned();
        assert_eq!(last(Verdict::NotBetter), "!! npl: not better than BM25: nDCG@10 0.361, BM25 0.370");
        assert_eq!(
            last(Verdict::Unclear),
            " ? npl: perhaps not better than BM25: nDCG@10 0.361, BM25 0.370; the gain's interval contains 0"
        );
        assert_eq!(last(Verdict::Even), " ? npl: as good as BM25, and not better: nDCG@10 0.361, BM25 0.370");
    }

    #[test]
    fn a_warning_of_few_queries_precedes_the_result() {
        for (verdict, found) in [(Verdict::Better, "better than BM25"), (Verdict::NotBetter, "not better than BM25")] {
            let mut report = report(verdict);
            report.sets[0].queries = 29;
            let printed = printed(&report);
            let line = format!(
                " ? npl: 29 queries are too few for a verdict (use 30 or more); on these, {found}: nDCG@10 0.361, BM25 0.370"
            );
            assert_eq!(printed.lines().last(), Some(line.as_str()));
        }
    }
}
