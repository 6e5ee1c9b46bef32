//! What the pod that waits says of the set that is kept for it: a condition in its status, so that the
//! next leader, or this one's next process, keeps the set too.
//!
//! A condition and no annotation, because whoever makes a pod writes its annotations, and would have GPUs
//! kept for it; status is the control plane's. Not `nominatedNodeName`: kube-scheduler 1.37 empties it
//! whenever it finds nobody to evict, which is what it finds for these pods at every try.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_topology::ids::PodUid;
use berth_topology::names;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Hold;

/// As events call it.
const REASON: &str = "PreemptedForTopology";
/// A node's pods that hold GPUs, at 40 bytes each, fit many times.
const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// No set is kept longer, whatever is written. The longest that is: the victims' grace, at most 10
/// minutes, and a margin of one.
const SECONDS_MAX: u64 = 900;

/// The condition's message, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The node.
    pub node: String,
    /// Who was evicted.
    pub victims: BTreeSet<PodUid>,
    /// How long the set is kept, from when this is first seen: clocks of two machines are not compared.
    pub seconds: u64,
}

// === impl Note ===

impl Note {
    /// What a pod says; nothing where it cannot be read, or is over.
    #[must_use]
    pub fn of_pod(pod: &Pod) -> Option<Self> {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        let is_ours = |one: &&PodCondition| one.type_ == names::PREEMPTED && one.status == "True";
        let message = conditions.iter().find(is_ours)?.message.as_deref()?;
        let note: Self = (message.len() <= MESSAGE_BYTES_MAX)
            .then(|| serde_json::from_str(message).ok())
            .flatten()?;
        (note.seconds <= SECONDS_MAX).then_some(note)
    }

    /// A strategic merge patch of that pod's status that says it, or that it is over. `at` is for people.
    #[must_use]
    pub fn patch(&self, uid: &PodUid, is_kept: bool, at: Timestamp) -> Value {
        let condition = PodCondition {
            type_: names::PREEMPTED.to_owned(),
            status: if is_kept { "True" } else { "False" }.to_owned(),
            reason: Some(REASON.to_owned()),
            message: Some(json!(self).to_string()),
            last_transition_time: Some(Time(at)),
            ..PodCondition::default()
        };
        json!({"metadata": {"uid": uid.as_str()}, "status": {"conditions": [condition]}})
    }

    pub(super) fn is_of(&self, hold: &Hold) -> bool {
        *self.node == *hold.node && self.victims == *hold.victims
    }

    /// What is to be kept, of a note that is seen now.
    #[must_use]
    pub fn hold(&self, now: Instant) -> Hold {
        Hold {
            node: self.node.as_str().into(),
            victims: Arc::new(self.victims.clone()),
            until: now + Duration::from_secs(self.seconds),
        }
    }
}
