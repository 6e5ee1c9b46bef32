//! Findings for people and for scripts.

use berth_topology::names;
use serde::Serialize;

use super::escape::plain;
use super::finding::{Finding, Severity};
use crate::paint::Paint;

const WORST_FIRST: [Severity; 5] = [
    Severity::Error,
    Severity::Warning,
    Severity::Note,
    Severity::Unknown,
    Severity::Ok,
];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    schema: &'static str,
    subject: String,
    counts: Counts,
    findings: &'a [Finding],
}

#[derive(Serialize)]
struct Counts {
    error: usize,
    warning: usize,
    note: usize,
    unknown: usize,
    ok: usize,
}

pub(super) fn json(subject: &str, findings: &[Finding]) -> serde_json::Result<String> {
    let of = |severity| count(findings, severity);
    serde_json::to_string(&Report {
        schema: names::SCHEMA,
        subject: plain(subject),
        counts: Counts {
            error: of(Severity::Error),
            warning: of(Severity::Warning),
            note: of(Severity::Note),
            unknown: of(Severity::Unknown),
            ok: of(Severity::Ok),
        },
        findings,
    })
}

/// A line for each finding; below what is worse than a note, what was read and what to do.
pub(super) fn text(subject: &str, findings: &[Finding], paint: Paint) -> String {
    let counts = WORST_FIRST.map(|severity| (severity, count(findings, severity)));
    let counts = counts.iter().filter(|(_, count)| *count > 0);
    let counts: Vec<String> = counts
        .map(|(severity, count)| counted(*severity, *count))
        .collect();
    let title = format!("{}: {}", plain(subject), counts.join(", "));
    let mut text = paint.bold(&title) + "\n";
    for finding in findings {
        text.push_str(&lines(finding, paint));
    }
    text
}

fn lines(finding: &Finding, paint: Paint) -> String {
    let severity = format!("{:<7}", finding.severity.as_str());
    let severity = match finding.severity {
        Severity::Error => paint.red(&severity),
        Severity::Warning => paint.yellow(&severity),
        Severity::Ok => paint.green(&severity),
        Severity::Note | Severity::Unknown => severity,
    };
    let mut text = format!("{severity}  {:<14}  {}\n", finding.check, finding.message);
    if finding.severity == Severity::Ok {
        return text;
    }
    for evidence in &finding.evidence {
        text.push_str(&format!(
            "           read {} ({})\n",
            evidence.value, evidence.from
        ));
    }
    if finding.evidence_left_out > 0 {
        text.push_str(&format!(
            "           and {} more\n",
            finding.evidence_left_out
        ));
    }
    if let Some(fix) = &finding.fix {
        text.push_str(&format!("           fix: {fix}\n"));
    }
    text
}

fn count(findings: &[Finding], severity: Severity) -> usize {
    let same = findings
        .iter()
        .filter(|finding| finding.severity == severity);
    same.count()
}

fn counted(severity: Severity, count: usize) -> String {
    let plural = match severity {
        Severity::Error | Severity::Warning | Severity::Note if count != 1 => "s",
        _ => "",
    };
    format!("{count} {}{plural}", severity.as_str())
}
