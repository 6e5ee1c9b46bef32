//! One pod's admission, container by container: which GPUs the kubelet can give to the next one.

use berth_topology::claim::{ContainerNeeds, Phase, PodClaim};

use crate::free::Free;
use crate::kubelet::cpus::CpuRoom;
use crate::kubelet::exact::Inexact;
use crate::kubelet::facts::{Kubelet, Manager, Scope};
use crate::kubelet::hints::{Devices, Hints, cpu_hints, device_hints};
use crate::kubelet::mask::NumaMask;
use crate::kubelet::merge::merge;
use crate::refusal::Refusal;
use crate::set::GpuSet;

/// A pod on its way in. A copy is a branch: what would be left if this set were taken.
#[derive(Clone, Debug)]
pub(crate) struct Admission<'a> {
    kubelet: &'a Kubelet,
    free: GpuSet,
    /// What init containers held: the kubelet gives it out first.
    reusable: GpuSet,
    /// Absent where no CPUs are given exclusively.
    cpus: Option<CpuRoom>,
    /// The mask of the whole pod, where the scope is the pod.
    pod_mask: Option<Option<NumaMask>>,
    is_guaranteed: bool,
    doubt: Option<Inexact>,
}

/// GPUs that one container can be given: all of `must`, and the rest out of `from`, as the device
/// plugin prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) must: GpuSet,
    pub(crate) from: GpuSet,
    /// NUMA nodes that were decided; `None` where none were.
    pub(crate) mask: Option<NumaMask>,
}

// === impl Admission ===

impl<'a> Admission<'a> {
    /// Begins with the GPUs of `free` that work.
    ///
    /// # Errors
    /// Where the topology manager rejects the pod as a whole.
    pub(crate) fn begin(
        kubelet: &'a Kubelet,
        free: &Free<'_>,
        claim: &PodClaim,
        containers: &[ContainerNeeds],
    ) -> Result<Self, Refusal> {
        let wants_cpus = claim.needs.cpu_count() > 0;
        let counts_cpus = wants_cpus && kubelet.counts_cpus();
        let mut admission = Self {
            kubelet,
            free: free.gpus,
            reusable: GpuSet::EMPTY,
            cpus: counts_cpus.then(|| CpuRoom::new(&kubelet.cpus, free.cpus)),
            pod_mask: None,
            is_guaranteed: claim.needs.is_guaranteed,
            doubt: free.doubt.or(kubelet.doubt),
        };
        admission.doubt_pod(claim, containers);
        let is_of_pod = kubelet.scope == Scope::Pod && kubelet.aligns();
        if is_of_pod {
            let gpus = containers.iter().any(|container| container.names_gpus);
            let gpus = gpus.then(|| claim.gpu_count());
            admission.pod_mask = Some(admission.verdict(gpus, claim.needs.cpu_count())?);
        }
        Ok(admission)
    }

    /// What the next container can be given.
    ///
    /// # Errors
    /// Where the topology manager rejects it, or there are too few GPUs.
    pub(crate) fn offer(&mut self, container: &ContainerNeeds) -> Result<Offer, Refusal> {
        let count = container.gpu_count;
        let mask = match self.pod_mask {
            Some(mask) => mask,
            None if self.kubelet.aligns() => {
                let gpus = container.names_gpus.then_some(count);
                self.verdict(gpus, container.cpu_count)?
            }
            None => None,
        };
        if self.reusable.len() + self.free.len() < count {
            return Err(Refusal::NotEnoughFree);
        }
        if count > 0 && count < self.reusable.len() {
            self.doubt.get_or_insert(Inexact::ReusedAtRandom);
        }
        Ok(self.offer_within(mask, count))
    }

    /// Gives `set` to the container, and its CPUs.
    ///
    /// # Errors
    /// Where the CPU manager has too few.
    pub(crate) fn take(
        &mut self,
        container: &ContainerNeeds,
        mask: Option<NumaMask>,
        set: GpuSet,
    ) -> Result<(), Refusal> {
        let is_init = container.phase == Phase::Init;
        self.free = self.free.difference(set);
        self.reusable = if is_init {
            self.reusable.union(set)
        } else {
            self.reusable.difference(set)
        };
        let has_cpus = match &mut self.cpus {
            Some(cpus) => cpus.take(container.cpu_count, mask, is_init),
            None => true,
        };
        if has_cpus {
            Ok(())
        } else {
            Err(Refusal::KubeletWouldRefuse)
        }
    }

