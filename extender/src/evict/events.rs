//! Events (events.k8s.io) that tell victims, and the pod that waits, what was done and why.

use berth_extender_core::pod::Holder;
use berth_extender_core::preempt::stranded::Plan;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

/// As `kubectl describe` shows it.
const CONTROLLER: &str = "berth-extender";

/// Writes them. What cannot be written is logged: nothing depends on it.
pub(super) struct Events(Recorder);

// === impl Events ===

impl Events {
    pub(super) fn new(client: kube::Client) -> Self {
        Self(Recorder::new(client, Reporter::from(CONTROLLER)))
    }

    /// To a victim: who needs its GPUs.
    pub(super) async fn evicted(&self, plan: &Plan, victim: &Holder) {
        let (namespace, name) = (&plan.pod.namespace, &plan.pod.name);
        let note = format!(
            "Evicted: pod {namespace}/{name} of higher priority needs GPUs of node {} that are linked as it requires",
            plan.node
        );
        let event = event("Preempted", "Evicting", note, Some(&plan.pod));
        self.publish(event, victim).await;
    }

    /// To the pod that waits: who was evicted for it.
    pub(super) async fn waits(&self, plan: &Plan) {
        let names = plan.victims.iter().map(|victim| victim.full_name());
        let note = format!(
            "Evicted {} from node {}, where enough GPUs were free but not linked as required; they are kept for this pod for {} s",
            names.collect::<Vec<_>>().join(", "),
            plan.node,
            plan.hold_for.as_secs()
        );
        let event = event("PreemptedForTopology", "Preempting", note, None);
        self.publish(event, &plan.pod).await;
    }

    async fn publish(&self, event: Event, pod: &Holder) {
        if let Err(error) = self.0.publish(&event, &reference(pod)).await {
            tracing::warn!(%error, pod = pod.name, "telling a pod of an eviction");
        }
    }
}

/// The API server takes a note of 1 kB.
fn event(reason: &str, action: &str, note: String, other: Option<&Holder>) -> Event {
    Event {
        type_: EventType::Normal,
        reason: reason.to_owned(),
        note: Some(note.chars().take(1_000).collect()),
        action: action.to_owned(),
        secondary: other.map(reference),
    }
}

fn reference(pod: &Holder) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.namespace.clone()),
        name: Some(pod.name.clone()),
        uid: Some(pod.uid.as_str().to_owned()),
        ..ObjectReference::default()
    }
}
