//! Reads what the checks look at. All of the doctor's I/O is below here.

mod cluster;
mod config_space;
mod host;
mod objects;
mod record;

use anyhow::bail;
use berth_topology::node::NodeTopology;

use super::facts::{Extender, Facts};
use crate::Usage;
use crate::args::doctor::DoctorArgs;
use crate::extender;

const NOT_ASKED: &str = "--node was not given";

/// Everything about what the command line names.
///
/// # Errors
/// When that is nothing that could be looked at: no such file, no way to the cluster, no such node.
pub(super) fn facts(args: &DoctorArgs) -> anyhow::Result<Facts> {
    match (&args.node, args.machine.as_str()) {
        (Some(node), _) => of_node(node, args),
        (None, "-") => Ok(of_this_machine(args)),
        (None, name) => of_record(name, args),
    }
}

fn of_node(node: &str, args: &DoctorArgs) -> anyhow::Result<Facts> {
    let seen = cluster::read(node, args)?;
    let away = "only the machine itself can tell".to_owned();
    let status = seen.topology.and_then(|topology| match topology {
        None => Err("there is no such object: no agent has published".to_owned()),
        Some(NodeTopology { status, .. }) => {
            status.ok_or_else(|| "it has no status: its agent has not published yet".to_owned())
        }
    });
    Ok(Facts {
        subject: format!("node {node}"),
        status,
        status_from: format!("NodeTopology {node}"),
        raw: Err(away.clone()),
        host: Err(away),
        configz: seen.configz,
        cluster: Ok(seen.cluster),
        extender: Ok(ask_extender(args)),
    })
}

fn of_this_machine(args: &DoctorArgs) -> Facts {
    let raw = record::of_this_machine(args);
    let status = raw
        .as_ref()
        .map_err(String::clone)
        .and_then(|(text, _)| record::assembled(text, args));
    let raw = raw.map(|(_, raw)| raw);
    let host = host::read(args, raw.as_ref().ok());
    Facts {
        subject: "this machine".to_owned(),
        status,
        status_from: "the agent's probe".to_owned(),
        raw,
        host: Ok(host),
        configz: Err("the kubelet is asked through the API server".to_owned()),
        cluster: Err(NOT_ASKED.to_owned()),
        extender: Ok(ask_extender(args)),
    }
}

fn of_record(name: &str, args: &DoctorArgs) -> anyhow::Result<Facts> {
    let (status, raw) = record::find(name, args)?;
    let recorded = "it is recorded: its kernel cannot be asked".to_owned();
    Ok(Facts {
        subject: name.to_owned(),
        status: Ok(status),
        status_from: name.to_owned(),
        raw,
        host: Err(recorded.clone()),
        configz: Err(recorded),
        cluster: Err(NOT_ASKED.to_owned()),
        extender: Err("a recorded machine has none".to_owned()),
    })
}

fn ask_extender(args: &DoctorArgs) -> Extender {
    let url = args
        .extender
        .as_deref()
        .unwrap_or(crate::args::cluster::EXTENDER);
    Extender {
        url: url.to_owned(),
        is_given: args.extender.is_some(),
        answer: extender::readiness(url).map_err(|error| format!("{error:#}")),
    }
}

/// A wrong word on the command line.
fn usage<T>(sentence: String) -> anyhow::Result<T> {
    bail!(Usage(sentence))
}
