//! Prometheus's text format, for the metrics that are counted elsewhere and only written here.

use std::fmt::{Display, Write as _};

use crate::schedule::Distribution;

/// A text that grows by one metric at a time.
pub(super) struct Exposition(String);

/// What tells one series of a metric from its others, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Labels(String);

impl Labels {
    pub(super) fn of(pairs: &[(&str, &str)]) -> Self {
        let escaped = |value: &str| value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        Self(pairs.join(","))
    }

    /// These and one more, in their brackets.
    fn with(&self, name: &str, value: impl Display) -> String {
        let comma = if self.0.is_empty() { "" } else { "," };
        format!("{{{}{comma}{name}=\"{value}\"}}", self.0)
    }

    /// These in their brackets; nothing where there are none.
    fn alone(&self) -> String {
        if self.0.is_empty() { String::new() } else { format!("{{{}}}", self.0) }
    }
}

impl Exposition {
    /// Goes on where `text` ends.
    pub(super) const fn after(text: String) -> Self {
        Self(text)
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges(name, help, [(&Labels::default(), value)]);
    }

    /// A gauge of several series.
    pub(super) fn gauges<'a>(&mut self, name: &str, help: &str, series: impl IntoIterator<Item = (&'a Labels, f64)>) {
        self.head(name, help, "gauge");
        for (labels, value) in series {
            self.line(name, &labels.alone(), value);
        }
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.counters(name, help, [(&Labels::default(), value)]);
    }

    /// A counter of several series.
    pub(super) fn counters<'a>(&mut self, name: &str, help: &str, series: impl IntoIterator<Item = (&'a Labels, f64)>) {
        self.head(name, help, "counter");
        for (labels, value) in series {
            self.line(name, &labels.alone(), value);
        }
    }

    /// A histogram of several series.
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
            self.line(&format!("{name}_sum"), &labels.alone(), values.sum());
            self.line(&format!("{name}_count"), &labels.alone(), values.count());
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
    fn a_label_says_what_it_is_given_and_ends_no_line() {
        let odd = Labels::of(&[("model", "C:\\models\n\"mine\"")]);
        assert_eq!(odd.alone(), r#"{model="C:\\models\n\"mine\""}"#);
        assert_eq!(odd.with("le", 0.5), r#"{model="C:\\models\n\"mine\"",le="0.5"}"#);
        assert_eq!((Labels::default().alone(), Labels::default().with("le", 1)), (String::new(), r#"{le="1"}"#.into()));
    }
}
