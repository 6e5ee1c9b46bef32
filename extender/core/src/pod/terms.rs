//! On what terms a pod stands on its node: what preemption asks of it besides its GPUs.

use std::collections::BTreeMap;

use berth_topology::quantity;
use k8s_openapi::api::core::v1::{Affinity, Container, Pod, PodSpec};
use serde::{Deserialize, Serialize};

/// What kube-scheduler's preemption reads of a pod, as preemptor and as victim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// `spec.priority`; 0 where there is none, as kube-scheduler takes it.
    pub priority: i32,
    /// `preemptionPolicy: Never`: it waits, whoever is below it.
    pub never_preempts: bool,
    /// It is being deleted, and holds its GPUs until it is gone.
    pub is_terminating: bool,
    /// It is one of a scheduling group, whose priority and policy the extender does not see.
    pub is_grouped: bool,
    /// It may not be beside certain pods, or must be: required (anti-)affinity or hard spreading.
    pub has_pod_rules: bool,
    /// It takes ports of the host.
    pub has_host_ports: bool,
    /// When the kubelet took it on, in microseconds since 1970.
    pub started_at_us: Option<i64>,
    /// How long it may take to end, in seconds.
    pub grace_seconds: u32,
    /// Its labels, which disruption budgets select by.
    pub labels: Labels,
    /// What it requests of every resource but ours, in thousandths.
    pub requests: Requests,
}

/// Labels in order of their keys.
pub type Labels = Box<[(Box<str>, Box<str>)]>;
/// Thousandths of each resource, in order of names.
pub type Requests = Box<[(Box<str>, u64)]>;

/// What a pod without `terminationGracePeriodSeconds` gets.
const GRACE_SECONDS_DEFAULT: u32 = 30;

// === impl Terms ===

impl Terms {
    /// Those of `pod`. `resource` is counted elsewhere.
    #[must_use]
    pub fn of_pod(pod: &Pod, resource: &str) -> Self {
        let none = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&none);
        let started = pod
            .status
            .as_ref()
            .and_then(|status| status.start_time.as_ref());
        let labels = pod.metadata.labels.iter().flatten();
        let grace = spec.termination_grace_period_seconds;
        Self {
            priority: spec.priority.unwrap_or(0),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            is_terminating: pod.metadata.deletion_timestamp.is_some(),
            is_grouped: spec.scheduling_group.is_some(),
            has_pod_rules: has_pod_rules(spec),
            has_host_ports: spec.containers.iter().any(takes_host_port),
            started_at_us: started.map(|time| time.0.as_microsecond()),
            grace_seconds: grace
                .and_then(|seconds| u32::try_from(seconds).ok())
                .unwrap_or(GRACE_SECONDS_DEFAULT),
            labels: labels
                .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
                .collect(),
            requests: requests(spec, resource),
        }
    }

    /// The label of that key.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        let position = self
            .labels
            .binary_search_by(|(known, _)| (**known).cmp(key));
        position.ok().map(|position| &*self.labels[position].1)
    }

    /// What it requests of a resource, in thousandths.
    #[must_use]
    pub fn request(&self, name: &str) -> u64 {
        let position = self
            .requests
            .binary_search_by(|(known, _)| (**known).cmp(name));
        position.map_or(0, |position| self.requests[position].1)
    }
}

fn has_pod_rules(spec: &PodSpec) -> bool {
    let of_affinity = |affinity: &Affinity| {
        let near = affinity.pod_affinity.as_ref();
        let apart = affinity.pod_anti_affinity.as_ref();
        near.is_some_and(|rules| {
            rules
                .required_during_scheduling_ignored_during_execution
                .is_some()
        }) || apart.is_some_and(|rules| {
            rules
                .required_during_scheduling_ignored_during_execution
                .is_some()
        })
    };
    let spread = spec.topology_spread_constraints.iter().flatten();
    spec.affinity.as_ref().is_some_and(of_affinity)
        || spread
            .into_iter()
            .any(|rule| rule.when_unsatisfiable == "DoNotSchedule")
}

fn takes_host_port(container: &Container) -> bool {
    let mut ports = container.ports.iter().flatten();
    ports.any(|port| port.host_port.is_some_and(|port| port != 0))
}

/// What its containers request together, or its greediest init container if that is more.
fn requests(spec: &PodSpec, resource: &str) -> Requests {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, amount) in spec.containers.iter().flat_map(requested) {
        let sum = sums.entry(name).or_default();
        *sum = sum.saturating_add(amount);
    }
    for (name, amount) in spec.init_containers.iter().flatten().flat_map(requested) {
        let sum = sums.entry(name).or_default();
        *sum = amount.max(*sum);
    }
    let others = sums.into_iter().filter(|(name, _)| *name != resource);
    others.map(|(name, amount)| (name.into(), amount)).collect()
}

/// The API server has written the limits into the requests where those were absent.
fn requested(container: &Container) -> impl Iterator<Item = (&str, u64)> {
    let requests = container.resources.iter();
    let requests = requests.flat_map(|resources| resources.requests.iter().flatten());
    requests.map(|(name, amount)| (name.as_str(), thousandths(&amount.0)))
}

/// What cannot be read is nothing.
fn thousandths(text: &str) -> u64 {
    match text.strip_suffix('m').map(str::parse) {
        Some(Ok(amount)) => amount,
        _ => quantity::parse(text).unwrap_or(0).saturating_mul(1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn terms(spec: serde_json::Value) -> Terms {
        let pod = json!({"metadata": {"labels": {"app": "a", "tier": "b"}}, "spec": spec});
        Terms::of_pod(&serde_json::from_value(pod).unwrap(), "nvidia.com/gpu")
    }

    #[test]
    fn a_pod_that_says_nothing_has_priority_zero_and_may_preempt() {
        let terms = terms(json!({"containers": []}));
        assert_eq!((terms.priority, terms.never_preempts), (0, false));
        assert_eq!((terms.label("tier"), terms.label("x")), (Some("b"), None));
        assert_eq!(terms.grace_seconds, 30);
    }

    #[test]
    fn requests_are_summed_in_thousandths_and_init_containers_reuse_them() {
        let with = |cpu: &str| {
            json!({"name": "c", "resources": {"requests": {
            "cpu": cpu, "nvidia.com/gpu": "2"}}})
        };
        let both = json!({"containers": [with("500m"), with("2")], "initContainers": [with("1")]});
        assert_eq!(terms(both).request("cpu"), 2_500);
        let greedy = json!({"containers": [with("500m")], "initContainers": [with("4")]});
        assert_eq!(terms(greedy.clone()).request("cpu"), 4_000);
        assert_eq!(
            terms(greedy).request("nvidia.com/gpu"),
            0,
            "counted elsewhere"
        );
    }

    #[test]
    fn only_hard_rules_about_other_pods_are_rules() {
        let spread = |when: &str| {
            json!({"containers": [], "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": when}]})
        };
        assert!(terms(spread("DoNotSchedule")).has_pod_rules);
        assert!(!terms(spread("ScheduleAnyway")).has_pod_rules);
        let term = json!({"topologyKey": "host", "labelSelector": {}});
        let apart = |key: &str, term| json!({"containers": [], "affinity": {"podAntiAffinity": {key: [term]}}});
        assert!(
            terms(apart(
                "requiredDuringSchedulingIgnoredDuringExecution",
                term.clone()
            ))
            .has_pod_rules
        );
        let wish = json!({"weight": 1, "podAffinityTerm": term});
        assert!(
            !terms(apart(
                "preferredDuringSchedulingIgnoredDuringExecution",
                wish
            ))
            .has_pod_rules
        );
    }
}
