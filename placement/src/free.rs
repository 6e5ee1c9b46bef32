//! What of a machine can be given away.

use berth_topology::cpus::CpuList;

use crate::kubelet::{HeldCpus, Inexact};
use crate::machine::Machine;
use crate::set::GpuSet;

/// What of a machine can be given to a pod.
#[derive(Clone, Copy, Debug)]
pub struct Free<'a> {
    /// GPUs that nobody holds; broken ones may be among them.
    pub gpus: GpuSet,
    /// CPUs that containers hold alone; absent where none are.
    pub cpus: Option<&'a HeldCpus>,
    /// Why a promise here may not be kept to the letter, before any pod is looked at: who serves
    /// the resource ([`Machine::plugin_doubt`]), or GPUs held by nobody knows whom.
    pub doubt: Option<Inexact>,
}

// === impl Free ===

impl From<GpuSet> for Free<'_> {
    /// Nobody holds CPUs, and nothing is known of the plugin.
    fn from(gpus: GpuSet) -> Self {
        Self {
            gpus,
            cpus: None,
            doubt: Some(Inexact::PluginNotOurs),
        }
    }
}

// === impl Machine ===

impl Machine {
    /// CPUs that containers hold alone: those of `lists`, and as many as `pending` tells of pods of
    /// which only the GPUs are known. They are given from the NUMA node of their GPUs where that is one.
    #[must_use]
    pub fn held_cpus<'a>(
        &self,
        lists: impl Iterator<Item = &'a CpuList>,
        pending: impl Iterator<Item = (GpuSet, usize)>,
    ) -> HeldCpus {
        let mut held = HeldCpus::default();
        // A container with two kinds of devices is listed twice, with the same CPUs.
        let all = lists.fold(CpuList::default(), |all, list| all.union(list));
        for (position, id) in self.kubelet.numa.iter().enumerate() {
            let node = self.shape.facts.numa.iter().find(|node| node.id == *id);
            let count = node.map_or(0, |node| all.intersection(&node.cpus).len());
            held.hold(Some(position), count);
        }
        for (gpus, count) in pending {
            held.hold(self.kubelet.node_of(gpus), count);
        }
        held
    }

    /// Whether CPUs that containers hold alone matter here.
    #[must_use]
    pub fn counts_cpus(&self) -> bool {
        self.kubelet.counts_cpus()
    }

    /// Why the plugin that serves `resource` here may give other GPUs than were promised.
    #[must_use]
    pub fn plugin_doubt(&self, resource: &str) -> Option<Inexact> {
        self.kubelet.plugin_doubt(resource)
    }
}
