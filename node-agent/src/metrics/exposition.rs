//! Prometheus' text format 0.0.4.

use std::fmt::{Display, Write as _};
use std::time::Duration;

const PREFIX: &str = "berth_node_";
/// A model's name is a tenth of it; what a driver says can be anything.
const LABEL_CHARS_MAX: usize = 256;

/// What a metric is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// How long something took, each time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times<'a> {
    /// Upper ends of the buckets, in seconds.
    pub(super) ends: &'a [f64],
    /// How many are in each; one more for what is longer than the last.
    pub(super) counts: &'a [u64],
    pub(super) sum: Duration,
}

/// Families of metrics, one after the other.
#[derive(Debug, Default)]
pub(super) struct Page(String);

// === impl Page ===

impl Page {
    /// A family with a sample for each set of labels.
    pub(super) fn samples<'a>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        samples: impl IntoIterator<Item = (&'a [(&'a str, &'a str)], f64)>,
    ) {
        self.head(name, kind, help);
        for (labels, value) in samples {
            self.sample(name, labels, value);
        }
    }

    /// A family without labels, which has no sample while nothing is known.
    pub(super) fn optional(&mut self, name: &str, kind: Kind, help: &str, value: Option<f64>) {
        let none: &[(&str, &str)] = &[];
        self.samples(name, kind, help, value.map(|value| (none, value)));
    }

    /// A histogram of times.
    pub(super) fn histogram(&mut self, name: &str, help: &str, times: &Times<'_>) {
        self.head(name, Kind::Histogram, help);
        let bucket = format!("{name}_bucket");
        let mut total = 0;
        for (position, count) in times.counts.iter().enumerate() {
            total += count;
            let end = times.ends.get(position);
            let end = end.map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            self.sample(&bucket, &[("le", &end)], total);
        }
        self.sample(&format!("{name}_sum"), &[], times.sum.as_secs_f64());
        self.sample(&format!("{name}_count"), &[], total);
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }

    fn head(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = kind.as_str();
        self.line(format_args!("# HELP {PREFIX}{name} {help}"));
        self.line(format_args!("# TYPE {PREFIX}{name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, text)| format!("{label}=\"{}\"", escaped(text)))
            .collect();
        match labels.is_empty() {
            true => self.line(format_args!("{PREFIX}{name} {value}")),
            false => self.line(format_args!(
                "{PREFIX}{name}{{{}}} {value}",
                labels.join(",")
            )),
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // a string takes any text
        let _ = writeln!(self.0, "{line}");
    }
}

// === impl Kind ===

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A label's value: backslash, quote and line end have escapes, other control characters have none.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars().take(LABEL_CHARS_MAX) {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
