//! The kubelet's policies, from its configuration file.

use berth_topology::kubelet::Kubelet;
use berth_topology::raw::{RawKubelet, RawMachine};

use super::unknowns::Unknowns;

/// Unknown where nobody said where the file is. What a file leaves out is the kubelet's default
/// (`SetDefaults_KubeletConfiguration` of `kubelet.config.k8s.io/v1beta1`).
pub(crate) fn assemble(raw: &RawMachine, unknowns: &mut Unknowns) -> Kubelet {
    let Some(answer) = &raw.kubelet else {
        return Kubelet::unknown();
    };
    match unknowns.value("kubelet", "its configuration", answer) {
        Some(config) => of_config(config, unknowns),
        None => Kubelet::unknown(),
    }
}

fn of_config(config: &RawKubelet, unknowns: &mut Unknowns) -> Kubelet {
    let or = |value: &Option<String>, default: &str| {
        let given = value.as_deref().filter(|value| !value.is_empty());
        given.unwrap_or(default).to_owned()
    };
    let reserved = config.reserved_system_cpus.as_deref();
    let reserved_cpus = match reserved.filter(|text| !text.is_empty()).map(str::parse) {
        None => None,
        Some(Ok(cpus)) => Some(cpus),
        Some(Err(error)) => {
            unknowns.note("kubelet: reservedCpus", format!("{error}"));
            None
        }
    };
    Kubelet {
        topology_manager_policy: or(&config.topology_manager_policy, "none"),
        topology_manager_scope: or(&config.topology_manager_scope, "container"),
        cpu_manager_policy: or(&config.cpu_manager_policy, "none"),
        topology_manager_policy_options: Some(
            config
                .topology_manager_policy_options
                .clone()
                .unwrap_or_default(),
        ),
        cpu_manager_policy_options: Some(
            config
                .cpu_manager_policy_options
                .clone()
                .unwrap_or_default(),
        ),
        memory_manager_policy: Some(or(&config.memory_manager_policy, "None")),
        reserved_cpus,
    }
}

#[cfg(test)]
mod tests {
    use berth_topology::raw::Answer;

    use super::*;

    fn of(kubelet: Option<Answer<RawKubelet>>) -> (Kubelet, usize) {
        let mut unknowns = Unknowns::default();
        let raw = RawMachine {
            kubelet,
            ..RawMachine::default()
        };
        (assemble(&raw, &mut unknowns), unknowns.into_list().len())
    }

    #[test]
    fn a_kubelet_that_nobody_pointed_at_is_unknown_without_a_complaint() {
        assert_eq!(of(None), (Kubelet::unknown(), 0));
        let unreadable = of(Some(Answer::failed("no such file")));
        assert_eq!(unreadable, (Kubelet::unknown(), 1));
    }

    #[test]
    fn what_the_file_leaves_out_is_the_kubelets_default() {
        let config = RawKubelet {
            cpu_manager_policy: Some("static".to_owned()),
            reserved_system_cpus: Some("0-1".to_owned()),
            ..RawKubelet::default()
        };
        let (kubelet, unknowns) = of(Some(Answer::Value(config)));
        assert_eq!(unknowns, 0);
        assert_eq!(kubelet.topology_manager_policy, "none");
        assert_eq!(kubelet.topology_manager_scope, "container");
        assert_eq!(kubelet.cpu_manager_policy, "static");
        assert_eq!(kubelet.memory_manager_policy.as_deref(), Some("None"));
        assert_eq!(kubelet.cpu_manager_policy_options, Some(Default::default()));
        assert_eq!(kubelet.reserved_cpus, "0-1".parse().ok());
    }

    #[test]
    fn reserved_cpus_that_are_no_list_are_unknown_and_said() {
        let config = RawKubelet {
            reserved_system_cpus: Some("first".to_owned()),
            ..RawKubelet::default()
        };
        let (kubelet, unknowns) = of(Some(Answer::Value(config)));
        assert_eq!((kubelet.reserved_cpus, unknowns), (None, 1));
    }
}
