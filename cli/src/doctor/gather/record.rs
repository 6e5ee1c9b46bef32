//! A machine as it answered: asked now through the agent, or read from a file.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, anyhow};
use berth_topology::node::{NodeTopology, Status};
use berth_topology::raw::RawMachine;

use crate::args::doctor::DoctorArgs;
use crate::doctor::facts::Fact;
use crate::{extender, program, source};

const AGENT: &str = "berth-node-agent";
/// As the agent allows: sixteen GPUs with 36 links each stay far below.
const RECORD_BYTES_MAX: u64 = 16 << 20;

/// What this machine answers now, as text and read.
pub(super) fn of_this_machine(args: &DoctorArgs) -> Fact<(String, RawMachine)> {
    let mut flags = ["--once", "--print", "raw", "--sysfs-root"]
        .map(OsStr::new)
        .to_vec();
    flags.push(args.sysfs_root.as_os_str());
    flags.extend(args.agent.flags());
    let read = || {
        let agent = program::find(AGENT, args.agent.path.as_deref())?;
        let text = program::output(&agent, &flags)?;
        let raw = serde_json::from_str(&text).context("reading what the agent printed")?;
        anyhow::Ok((text, raw))
    };
    read().map_err(|error| format!("{error:#}"))
}

/// The topology that follows from a record; only the agent knows how.
pub(super) fn assembled(record: &str, args: &DoctorArgs) -> Fact<Status> {
    let assemble = || {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("machine.raw.json");
        std::fs::write(&path, record)?;
        let probe = format!("recorded:{}", path.display());
        let agent = program::find(AGENT, args.agent.path.as_deref())?;
        let flags = ["--once", "--print", "json", "--probe", &probe].map(OsStr::new);
        let text = program::output(&agent, &flags)?;
        let topology: NodeTopology = serde_json::from_str(&text)?;
        topology
            .status
            .ok_or_else(|| anyhow!("the agent printed no status"))
    };
    assemble().map_err(|error| format!("{error:#}"))
}

/// A recorded machine by name, a NodeTopology, or a record.
pub(super) fn find(name: &str, args: &DoctorArgs) -> anyhow::Result<(Status, Fact<RawMachine>)> {
    let path = Path::new(name);
    if source::is_recorded(name) || !path.exists() {
        let seen = source::find(name, &args.agent)?;
        return Ok((
            seen.status,
            Err("a NodeTopology does not hold it".to_owned()),
        ));
    }
    let text = extender::text(path, RECORD_BYTES_MAX)?;
    if !is_record(&text) {
        let seen = source::parse(name, &text)?;
        return Ok((
            seen.status,
            Err("a NodeTopology does not hold it".to_owned()),
        ));
    }
    let raw: RawMachine = serde_json::from_str(&text)
        .with_context(|| format!("{name} is not what `{AGENT} --print raw` prints"))?;
    let status = assembled(&text, args).map_err(|error| anyhow!("{error}"))?;
    Ok((status, Ok(raw)))
}

fn is_record(text: &str) -> bool {
    let document: Option<serde_json::Value> = serde_json::from_str(text).ok();
    document.is_some_and(|document| document.get("nvml").is_some())
}
