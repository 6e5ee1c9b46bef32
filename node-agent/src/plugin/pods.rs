//! Pods that are bound to this node and have not ended, as the API server told them. Pure.
//!
//! Kept in the order in which the kubelet learns of them. From a watch it gets one pod at a time, in
//! the order of the writes that bound them, as we do; what it finds in a list (after its start) it
//! admits by creation time (`HandlePodAdditions`, Kubernetes 1.37.1).

use std::collections::BTreeMap;

use berth_topology::ids::PodUid;
use k8s_openapi::api::core::v1::Pod;

/// The pods, by uid.
#[derive(Debug, Default)]
pub struct Pods {
    bound: BTreeMap<PodUid, Bound>,
    /// What the next pod that was not known before is numbered.
    next: u64,
    is_listed: bool,
}

/// One pod and when it was first seen.
#[derive(Debug)]
struct Bound {
    turn: u64,
    pod: Pod,
}

// === impl Pods ===

impl Pods {
    /// A pod was bound, or has changed. One that has ended holds nothing any more.
    pub fn apply(&mut self, pod: Pod) {
        self.put(pod, self.next);
        self.next += 1;
    }

    /// A pod is gone.
    pub fn delete(&mut self, pod: &Pod) {
        self.bound.remove(&uid(pod));
    }

    /// All pods of the node, listed anew.
    pub fn reset(&mut self, pods: Vec<Pod>) {
        let mut before = std::mem::take(&mut self.bound);
        for pod in pods {
            let known = before.remove(&uid(&pod));
            self.put(pod, known.map_or(self.next, |known| known.turn));
        }
        self.next += 1;
        self.is_listed = true;
    }

    /// Whether all pods were listed once; before that, a pod that is not here may be there.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// A kubelet that starts learns of all of them at once.
    pub fn kubelet_started(&mut self) {
        for bound in self.bound.values_mut() {
            bound.turn = self.next;
        }
        self.next += 1;
    }

    /// In the order in which the kubelet admits them, each with its turn: it learns of the pods of one
    /// turn at once, and of those of a later one when it has admitted or refused these.
    #[must_use]
    pub fn in_order(&self) -> Vec<(u64, &Pod)> {
        let mut bound: Vec<&Bound> = self.bound.values().collect();
        bound.sort_by_key(|bound| {
            let metadata = &bound.pod.metadata;
            let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
            (bound.turn, created, &metadata.namespace, &metadata.name)
        });
        let pods = bound.into_iter();
        pods.map(|bound| (bound.turn, &bound.pod)).collect()
    }

    /// The pod that the kubelet knows by that uid.
    #[must_use]
    pub fn by_kubelet_uid(&self, wanted: &str) -> Option<&Pod> {
        let direct = self.bound.get(&PodUid::from(wanted));
        direct.map(|bound| &bound.pod).or_else(|| {
            let mut all = self.bound.values().map(|bound| &bound.pod);
            all.find(|pod| mirrored_uid(pod) == Some(wanted))
        })
    }

    /// The pod of that name.
    #[must_use]
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<&Pod> {
        let mut all = self.bound.values().map(|bound| &bound.pod);
        all.find(|pod| {
            pod.metadata.namespace.as_deref() == Some(namespace)
                && pod.metadata.name.as_deref() == Some(name)
        })
    }

    /// The pod with that uid.
    #[must_use]
    pub fn by_uid(&self, uid: &PodUid) -> Option<&Pod> {
        self.bound.get(uid).map(|bound| &bound.pod)
    }

    fn put(&mut self, pod: Pod, turn: u64) {
        let uid = uid(&pod);
        if has_ended(&pod) {
            self.bound.remove(&uid);
            return;
        }
        let turn = self.bound.get(&uid).map_or(turn, |known| known.turn);
        self.bound.insert(uid, Bound { turn, pod });
    }
}

/// Its uid in the API server.
#[must_use]
pub fn uid(pod: &Pod) -> PodUid {
    PodUid(pod.metadata.uid.clone().unwrap_or_default())
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The kubelet's own uid of a static pod, whose mirror this is.
fn mirrored_uid(pod: &Pod) -> Option<&str> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations
        .get("kubernetes.io/config.mirror")
        .map(String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, created_s: u32) -> Pod {
        serde_json::from_value(json!({"metadata": {
            "uid": format!("uid-{name}"), "name": name, "namespace": "default",
            "creationTimestamp": format!("2026-01-01T00:00:{created_s:02}Z"),
        }}))
        .expect("a pod")
    }

    fn names(pods: &Pods) -> Vec<&str> {
        let names = pods.in_order().into_iter();
        names
            .filter_map(|(_, pod)| pod.metadata.name.as_deref())
            .collect()
    }

    #[test]
    fn pods_of_one_list_are_admitted_by_creation_time_and_then_by_name() {
        let mut pods = Pods::default();
        pods.reset(vec![pod("late", 9), pod("b", 3), pod("a", 3)]);
        assert_eq!(names(&pods), ["a", "b", "late"]);
    }

    #[test]
    fn pods_that_a_watch_tells_are_admitted_as_they_come() {
        let mut pods = Pods::default();
        pods.reset(vec![pod("listed", 30)]);
        pods.apply(pod("second", 20));
        pods.apply(pod("third", 10));
        pods.apply(pod("second", 20));
        assert_eq!(names(&pods), ["listed", "second", "third"]);
        pods.reset(vec![
            pod("third", 10),
            pod("second", 20),
            pod("fourth", 1),
            pod("listed", 30),
        ]);
        assert_eq!(names(&pods), ["listed", "second", "third", "fourth"]);
    }

    #[test]
    fn a_kubelet_that_starts_admits_those_that_are_there_by_creation_time() {
        let mut pods = Pods::default();
        for (name, created_s) in [("second", 20), ("third", 10)] {
            pods.apply(pod(name, created_s));
        }
        pods.kubelet_started();
        pods.apply(pod("after", 1));
        assert_eq!(names(&pods), ["third", "second", "after"]);
    }

    #[test]
    fn a_pod_that_ended_or_is_gone_is_not_kept() {
        let mut pods = Pods::default();
        pods.reset(vec![pod("a", 1), pod("b", 2)]);
        let mut ended = pod("a", 1);
        ended.status = Some(serde_json::from_value(json!({"phase": "Succeeded"})).unwrap());
        pods.apply(ended);
        pods.delete(&pod("b", 2));
        assert!(names(&pods).is_empty());
    }

    #[test]
    fn a_static_pod_is_found_by_the_uid_that_only_the_kubelet_knows() {
        let mut mirror = pod("static", 1);
        mirror.metadata.annotations =
            Some([("kubernetes.io/config.mirror".to_owned(), "hash".to_owned())].into());
        let mut pods = Pods::default();
        pods.apply(mirror);
        let found = pods.by_kubelet_uid("hash").map(uid);
        assert_eq!(found, Some(PodUid::from("uid-static")));
        assert!(pods.by_kubelet_uid("other").is_none());
    }
}
