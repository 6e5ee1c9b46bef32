//! Who gives the GPUs to containers, and whether what was promised was given.

use std::collections::BTreeSet;

use berth_topology::allocation::Allocation;
use berth_topology::ids::GpuUuid;
use berth_topology::kubelet::{Plugin, PluginOwner};
use berth_topology::names::DEFAULT_RESOURCE;

use super::{Finding, at, error, gpus, note, ok, status, unknown, warning};
use crate::doctor::facts::{Facts, Host, SeenPod};

/// Who serves which resource.
pub(super) fn served(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let Some(status) = status(facts) else {
        return Vec::new();
    };
    if status.gpus.is_empty() {
        return Vec::new();
    }
    if status.plugins.is_empty() {
        return vec![unasked(check, facts)];
    }
    status
        .plugins
        .iter()
        .map(|plugin| of(check, facts, plugin))
        .collect()
}

fn of(check: &'static str, facts: &Facts, plugin: &Plugin) -> Finding {
    let resource = &plugin.resource;
    let value = format!(
        "owner {}, {}, {}",
        plugin.owner,
        if plugin.registered {
            "registered"
        } else {
            "not registered"
        },
        if plugin.exact { "exact" } else { "not exact" }
    );
    let finding = match (plugin.owner, plugin.registered, plugin.exact) {
        (PluginOwner::Berth, true, true) => {
            ok(check, format!("{resource}: a pod gets exactly what it was promised"))
        }
        (PluginOwner::Berth, true, false) => note(check, format!("{resource}: Berth's device plugin gives what was promised, as far as the kubelet's topology manager lets it"))
            .fix("--numa-hints=off gives the promised set whatever the policy is, without aligning CPUs"),
        (PluginOwner::Berth, false, _) => error(check, format!("{resource}: Berth's device plugin is not registered with the kubelet: pods do not start"))
            .fix("see the agent's log; the kubelet's folder must be mounted and belong to root"),
        (PluginOwner::Other, _, _) => warning(check, format!("{resource}: another device plugin gives GPUs as it likes: what is promised is a prediction"))
            .fix("daemonset/optional/device-plugin.yaml, after taking the other plugin off the node"),
        (PluginOwner::Dra, _, _) => error(check, format!("{resource}: a DRA driver serves it: Berth places no pod here"))
            .fix("keep DRA-backed nodes out of Berth's scheduler, or take the driver off"),
        (PluginOwner::None, _, _) => error(check, format!("{resource}: nobody serves it: no pod gets a GPU"))
            .fix("install NVIDIA's device plugin, or start the agent with --device-plugin"),
        (PluginOwner::Unknown, _, _) => unknown(check, format!("{resource}: who serves it is not known")),
    };
    finding.read(value, at(facts, "plugins"))
}

/// Nobody looks at the kubelet: the node's allocatable or the sockets in the kubelet's folder may tell something.
fn unasked(check: &'static str, facts: &Facts) -> Finding {
    let none_allocatable = facts.cluster.as_ref().is_ok_and(|cluster| {
        let count = cluster.node.allocatable.get(DEFAULT_RESOURCE);
        count.is_none_or(|count| count == "0")
    });
    let finding = match none_allocatable {
        true => error(check, format!("the Node has no {DEFAULT_RESOURCE}: no device plugin serves its {} GPUs", gpus(facts).len()))
            .read("absent or 0", format!("status.allocatable of the Node, {DEFAULT_RESOURCE}"))
            .fix("install NVIDIA's device plugin, or start the agent with --device-plugin"),
        false => unknown(check, "who gives GPUs to containers is not known: promises count as predictions")
            .fix("start the agent with --pod-resources-socket, or with --device-plugin instead of NVIDIA's"),
    };
    let sockets = facts.host.as_ref().ok().map(sockets);
    let finding = finding.read("absent", at(facts, "plugins"));
    sockets.into_iter().fold(finding, |finding, sockets| {
        finding.read(sockets, "/var/lib/kubelet/device-plugins")
    })
}

fn sockets(host: &Host) -> String {
    match &host.plugin_sockets {
        Ok(Some(names)) if !names.is_empty() => names.join(" "),
        Ok(Some(_)) => "empty".to_owned(),
        Ok(None) => "there is no such folder".to_owned(),
        Err(why) => why.clone(),
    }
}

/// The annotation of each pod against what the kubelet gave it.
pub(super) fn promises(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let (Some(status), Ok(cluster)) = (status(facts), &facts.cluster) else {
        return Vec::new();
    };
    if status.gpus.is_empty() {
        return Vec::new();
    }
    let pods = match &cluster.pods {
        Ok(pods) => pods,
        Err(why) => {
            return vec![
                unknown(check, "the node's pods cannot be read").read(why, "pods of the node"),
            ];
        }
    };
    let mut broken = Vec::new();
    let (mut kept_count, mut untold_count) = (0_usize, 0_usize);
    for pod in pods {
        match &pod.assignment {
            None => {}
            Some(Err(why)) => broken.push((
                format!("{}: {why}", pod.name),
                "annotation berth.dev/assignment".to_owned(),
            )),
            Some(Ok(_)) => match differs(pod, &status.allocations) {
                None => untold_count += 1,
                Some(None) => kept_count += 1,
                Some(Some(how)) => broken.push((how, at(facts, "allocations"))),
            },
        }
    }
    if !broken.is_empty() {
        let message = format!("{} pods did not get what they were promised", broken.len());
        return vec![
            warning(check, message)
                .read_all(broken)
                .fix("berth explain pod NAMESPACE/NAME says why the promise was not exact"),
        ];
    }
    match (kept_count, untold_count) {
        (0, 0) => Vec::new(),
        (0, untold) => vec![
            unknown(check, format!("what {untold} pods were given is not known"))
                .read("absent", at(facts, "allocations")),
        ],
        (kept, _) => vec![
            ok(
                check,
                format!("{kept} pods have exactly the GPUs that they were promised"),
            )
            .read("equal", at(facts, "allocations")),
        ],
    }
}

/// `None` where nothing is known to have been given, `Some(None)` where it is what was promised.
fn differs(pod: &SeenPod, allocations: &[Allocation]) -> Option<Option<String>> {
    let assignment = pod.assignment.as_ref()?.as_ref().ok()?;
    let of_pod = |allocation: &&Allocation| {
        allocation
            .pod_uid
            .as_ref()
            .is_some_and(|uid| uid.as_str() == pod.uid)
            && !allocation.devices.is_empty()
    };
    let given: Vec<&Allocation> = allocations.iter().filter(of_pod).collect();
    if given.is_empty() {
        return None;
    }
    let differing = assignment.containers.iter().find_map(|(name, promised)| {
        let promised: BTreeSet<&GpuUuid> = promised.gpus().collect();
        let of_container = given
            .iter()
            .filter(|allocation| allocation.container == *name);
        let given: BTreeSet<&GpuUuid> = of_container
            .flat_map(|allocation| &allocation.devices)
            .collect();
        (promised != given && !given.is_empty()).then(|| {
            format!(
                "{} container {name}: promised {}, given {}",
                pod.name,
                list(&promised),
                list(&given)
            )
        })
    });
    Some(differing)
}

fn list(gpus: &BTreeSet<&GpuUuid>) -> String {
    let texts: Vec<&str> = gpus.iter().map(|uuid| uuid.as_str()).collect();
    texts.join(" ")
}
