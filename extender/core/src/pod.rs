//! What the index keeps of a pod: who it is, what it asks, where it is, what it was given.
//!
//! A whole Pod is tens of kilobytes; only pods that ask for the resource are kept at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_placement::{GpuSet, Machine};
use berth_topology::assignment::Assignment;
use berth_topology::claim::{self, PodClaim};
use berth_topology::ids::{GpuUuid, PodUid};
use berth_topology::names;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::group::Group;
use crate::record::shared;

/// Anybody may write an annotation; a uid or a hash is at most so long.
const UID_BYTES_MAX: usize = 64;
use crate::held::{Hold, Note};
use crate::nominated::Nominee;

mod terms;

pub use terms::{Labels, Requests, Terms};

/// One pod that asks for the resource.
#[derive(Clone, Debug)]
pub struct PodRecord {
    /// Who it is and what it holds.
    pub holder: Arc<Holder>,
    /// The node it is bound to.
    pub node: Option<String>,
    /// The node where it waits for its victims to leave.
    pub nominated: Option<String>,
    /// Succeeded or Failed: its containers are gone for good and its GPUs are free.
    /// A pod that is only terminating still holds them.
    pub is_finished: bool,
    /// What it asks, or why that cannot be read.
    pub claim: Claim,
    /// What it says of a set that is kept for it.
    said: Option<Box<Note>>,
}

/// A pod as one that holds GPUs of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Its uid.
    pub uid: PodUid,
    /// The kubelet's own uid of a static pod, which this pod only mirrors.
    pub static_uid: Option<PodUid>,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// GPUs that it holds at once, as kube-scheduler counts them.
    pub gpu_count: usize,
    /// CPUs that a static CPU manager gives to it alone.
    pub cpu_count: usize,
    /// The pods that it works with.
    #[serde(default, with = "shared::maybe")]
    pub group: Option<Arc<Group>>,
    /// GPUs by container, as its assignment says; empty without a valid one.
    pub intent: Intent,
    /// What preemption asks of it.
    #[serde(default, with = "shared")]
    pub terms: Arc<Terms>,
}

/// What a pod wants, or why that cannot be read; shared by all that is known of it.
pub type Claim = Arc<Result<PodClaim, claim::Error>>;

/// GPUs by container.
pub type Intent = BTreeMap<String, Vec<GpuUuid>>;

// === impl Holder ===

impl Holder {
    /// `NAMESPACE/NAME`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The GPUs of that machine that its assignment names.
    #[must_use]
    pub fn named_on(&self, machine: &Machine) -> GpuSet {
        machine.set_of(self.intent.values().flatten())
    }
}

// === impl PodRecord ===

impl PodRecord {
    /// `None` for a pod that asks for none of `resource`.
    pub fn read(pod: &Pod, resource: &str) -> Option<Self> {
        let claim = PodClaim::of_pod(pod, resource);
        let counted = counted_claim(pod, resource, &claim);
        let is_readable = claim.is_ok() || counted.is_some();
        let counted = counted.unwrap_or_default();
        if is_readable && counted.gpu_count() == 0 {
            return None;
        }
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let uid = PodUid(text(&pod.metadata.uid));
        let node = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.clone())
            .filter(|node| !node.is_empty());
        let intent = node
            .as_deref()
            .and_then(|node| valid_intent(pod, &uid, node, &counted));
        let holder = Holder {
            uid,
            static_uid: static_uid(pod),
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
            gpu_count: counted.gpu_count(),
            cpu_count: counted.needs.cpu_count(),
            group: Group::of_pod(pod, claim.as_ref().ok()).map(Arc::new),
            intent: intent.unwrap_or_default(),
            terms: Arc::new(Terms::of_pod(pod, resource)),
        };
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let nominated = status.and_then(|status| status.nominated_node_name.clone());
        let is_finished = matches!(phase, Some("Succeeded" | "Failed"));
        Some(Self {
            holder: Arc::new(holder),
            node,
            nominated: nominated.filter(|node| !node.is_empty()),
            is_finished,
            claim: Arc::new(claim),
            said: Note::of_pod(pod).map(Box::new),
        })
    }

    /// The node where it holds GPUs now.
    pub fn held_node(&self) -> Option<&str> {
        self.node.as_deref().filter(|_| !self.is_finished)
    }

    /// The node where a set is kept for it.
    pub fn awaited_node(&self) -> Option<&str> {
        self.nominated.as_deref().filter(|_| self.waits())
    }

    /// What it says of a set that the extender keeps for it.
    pub(crate) fn note(&self) -> Option<&Note> {
        self.said.as_deref().filter(|_| self.waits())
    }

    /// Whether it may be bound still. One that is being deleted will never be.
    fn waits(&self) -> bool {
        self.node.is_none() && !self.is_finished && !self.holder.terms.is_terminating
    }

    /// The pod as one that waits for its victims to leave; `hold` says whom the extender evicts for it.
    pub(crate) fn nominee(&self, hold: Option<&Hold>) -> Arc<Nominee> {
        let victims = hold.map(|hold| hold.victims.clone());
        Arc::new(Nominee {
            uid: self.holder.uid.clone(),
            priority: self.holder.terms.priority,
            claim: self.claim.as_ref().as_ref().ok().cloned(),
            gpu_count: self.holder.gpu_count,
            victims: victims.unwrap_or_default(),
        })
    }
}

/// The pod's counts even where an annotation cannot be read: another scheduler may have bound it.
fn counted_claim(
    pod: &Pod,
    resource: &str,
    claim: &Result<PodClaim, claim::Error>,
) -> Option<PodClaim> {
    if let Ok(claim) = claim {
        return Some(claim.clone());
    }
    let mut bare = pod.clone();
    bare.metadata.annotations = None;
    PodClaim::of_pod(&bare, resource).ok()
}

/// The kubelet writes the hash of a static pod's manifest to its mirror, and uses it as the uid
/// (`kubelet/types.ConfigMirrorAnnotationKey`, `kubelet/config.applyDefaults`).
fn static_uid(pod: &Pod) -> Option<PodUid> {
    let annotations = pod.metadata.annotations.as_ref()?;
    let hash = annotations.get("kubernetes.io/config.mirror")?;
    (1..=UID_BYTES_MAX)
        .contains(&hash.len())
        .then(|| PodUid(hash.clone()))
}

/// The assignment's GPUs, if it is for this pod, on this node, and for its counts.
fn valid_intent(pod: &Pod, uid: &PodUid, node: &str, counted: &PodClaim) -> Option<Intent> {
    let text = pod.metadata.annotations.as_ref()?.get(names::ASSIGNMENT)?;
    let assignment = Assignment::decode(text).ok()?;
    let is_ours = assignment.pod_uid.as_ref() == Some(uid)
        && assignment
            .node
            .as_ref()
            .is_some_and(|assigned| assigned.as_str() == node);
    let intent = intent_of(&assignment);
    let counts_match = counted.containers.iter().all(|container| {
        let given = intent.get(&container.name).map_or(0, Vec::len);
        given == container.claim.gpu_count
    });
    (is_ours && counts_match).then_some(intent)
}

/// The GPUs of each container of an assignment.
pub fn intent_of(assignment: &Assignment) -> Intent {
    let of_container =
        |(name, container): (&String, &berth_topology::assignment::ContainerAssignment)| {
            (name.clone(), container.gpus().cloned().collect())
        };
    assignment.containers.iter().map(of_container).collect()
}
