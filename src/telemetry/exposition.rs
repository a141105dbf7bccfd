//! Prometheus's text format, for metrics that the recorder does not hold.

use std::fmt::{Display, Write as _};

use crate::schedule::Distribution;

/// Metrics in Prometheus's text format; each call appends one metric.
pub(super) struct Exposition(String);

/// The labels of a series, formatted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Labels(String);

impl Labels {
    pub(super) fn new(pairs: &[(&str, &str)]) -> Self {
        let escaped = |value: &str| value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        Self(pairs.join(","))
    }

    /// These labels and one more, in brackets.
    fn with(&self, name: &str, value: impl Display) -> String {
        let comma = if self.0.is_empty() { "" } else { "," };
        format!("{{{}{comma}{name}=\"{value}\"}}", self.0)
    }

    /// The labels in brackets; empty if there are none.
    fn in_brackets(&self) -> String {
        if self.0.is_empty() { String::new() } else { format!("{{{}}}", self.0) }
    }
}

impl Exposition {
    /// Appends to `text`.
    pub(super) const fn append_to(text: String) -> Self {
        Self(text)
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges(name, help, [(&Labels::default(), value)]);
    }

    /// A gauge with several series.
    pub(super) fn gauges<'a>(&mut self, name: &str, help: &str, series: impl IntoIterator<Item = (&'a Labels, f64)>) {
        self.head(name, help, "gauge");
        for (labels, value) in series {
            self.line(name, &labels.in_brackets(), value);
        }
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.counters(name, help, [(&Labels::default(), value)]);
    }

    /// A counter with several series.
    pub(super) fn counters<'a>(&mut self, name: &str, help: &str, series: impl IntoIterator<Item = (&'a Labels, f64)>) {
        self.head(name, help, "counter");
        for (labels, value) in series {
            self.line(name, &labels.in_brackets(), value);
        }
    }

    /// A histogram with several series.
    pub(super) fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (&'a Labels, &'a Distribution)>,
    ) {
        self.head(name, help, "histogram");
        let bucket = format!("{name}_bucket");
        for (labels, values) in series {
            for (bound, count) in values.cumulative() {
                self.line(&bucket, &labels.with("le", bound), count);
            }
            self.line(&bucket, &labels.with("le", "+Inf"), values.count());
            self.line(&format!("{name}_sum"), &labels.in_brackets(), values.sum());
            self.line(&format!("{name}_count"), &labels.in_brackets(), values.count());
        }
        self.0.push('\n');
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_backslashes_and_line_ends_in_labels_are_escaped() {
        let odd = Labels::new(&[("model", "C:\\models\n\"mine\"")]);
        assert_eq!(odd.in_brackets(), r#"{model="C:\\models\n\"mine\""}"#);
        assert_eq!(odd.with("le", 0.5), r#"{model="C:\\models\n\"mine\"",le="0.5"}"#);
        assert_eq!(
            (Labels::default().in_brackets(), Labels::default().with("le", 1)),
            (String::new(), r#"{le="1"}"#.into())
        );
    }
}