    /// GPUs that the pod could use at all now.
    pub(crate) fn reachable(&self) -> GpuSet {
        self.free.union(self.reusable)
    }

    /// Why the pod may get others than was promised.
    pub(crate) fn doubt(&self) -> Option<Inexact> {
        self.doubt
    }

    /// `devicesToAllocate`: reusable ones first, then those of the mask, then any.
    fn offer_within(&self, mask: Option<NumaMask>, count: usize) -> Offer {
        if count <= self.reusable.len() {
            return Offer {
                must: GpuSet::EMPTY,
                from: self.reusable,
                mask,
            };
        }
        let needed = count - self.reusable.len();
        let aligned = self.aligned(mask);
        let (must, from) = if needed < aligned.len() {
            (self.reusable, aligned)
        } else {
            (self.reusable.union(aligned), self.free.difference(aligned))
        };
        Offer { must, from, mask }
    }

    /// `filterByAffinity`: none where devices or the mask do not tell.
    fn aligned(&self, mask: Option<NumaMask>) -> GpuSet {
        let Some(mask) = mask.filter(|_| self.kubelet.aligns_devices()) else {
            return GpuSet::EMPTY;
        };
        let inside = |gpu: &usize| self.kubelet.gpu_nodes[*gpu].meets(mask);
        self.free.iter().filter(inside).collect()
    }

    /// The topology manager's mask for that many GPUs, if they are named at all, and CPUs.
    fn verdict(&mut self, gpus: Option<usize>, cpus: usize) -> Result<Option<NumaMask>, Refusal> {
        let mut hints = Vec::with_capacity(2);
        if let Some(gpus) = gpus.filter(|_| self.kubelet.aligns_devices()) {
            hints.push(self.device_hints(gpus));
        }
        match self.cpus.as_ref().filter(|_| cpus > 0) {
            // A guess must not reject a pod.
            Some(room) if !room.is_certain => {
                self.doubt.get_or_insert(Inexact::CpusUnknown);
            }
            Some(room) => hints.push(cpu_hints(&room.nodes, cpus)),
            None => {}
        }
        let kubelet = self.kubelet;
        let verdict = merge(kubelet.policy, kubelet.ties(), kubelet.nodes(), &hints);
        if !verdict.is_certain {
            self.doubt.get_or_insert(Inexact::OptionsUnknown);
        }
        if verdict.is_admitted {
            Ok(verdict.mask)
        } else {
            Err(Refusal::KubeletWouldRefuse)
        }
    }

    fn device_hints(&self, count: usize) -> Hints {
        let devices = Devices {
            nodes: &self.kubelet.gpu_nodes,
            all: self.kubelet.devices,
            available: self.free,
            reusable: self.reusable,
        };
        device_hints(devices, count)
    }

    /// What of the pod's other wishes is not foreseen.
    fn doubt_pod(&mut self, claim: &PodClaim, containers: &[ContainerNeeds]) {
        if !self.kubelet.aligns() {
            return;
        }
        let wants_cpus = claim.needs.cpu_count() > 0;
        let doubts = [
            (
                claim.needs.has_pod_resources && self.is_guaranteed,
                Some(Inexact::PodResources),
            ),
            (
                containers.iter().any(|one| one.has_other_devices),
                Some(Inexact::OtherDevices),
            ),
            (wants_cpus, self.kubelet.cpu_doubt),
            (
                self.is_guaranteed && self.kubelet.memory != Manager::None,
                Some(Inexact::MemoryManager),
            ),
            (
                containers.len() > 1 && self.kubelet.scope == Scope::Unknown,
                Some(Inexact::ScopeUnknown),
            ),
        ];
        let first = doubts
            .into_iter()
            .find(|(holds, doubt)| *holds && doubt.is_some());
        self.doubt = self.doubt.or(first.and_then(|(_, doubt)| doubt));
    }
}
