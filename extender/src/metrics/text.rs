//! The two exposition formats. The library writes OpenMetrics; the older Prometheus text differs in
//! its comments alone, as far as we use either.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Prometheus,
}

/// The text of every metric.
pub(super) fn write(registry: &Registry, format: Format) -> String {
    let mut text = String::new();
    if encode(&mut text, registry).is_err() {
        // Writing to a string does not fail; half a text must not look like a whole one.
        text.clear();
    }
    match format {
        Format::OpenMetrics => text,
        Format::Prometheus => prometheus(&text),
    }
}

/// OpenMetrics as 0.0.4 has it: the comments on a counter or an info carry the name of its samples,
/// with the suffix; units and the end are not told.
fn prometheus(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help = "";
    for line in open.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            text.extend([line, "\n"]);
            continue;
        };
        match comment.split(' ').next() {
            Some("HELP") => help = comment,
            Some("TYPE") => text.push_str(&comments(help, comment).unwrap_or_default()),
            _ => {}
        }
    }
    text
}

fn comments(help: &str, kind: &str) -> Option<String> {
    let (name, kind) = kind.strip_prefix("TYPE ")?.split_once(' ')?;
    let help = help.strip_prefix("HELP ")?.strip_prefix(name)?;
    let (suffix, kind) = match kind {
        "info" => ("_info", "gauge"),
        "counter" => ("_total", "counter"),
        "unknown" => ("", "untyped"),
        other => ("", other),
    };
    Some(format!(
        "# HELP {name}{suffix}{help}\n# TYPE {name}{suffix} {kind}\n"
    ))
}

// === impl Format ===

impl Format {
    /// What is asked for by the header `Accept`; OpenMetrics only where it is named.
    pub(crate) fn of_accept(accept: Option<&str>) -> Self {
        let is_open = accept.is_some_and(|text| text.contains("application/openmetrics-text"));
        if is_open {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The value of `Content-Type`.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}
