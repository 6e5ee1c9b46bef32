//! GPUs that are cut into instances, or given to several pods at once.

use berth_topology::gpu::{Gpu, Mig};

use super::{Finding, at, at_gpu, gpus, named, note, ok, unknown, warning};
use crate::doctor::facts::Facts;

/// MIG mode without an instance gives nobody anything.
pub(super) fn mig(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let gpus = gpus(facts);
    let is_on = |gpu: &&Gpu| gpu.mig.as_ref().is_some_and(|mig| mig.mode == "enabled");
    let on: Vec<&Gpu> = gpus.iter().filter(is_on).collect();
    if on.is_empty() {
        return match gpus.iter().any(|gpu| gpu.mig.is_some()) {
            true => vec![ok(check, "MIG is off").read("disabled", at(facts, "gpus[].mig.mode"))],
            false => Vec::new(),
        };
    }
    let told = |gpu: &&Gpu| (instances(gpu.mig.as_ref()), at_gpu(facts, gpu, "mig"));
    let has_none = |gpu: &&&Gpu| gpu.mig.as_ref().is_some_and(|mig| mig.instances.is_empty());
    let empty: Vec<&Gpu> = on.iter().filter(has_none).copied().collect();
    let mut found = Vec::new();
    if !empty.is_empty() {
        found.push(
            warning(check, format!("MIG is on at {} without an instance: no pod gets it", named(empty.iter().copied())))
                .read_all(empty.iter().map(told))
                .fix("create instances (`nvidia-smi mig -cgi PROFILE -C -i INDEX`), or turn MIG off (`nvidia-smi -mig 0 -i INDEX`)"),
        );
    }
    if on.len() < gpus.len() {
        found.push(
            note(
                check,
                "MIG is on at some GPUs and off at others: they are devices of different resources",
            )
            .read_all(on.iter().map(told)),
        );
    }
    if found.is_empty() {
        found.push(
            note(
                check,
                "MIG is on: instances are resources of their own, and have no NVLink",
            )
            .read_all(on.iter().map(told)),
        );
    }
    found
}

fn instances(mig: Option<&Mig>) -> String {
    let profiles = mig.map(|mig| mig.instances.iter().map(|one| one.profile.clone()));
    let profiles: Vec<String> = profiles.into_iter().flatten().collect();
    match profiles.is_empty() {
        true => "enabled, no instances".to_owned(),
        false => format!("enabled, {}", profiles.join(" ")),
    }
}

/// Time-slicing or MPS: the kubelet then counts replicas as GPUs.
pub(super) fn sharing(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let gpus = gpus(facts);
    let shared: Vec<&Gpu> = gpus.iter().filter(|gpu| gpu.sharing.is_some()).collect();
    if gpus.is_empty() {
        return Vec::new();
    }
    if shared.is_empty() {
        let served = facts
            .status
            .as_ref()
            .is_ok_and(|status| !status.plugins.is_empty());
        return match served {
            true => vec![
                ok(check, "no GPU is given to several pods at once")
                    .read("absent", at(facts, "gpus[].sharing")),
            ],
            false => vec![
                unknown(
                    check,
                    "whether GPUs are shared is not known: nobody asks the kubelet",
                )
                .read("absent", at(facts, "plugins"))
                .fix("start the agent with --pod-resources-socket"),
            ],
        };
    }
    let told = |gpu: &&Gpu| {
        let sharing = gpu.sharing.clone().unwrap_or_default();
        (
            format!("{}, {} replicas", sharing.kind, sharing.replicas),
            at_gpu(facts, gpu, "sharing"),
        )
    };
    vec![
        warning(check, format!("{} shared by several pods: no set of theirs is promised exactly", named(shared.iter().copied())))
            .read_all(shared.iter().map(told))
            .fix("take `sharing` out of the device plugin's configuration on nodes for tensor-parallel pods"),
    ]
}
