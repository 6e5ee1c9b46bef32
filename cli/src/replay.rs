//! `berth explain replay`: recorded decisions made again, offline.

use std::io::Write;

use anyhow::bail;
use berth_extender_core::record::{Decided, Record};
use berth_extender_core::replay::{Replayed, replay as decide_again};
use serde::Serialize;

use crate::args::cluster::ReplayArgs;
use crate::{Outcome, extender};

/// What came of it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    records: usize,
    same: usize,
    not_kept: usize,
    different: Vec<Difference>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Difference {
    number: u64,
    at: String,
    pod: String,
    recorded: Decided,
    replayed: Decided,
}

pub(crate) fn replay(args: &ReplayArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let opened = extender::open(&args.snapshot)?;
    let mut report = Report::default();
    for record in &opened.records {
        report.add(record, &opened.replica.resource)?;
    }
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        write!(out, "{}", report.text())?;
    }
    match report.different.len() {
        0 => Ok(Outcome::Done),
        count => bail!(
            "{count} of {} records are decided otherwise now",
            report.records
        ),
    }
}

// === impl Report ===

impl Report {
    fn add(&mut self, record: &Record, resource: &str) -> anyhow::Result<()> {
        self.records += 1;
        match decide_again(record, resource)? {
            Replayed::Same => self.same += 1,
            Replayed::NotKept => self.not_kept += 1,
            Replayed::Differs { recorded, replayed } => self.different.push(Difference {
                number: record.number,
                at: record.at.clone(),
                pod: record.asked.full_name(),
                recorded: *recorded,
                replayed: *replayed,
            }),
        }
        Ok(())
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} records: {} decided the same again, {} otherwise, {} without kept inputs\n",
            self.records,
            self.same,
            self.different.len(),
            self.not_kept
        );
        for one in &self.different {
            let verb = one.recorded.verb();
            text.push_str(&format!(
                "record {} ({verb} of {} at {})\n  recorded {:?}\n  now      {:?}\n",
                one.number, one.pod, one.at, one.recorded, one.replayed
            ));
        }
        text
    }
}
