//! The kubelet's policies, from its configuration file.

use berth_topology::kubelet::Kubelet;
use berth_topology::raw::RawMachine;

use super::told::tame_kubelet;
use super::unknowns::Unknowns;

/// Unknown where nobody said where the file is.
pub(crate) fn assemble(raw: &RawMachine, unknowns: &mut Unknowns) -> Kubelet {
    let config = raw.kubelet.as_ref();
    let config = config.and_then(|answer| unknowns.value("kubelet", "its configuration", answer));
    let Some(config) = config else {
        return Kubelet::unknown();
    };
    let (kubelet, error) = Kubelet::of_config(config);
    if let Some(error) = error {
        unknowns.note("kubelet: reservedCpus", error.to_string());
    }
    tame_kubelet(kubelet)
}

#[cfg(test)]
mod tests {
    use berth_topology::raw::{Answer, RawKubelet};

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
