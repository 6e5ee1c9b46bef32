//! What was promised to whom, and what of it the kubelet has not asked for yet. Pure.
//!
//! A promise is a container's part of the assignment that the extender wrote with the binding. The
//! kubelet asks for one container at a time and names none: who asks is concluded from the order in
//! which it admits pods, and containers within a pod. A pod that it refused says so late, after a start of
//! the kubelet ten seconds late; what it gives to pods of later turns tells it before.

use std::collections::BTreeSet;

use berth_topology::allocation::Allocation;
use berth_topology::assignment::{Assignment, ContainerAssignment};
use berth_topology::claim::{GpuClaim, Phase, PodClaim};
use berth_topology::ids::{GpuUuid, NodeName, PodUid};
use berth_topology::names;
use k8s_openapi::api::core::v1::Pod;

use super::pods::{self, Pods};

/// The promises of one node for one resource.
#[derive(Clone, Debug, Default)]
pub struct Promises {
    /// Pods with containers that the kubelet has still to ask for, in the order in which it will.
    pub waiting: Vec<Waiting>,
    /// Containers that have their devices.
    pub given: Vec<Given>,
}

/// A pod with containers that the kubelet has still to ask for.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The pod.
    pub pod: PodUid,
    /// `namespace/name`.
    pub name: String,
    /// When the kubelet learned of it, before or after others.
    pub turn: u64,
    /// Whether the kubelet says that it has admitted the pod; then it will hardly ask.
    pub is_admitted: bool,
    /// Those containers, at least one, in the order in which it will ask.
    pub wants: Vec<Want>,
    /// Plain init containers that have their devices, which go to the containers after them.
    pub init_given: Vec<String>,
}

/// One container's wish.
#[derive(Clone, Debug)]
pub struct Want {
    /// The container.
    pub container: String,
    /// When it runs.
    pub phase: Phase,
    /// What it asks for.
    pub claim: GpuClaim,
    /// What it was promised; absent for init containers and for pods that others bound.
    pub promise: Option<ContainerAssignment>,
}

/// A container that has its devices.
#[derive(Clone, Debug)]
pub struct Given {
    /// When the kubelet learned of its pod.
    pub turn: u64,
    /// The pod, `namespace/name`.
    pub pod: String,
    /// The container.
    pub container: String,
    /// What it was promised; empty where nothing was.
    pub promised: BTreeSet<GpuUuid>,
    /// What it has.
    pub devices: BTreeSet<GpuUuid>,
}

// === impl Promises ===

impl Promises {
    /// Reads the promises of `pods`; `rows` are what containers hold.
    #[must_use]
    pub fn read(pods: &Pods, node: &NodeName, resource: &str, rows: &[Allocation]) -> Self {
        let mut promises = Self::default();
        for (turn, pod) in pods.in_order() {
            promises.read_pod((turn, pod), node, resource, rows);
        }
        let served = promises.given.iter().map(|given| given.turn).max();
        // those that are said to be admitted come last: the book may miss what they were given; and those
        // that were passed over, for the kubelet has refused them
        promises
            .waiting
            .sort_by_key(|waiting| waiting.is_admitted || Some(waiting.turn) < served);
        promises
    }

    fn read_pod(
        &mut self,
        (turn, pod): (u64, &Pod),
        node: &NodeName,
        resource: &str,
        rows: &[Allocation],
    ) {
        let uid = pods::uid(pod);
        let (mut wants, mut init_given) = (Vec::new(), Vec::new());
        for want in wants_of(pod, &uid, node, resource) {
            let is_its = |row: &&Allocation| {
                row.pod_uid.as_ref() == Some(&uid)
                    && row.container == want.container
                    && row.resource == resource
            };
            match rows.iter().find(is_its) {
                None => wants.push(want),
                Some(row) => {
                    self.given.push(Given {
                        turn,
                        pod: full_name(pod),
                        container: want.container.clone(),
                        promised: want.promised(),
                        devices: row.devices.iter().cloned().collect(),
                    });
                    if want.phase == Phase::Init {
                        init_given.push(want.container);
                    }
                }
            }
        }
        // the kubelet admits no pod that is to be deleted
        if wants.is_empty() || pod.metadata.deletion_timestamp.is_some() {
            return;
        }
        self.waiting.push(Waiting {
            pod: uid,
            name: full_name(pod),
            turn,
            is_admitted: is_admitted(pod),
            wants,
            init_given,
        });
    }

    /// Who is given `devices`: the pod whose init container has one of them, else the one that was
    /// promised them, else the first whose next container asks for so many.
    #[must_use]
    pub fn recipient(
        &self,
        devices: &BTreeSet<GpuUuid>,
        rows: &[Allocation],
    ) -> Option<(&Waiting, &Want)> {
        let of_size = |(_, want): &(&Waiting, &Want)| want.claim.gpu_count == devices.len();
        let nexts = self.waiting.iter();
        let nexts = nexts.filter_map(|waiting| Some((waiting, waiting.next()?)));
        let nexts: Vec<(&Waiting, &Want)> = nexts.filter(of_size).collect();
        let hands_on = |(waiting, _): &&(&Waiting, &Want)| {
            let own = rows.iter().filter(|row| waiting.hands_on(row));
            own.flat_map(|row| &row.devices)
                .any(|device| devices.contains(device))
        };
        let promised = |(_, want): &&(&Waiting, &Want)| want.promised() == *devices;
        nexts
            .iter()
            .find(hands_on)
            .or_else(|| nexts.iter().find(promised))
            .or_else(|| nexts.first())
            .copied()
    }

