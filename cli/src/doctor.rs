//! `berth doctor`: the list that a person would go through when GPUs do not do what they should.
//!
//! ```text
//!   gather (agent, sysfs, API server, extender) ─► Facts ─► check (pure) ─► Findings ─► report
//! ```
//!
//! It changes nothing.

mod check;
mod escape;
mod facts;
mod finding;
mod gather;
mod report;
#[cfg(test)]
mod tests;

use std::io::Write;

use crate::Outcome;
use crate::args::doctor::{DoctorArgs, FailOn};
use crate::paint::Paint;
use finding::{Finding, Severity};

pub(crate) fn doctor(args: &DoctorArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let facts = gather::facts(args)?;
    let findings = check::findings(&facts);
    if args.json {
        writeln!(out, "{}", report::json(&facts.subject, &findings)?)?;
    } else {
        write!(
            out,
            "{}",
            report::text(&facts.subject, &findings, Paint::for_stdout())
        )?;
    }
    Ok(outcome(&findings, args.fail_on))
}

fn outcome(findings: &[Finding], fail_on: FailOn) -> Outcome {
    let least = match fail_on {
        FailOn::Warning => Severity::Warning,
        FailOn::Error => Severity::Error,
    };
    match findings.iter().any(|finding| finding.severity >= least) {
        true => Outcome::Refused,
        false => Outcome::Done,
    }
}
