//! Draws a report as a self-contained SVG: latency by documents and by tokens.

use std::fmt::Write;

use super::report::{CaseReport, Report};

const WIDTH: f64 = 960.0;
const PANEL_HEIGHT: f64 = 300.0;
const PANEL_WIDTH: f64 = 380.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 88.0;
const GAP: f64 = 100.0;
const LEGEND_LINE: f64 = 20.0;

/// Approximate number of ticks on an axis.
const TICKS: f64 = 5.0;

/// A palette for all kinds of colour vision (Okabe and Ito 2008).
const COLOURS: [&str; 7] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];

/// A line of the plot with its name in the legend.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Draws a report. The time is the median, or the mean if there are too few samples for a median.
#[must_use]
pub fn render_svg(report: &Report) -> String {
    let milliseconds = |case: &CaseReport| case.latency_ms.p50.unwrap_or(case.latency_ms.mean);
    let load = |case: &CaseReport| match case.concurrency {
        1 => case.route.to_owned(),
        clients => format!("{}, {clients} clients", case.route),
    };
    let by_documents = group_into_lines(&report.cases, |case| {
        let tokens = case.tokens_asked.as_deref().unwrap_or("?");
        (format!("{tokens} tokens a document, {}", load(case)), case.documents, milliseconds(case))
    });
    let by_tokens = group_into_lines(&report.cases, |case| {
        // Without a token count from the model, the requested number.
        let tokens = case.tokens_per_request.or_else(|| requested_tokens(case).map(|tokens| tokens * case.documents));
        (
            format!("{} documents, {}", format_number(case.documents), load(case)),
            tokens.unwrap_or_default(),
            milliseconds(case),
        )
    });
    let legend = by_documents.len().max(by_tokens.len()) as f64 * LEGEND_LINE;
    let height = TOP + PANEL_HEIGHT + 70.0 + legend;
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _infallible = write!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="system-ui, sans-serif" font-size="13">
<title>Time of a rerank request</title>
<rect width="100%" height="100%" fill="#fff"/>
<text x="{LEFT}" y="30" font-size="18" font-weight="600">Time of a rerank request</text>
<text x="{LEFT}" y="50" fill="#555">{}</text>
"##,
        escape(&subtitle(report))
    );
    draw_panel(&mut svg, LEFT, "documents in a request", &by_documents);
    draw_panel(&mut svg, LEFT + PANEL_WIDTH + GAP, "tokens in a request", &by_tokens);
    svg.push_str("</svg>\n");
    svg
}

fn subtitle(report: &Report) -> String {
    let system = &report.system;
    let mut parts = vec![system.name.clone()];
    parts.extend([&system.family, &system.device, &system.dtype, &system.url].into_iter().flatten().cloned());
    if system.url.is_none() {
        parts.push(format!("{} threads", report.machine.threads));
    }
    parts.join(", ")
}

/// The requested tokens of a document; the middle of a range.
fn requested_tokens(case: &CaseReport) -> Option<f64> {
    let length = case.tokens_asked.as_ref()?.parse::<super::workload::Length>().ok()?;
    Some(f64::midpoint(length.low as f64, length.high as f64))
}

/// Groups cases into lines, in order of first appearance, with points sorted from left to right.
fn group_into_lines(cases: &[CaseReport], point: impl Fn(&CaseReport) -> (String, f64, f64)) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for case in cases {
        let (name, x, y) = point(case);
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push((x, y)),
            None => lines.push(Line { name, points: vec![(x, y)] }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|left, right| left.0.total_cmp(&right.0));
    }
    lines
}

