//! Prometheus's text format, for the metrics that are counted elsewhere and only written here.

use std::fmt::{Display, Write as _};

use crate::schedule::Distribution;

/// A text that grows by one metric at a time.
pub(super) struct Exposition(String);

impl Exposition {
    /// Goes on where `text` ends.
    pub(super) const fn after(text: String) -> Self {
        Self(text)
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, help, "gauge");
        self.line(name, "", value);
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, help, "counter");
        self.line(name, "", value);
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str, values: &Distribution) {
        self.head(name, help, "histogram");
        let bucket = format!("{name}_bucket");
        for (bound, count) in values.up_to() {
            self.line(&bucket, &format!("{{le=\"{bound}\"}}"), count);
        }
        self.line(&bucket, "{le=\"+Inf\"}", values.count());
        self.line(&format!("{name}_sum"), "", values.sum());
        self.line(&format!("{name}_count"), "", values.count());
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
