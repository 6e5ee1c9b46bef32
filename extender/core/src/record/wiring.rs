//! What agents published of the hardware, kept once for all nodes that are wired alike.
//!
//! A NodeTopology is some ten kilobytes and the GPUs' UUIDs are nearly all that differs between the
//! nodes of a fleet. With GPUs named by position one text serves them all, so that decisions can be
//! made again offline without every node's object being held in memory.

use std::collections::HashMap;
use std::sync::Arc;

use berth_topology::ids::GpuUuid;
use berth_topology::node::Status;

use crate::interned::Interned;

/// Texts known before those that nobody uses any more are looked for.
const SWEEP_AT_MIN: usize = 64;

/// One machine's hardware as its agent published it: GPUs named by position, without what changes
/// from node to node or from minute to minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiring {
    /// A [`Status`] as JSON.
    pub text: Arc<str>,
    /// The GPU at each position, and after them the MIG instances, GPU by GPU.
    pub uuids: Arc<[GpuUuid]>,
}

/// Every text that some node uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wirings(Interned<str, SWEEP_AT_MIN>);

// === impl Wirings ===

impl Wirings {
    pub(crate) fn intern(&mut self, status: &Status) -> Wiring {
        let Wiring { text, uuids } = Wiring::of(status);
        let text = self.0.intern(text);
        Wiring { text, uuids }
    }
}

// === impl Wiring ===

impl Wiring {
    /// What of `status` is hardware.
    pub(crate) fn of(status: &Status) -> Self {
        let gpus = status.gpus.iter().map(|gpu| &gpu.uuid);
        let uuids: Arc<[GpuUuid]> = gpus.chain(instances(status)).cloned().collect();
        let positions: HashMap<&GpuUuid, usize> = uuids
            .iter()
            .enumerate()
            .map(|(position, uuid)| (uuid, position))
            .collect();
        let bare = Status {
            allocations: Vec::new(),
            unknowns: Vec::new(),
            observed_at: None,
            boot_id: None,
            agent_version: None,
            hash: String::new(),
            ..status.clone()
        };
        let bare = renamed(bare, |uuid| positions.get(uuid).map(|at| placeholder(*at)));
        let text = serde_json::to_string(&bare).expect("a status has only string keys");
        Self {
            text: text.into(),
            uuids,
        }
    }

    /// The status again, with this machine's GPUs.
    ///
    /// # Errors
    /// When the text is no status.
    pub fn status(&self) -> Result<Status, serde_json::Error> {
        let names: HashMap<GpuUuid, &GpuUuid> = self
            .uuids
            .iter()
            .enumerate()
            .map(|(position, uuid)| (placeholder(position), uuid))
            .collect();
        let bare: Status = serde_json::from_str(&self.text)?;
        Ok(renamed(bare, |uuid| {
            names.get(uuid).map(|uuid| (*uuid).clone())
        }))
    }
}

fn instances(status: &Status) -> impl Iterator<Item = &GpuUuid> {
    let of_gpu = status.gpus.iter().filter_map(|gpu| gpu.mig.as_ref());
    let instances = of_gpu.flat_map(|mig| &mig.instances);
    instances.map(|instance| &instance.uuid)
}

/// Sorts as the positions do.
fn placeholder(position: usize) -> GpuUuid {
    GpuUuid(format!("@{position:04}"))
}

/// The same machine with other GPUs and MIG instances: `name` says how each is called, `None` keeps
/// its name.
pub fn renamed(mut status: Status, name: impl Fn(&GpuUuid) -> Option<GpuUuid>) -> Status {
    let rename = |uuid: &mut GpuUuid| {
        if let Some(new) = name(uuid) {
            *uuid = new;
        }
    };
    for gpu in &mut status.gpus {
        rename(&mut gpu.uuid);
        let instances = gpu.mig.iter_mut().flat_map(|mig| &mut mig.instances);
        instances.for_each(|instance| rename(&mut instance.uuid));
    }
    for link in &mut status.links {
        rename(&mut link.a);
        rename(&mut link.b);
    }
    let paths = status.nics.iter_mut().flat_map(|nic| &mut nic.paths);
    paths.for_each(|path| rename(&mut path.gpu));
    let devices = status
        .allocations
        .iter_mut()
        .flat_map(|one| &mut one.devices);
    devices.for_each(rename);
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{partitioned, status};

    #[test]
    fn nodes_that_are_wired_alike_share_one_text_and_each_gets_its_own_status_back() {
        let mut wirings = Wirings::default();
        let (a, b) = (
            wirings.intern(&status("a", 8)),
            wirings.intern(&status("b", 8)),
        );
        assert!(Arc::ptr_eq(&a.text, &b.text));
        let bare = |node: &str| Status {
            hash: String::new(),
            ..status(node, 8)
        };
        assert_eq!(a.status().unwrap(), bare("a"));
        assert_eq!(b.status().unwrap(), bare("b"));
    }

    #[test]
    fn instances_of_nodes_that_are_partitioned_alike_are_each_nodes_own() {
        let mut wirings = Wirings::default();
        let (a, b) = (
            wirings.intern(&partitioned("a", &[3, 4])),
            wirings.intern(&partitioned("b", &[3, 4])),
        );
        assert!(Arc::ptr_eq(&a.text, &b.text));
        assert_eq!(b.status().unwrap().gpus, partitioned("b", &[3, 4]).gpus);
    }

    #[test]
    fn texts_that_nobody_uses_are_dropped() {
        let mut wirings = Wirings::default();
        for count in 0..SWEEP_AT_MIN * 4 {
            let mut one = status("a", 2);
            one.gpus[0].memory_bytes = Some(count as u64);
            wirings.intern(&one);
        }
        assert!(wirings.0.len() <= SWEEP_AT_MIN + 1, "{}", wirings.0.len());
    }
}