fn draw_panel(svg: &mut String, left: f64, label: &str, lines: &[Line]) {
    let max = |axis: fn(&(f64, f64)) -> f64| lines.iter().flat_map(|line| &line.points).map(axis).fold(0.0, f64::max);
    let (x_step, y_step) = (tick_step(max(|point| point.0)), tick_step(max(|point| point.1)));
    let end = |max: f64, step: f64| (max / step).ceil().max(1.0) * step;
    let (x_end, y_end) = (end(max(|point| point.0), x_step), end(max(|point| point.1), y_step));
    let x = |value: f64| left + value / x_end * PANEL_WIDTH;
    let y = |value: f64| TOP + PANEL_HEIGHT - value / y_end * PANEL_HEIGHT;
    let (bottom, right) = (TOP + PANEL_HEIGHT, left + PANEL_WIDTH);

    let mut add = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    for tick in 0..=(y_end / y_step).round() as usize {
        let (value, height) = (tick as f64 * y_step, y(tick as f64 * y_step));
        add(format!(r##"<line x1="{left:.1}" y1="{height:.1}" x2="{right:.1}" y2="{height:.1}" stroke="#ddd"/>"##));
        let at = left - 8.0;
        add(format!(r#"<text x="{at:.1}" y="{:.1}" text-anchor="end">{}</text>"#, height + 4.0, format_number(value)));
    }
    for tick in 0..=(x_end / x_step).round() as usize {
        let (value, at) = (tick as f64 * x_step, x(tick as f64 * x_step));
        add(format!(r##"<line x1="{at:.1}" y1="{bottom:.1}" x2="{at:.1}" y2="{:.1}" stroke="#333"/>"##, bottom + 5.0));
        add(format!(
            r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            bottom + 20.0,
            format_number(value)
        ));
    }
    add(format!(r##"<path d="M{left:.1} {TOP} V{bottom:.1} H{right:.1}" fill="none" stroke="#333"/>"##));
    add(format!(r#"<text x="{left:.1}" y="{:.1}" text-anchor="middle">ms</text>"#, TOP - 8.0));
    let middle = left + PANEL_WIDTH / 2.0;
    add(format!(r#"<text x="{middle:.1}" y="{:.1}" text-anchor="middle">{label}</text>"#, bottom + 40.0));
    for (index, line) in lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        // When the colours are used up, lines are dashed.
        let dash = if index < COLOURS.len() { "" } else { r#" stroke-dasharray="6 4""# };
        let points: Vec<String> =
            line.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        add(format!(
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>"#,
            points.join(" ")
        ));
        for (point, drawn) in line.points.iter().zip(&points) {
            let (cx, cy) = drawn.split_once(',').unwrap_or_default();
            let tooltip = format!("{}: {} ms", format_number(point.0), format_number(point.1));
            add(format!(r#"<circle cx="{cx}" cy="{cy}" r="4" fill="{colour}"><title>{tooltip}</title></circle>"#));
        }
        let height = bottom + 66.0 + index as f64 * LEGEND_LINE;
        let (from, to, text) = (left, left + 24.0, left + 32.0);
        add(format!(
            r#"<line x1="{from:.1}" y1="{:.1}" x2="{to:.1}" y2="{:.1}" stroke="{colour}" stroke-width="2"{dash}/>"#,
            height - 4.0,
            height - 4.0
        ));
        add(format!(r#"<text x="{text:.1}" y="{height:.1}">{}</text>"#, escape(&line.name)));
    }
}

/// The distance between ticks on an axis that ends near `max`: 1, 2 or 5 times a power of ten.
fn tick_step(max: f64) -> f64 {
    let rough = max.max(f64::MIN_POSITIVE) / TICKS;
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough * 0.999).unwrap_or(rough)
}

/// Formats a number: fewer decimals for larger numbers.
fn format_number(value: f64) -> String {
    let decimals = if value.fract().abs() < 1e-9 || value >= 100.0 {
        0
    } else if value >= 1.0 {
        1
    } else {
        3
    };
    format!("{value:.decimals$}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_at_round_numbers() {
        for (max, expected) in [(1.0, 0.2), (64.0, 20.0), (512.0, 200.0), (0.03, 0.01), (25.0, 5.0)] {
            let found = tick_step(max);
            assert!((found - expected).abs() < expected * 1e-9, "{max}: {found}");
        }
        assert_eq!(
            (format_number(20.0), format_number(123.4), format_number(1.26), format_number(0.5)),
            ("20".into(), "123".into(), "1.3".into(), "0.500".into())
        );
    }

    #[test]
    fn names_cannot_inject_markup() {
        assert_eq!(escape("<a & b>"), "&lt;a &amp; b&gt;");
    }
}
