//! Draws quality against cost as a self-contained SVG: one panel for tokens, one for milliseconds.

use std::fmt::Write;

use super::price::{PricePoint, PriceTable};

const PANEL_WIDTH: f64 = 400.0;
const PANEL_HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 70.0;
const GAP: f64 = 90.0;
const LEGEND_LINE: f64 = 20.0;

/// Numbers on an axis.
const TICKS: usize = 5;

/// A palette for all kinds of colour vision (Okabe and Ito 2008).
const COLOURS: [&str; 7] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];

/// Draws the table. A line joins the systems that no other one beats; the recommended one has a
/// ring.
#[must_use]
pub fn render_svg(table: &PriceTable, measure: &str) -> String {
    let legend = table.points.len() as f64 * LEGEND_LINE;
    let (width, bottom) = (LEFT + 2.0 * PANEL_WIDTH + GAP + 40.0, TOP + PANEL_HEIGHT);
    let height = bottom + 80.0 + legend;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="system-ui, sans-serif" font-size="13">
<title>Quality against cost</title>
<rect width="100%" height="100%" fill="#fff"/>
<text x="{LEFT}" y="30" font-size="18" font-weight="600">{} against the cost of a request</text>
"##,
        escape(measure)
    );
    draw_panel(&mut svg, table, LEFT, "tokens", |point| point.tokens);
    draw_panel(&mut svg, table, LEFT + PANEL_WIDTH + GAP, "milliseconds", |point| Some(point.milliseconds));
    for (index, point) in table.points.iter().enumerate() {
        let y = bottom + 70.0 + index as f64 * LEGEND_LINE;
        let note = if index == table.recommended { ": recommended" } else { "" };
        // Writing to a string cannot fail.
        let _infallible = writeln!(
            svg,
            r#"<circle cx="{:.1}" cy="{:.1}" r="5" fill="{}"/><text x="{:.1}" y="{y:.1}">{}{note}</text>"#,
            LEFT + 6.0,
            y - 4.0,
            colour(index),
            LEFT + 20.0,
            escape(&point.system)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_panel(svg: &mut String, table: &PriceTable, left: f64, label: &str, cost: impl Fn(&PricePoint) -> Option<f64>) {
    let points: Vec<(usize, f64, f64)> = table
        .points
        .iter()
        .enumerate()
        .filter_map(|(index, point)| Some((index, cost(point)?, point.quality)))
        .collect();
    let x_end = points.iter().map(|(_, cost, _)| *cost).fold(1.0, f64::max) * 1.05;
    let lowest = points.iter().map(|(_, _, quality)| *quality).fold(1.0, f64::min);
    let highest = points.iter().map(|(_, _, quality)| *quality).fold(0.0, f64::max);
    let margin = ((highest - lowest) * 0.15).max(0.005);
    let (y_start, y_end) = (lowest - margin, highest + margin);
    let bottom = TOP + PANEL_HEIGHT;
    let x = |cost: f64| left + cost / x_end * PANEL_WIDTH;
    let y = |quality: f64| bottom - (quality - y_start) / (y_end - y_start) * PANEL_HEIGHT;
    let mut add = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    for tick in 0..=TICKS {
        let share = tick as f64 / TICKS as f64;
        let (cost, quality) = (x_end * share, y_start + (y_end - y_start) * share);
        let (at, height) = (x(cost), y(quality));
        add(format!(
            r##"<line x1="{left:.1}" y1="{height:.1}" x2="{:.1}" y2="{height:.1}" stroke="#ddd"/>"##,
            left + PANEL_WIDTH
        ));
        add(format!(r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{quality:.3}</text>"#, left - 8.0, height + 4.0));
        add(format!(r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{cost:.0}</text>"#, bottom + 20.0));
    }
    add(format!(r##"<path d="M{left:.1} {TOP} V{bottom:.1} H{:.1}" fill="none" stroke="#333"/>"##, left + PANEL_WIDTH));
    add(format!(
        r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{label}</text>"#,
        left + PANEL_WIDTH / 2.0,
        bottom + 40.0
    ));
    let mut line: Vec<&(usize, f64, f64)> =
        points.iter().filter(|(index, _, _)| table.points[*index].is_efficient).collect();
    line.sort_by(|a, b| a.1.total_cmp(&b.1));
    let line: Vec<String> =
        line.iter().map(|(_, cost, quality)| format!("{:.1},{:.1}", x(*cost), y(*quality))).collect();
    add(format!(r##"<polyline points="{}" fill="none" stroke="#999" stroke-width="1.5"/>"##, line.join(" ")));
    for (index, cost, quality) in &points {
        let (cx, cy) = (x(*cost), y(*quality));
        if *index == table.recommended {
            add(format!(
                r##"<circle cx="{cx:.1}" cy="{cy:.1}" r="10" fill="none" stroke="#333" stroke-width="1.5"/>"##
            ));
        }
        let name = escape(&table.points[*index].system);
        add(format!(
            r#"<circle cx="{cx:.1}" cy="{cy:.1}" r="5" fill="{}"><title>{name}: {quality:.3} at {cost:.1} {label}</title></circle>"#,
            colour(*index)
        ));
    }
}

fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::price::Cost;
    use super::*;

    #[test]
    fn every_system_is_drawn_twice_and_one_is_recommended() {
        let point = |system: &str, quality, tokens| PricePoint {
            system: system.to_owned(),
            quality,
            tokens,
            milliseconds: 10.0,
            is_efficient: true,
        };
        let points = vec![point("<a> & b", 0.6, Some(900.0)), point("c", 0.7, None)];
        let svg = render_svg(&PriceTable { cost: Cost::Milliseconds, points, recommended: 1 }, "nDCG@10");
        assert!(!svg.contains("<a>") && svg.contains("&lt;a&gt; &amp; b"), "{svg}");
        assert_eq!(svg.matches(" tokens</title>").count(), 1, "the other has no count");
        assert_eq!(svg.matches(" milliseconds</title>").count(), 2);
        assert_eq!((svg.matches(": recommended").count(), svg.matches(r#"r="10""#).count()), (1, 1));
    }
}