    /// The first pod whose next container is of that size.
    #[must_use]
    pub fn asking(&self, size: usize) -> Option<(&Waiting, &Want)> {
        let nexts = self.waiting.iter();
        let mut nexts = nexts.filter_map(|waiting| Some((waiting, waiting.next()?)));
        nexts.find(|(_, want)| want.claim.gpu_count == size)
    }

    /// Everything that is promised to pods that wait, but for `except`, or that containers have: the
    /// kubelet may offer what a pod holds that is just ending.
    pub fn reserved<'a>(&'a self, except: Option<&'a PodUid>) -> impl Iterator<Item = &'a GpuUuid> {
        let others = self.waiting.iter();
        let others = others.filter(move |waiting| Some(&waiting.pod) != except);
        let wants = others.flat_map(|waiting| &waiting.wants);
        let promised =
            wants.flat_map(|want| want.promise.iter().flat_map(ContainerAssignment::gpus));
        promised.chain(self.given.iter().flat_map(|given| &given.devices))
    }

    /// What is free instead of `promised`: where another container was given it, that one's promise,
    /// and so on.
    #[must_use]
    pub fn instead_of<'a>(
        &'a self,
        promised: &'a BTreeSet<GpuUuid>,
    ) -> Option<&'a BTreeSet<GpuUuid>> {
        let mut wanted = promised;
        for _ in 0..self.given.len() {
            let taker = self.given.iter().find(|given| given.devices == *wanted)?;
            wanted = &taker.promised;
            if wanted.is_empty() || wanted == promised {
                return None;
            }
            if !self.given.iter().any(|given| given.devices == *wanted) {
                return Some(wanted);
            }
        }
        None
    }
}

// === impl Waiting ===

impl Waiting {
    /// The container that the kubelet will ask for first.
    #[must_use]
    pub fn next(&self) -> Option<&Want> {
        self.wants.first()
    }

    /// Whether `row` is of an init container of this pod, whose devices the next container gets.
    #[must_use]
    pub fn hands_on(&self, row: &Allocation) -> bool {
        row.pod_uid.as_ref() == Some(&self.pod) && self.init_given.contains(&row.container)
    }
}

// === impl Want ===

impl Want {
    /// The devices that were promised, without their order.
    #[must_use]
    pub fn promised(&self) -> BTreeSet<GpuUuid> {
        let ranks = self.promise.iter().flat_map(ContainerAssignment::gpus);
        ranks.cloned().collect()
    }
}

/// `namespace/name`.
fn full_name(pod: &Pod) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let metadata = &pod.metadata;
    format!("{}/{}", text(&metadata.namespace), text(&metadata.name))
}

/// Every container of the pod that asks for the resource, in the order of admission.
fn wants_of(pod: &Pod, uid: &PodUid, node: &NodeName, resource: &str) -> Vec<Want> {
    let claim = claim(pod, resource);
    let assignment = assignment(pod, uid, node);
    let promised = |container: &str, gpu_count: usize| {
        let promise = assignment.as_ref()?.containers.get(container)?;
        (promise.gpus().count() == gpu_count).then(|| promise.clone())
    };
    let admitted = claim.admitted();
    let asking = admitted.iter().filter(|needs| needs.gpu_count > 0);
    let want = |needs: &berth_topology::claim::ContainerNeeds| {
        let mut claims = claim.init.iter().chain(&claim.containers);
        let own = claims.find(|claim| claim.name == needs.name);
        let bare = || GpuClaim::of_count(needs.gpu_count);
        Want {
            container: needs.name.clone(),
            phase: needs.phase,
            claim: own.map_or_else(bare, |own| own.claim.clone()),
            promise: promised(&needs.name, needs.gpu_count),
        }
    };
    asking.map(want).collect()
}

/// What the pod asks for; without its wishes where they cannot be read: another scheduler bound it.
fn claim(pod: &Pod, resource: &str) -> PodClaim {
    PodClaim::of_pod(pod, resource).unwrap_or_else(|_| {
        let mut bare = pod.clone();
        bare.metadata.annotations = None;
        PodClaim::of_pod(&bare, resource).unwrap_or_default()
    })
}

/// Only one for this pod on this node is a promise.
fn assignment(pod: &Pod, uid: &PodUid, node: &NodeName) -> Option<Assignment> {
    let text = pod.metadata.annotations.as_ref()?.get(names::ASSIGNMENT)?;
    let assignment = Assignment::decode(text).ok()?;
    let is_its = assignment.pod_uid.as_ref() == Some(uid);
    (is_its && assignment.node.as_ref() == Some(node)).then_some(assignment)
}

/// The kubelet tells of a pod's containers only once it has admitted the pod.
fn is_admitted(pod: &Pod) -> bool {
    let Some(status) = &pod.status else {
        return false;
    };
    let has_containers = |statuses: &Option<Vec<_>>| statuses.iter().flatten().next().is_some();
    status.phase.as_deref() == Some("Running")
        || has_containers(&status.container_statuses)
        || has_containers(&status.init_container_statuses)
}

#[cfg(test)]
mod tests;
