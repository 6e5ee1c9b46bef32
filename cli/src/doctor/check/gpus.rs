//! Driver, NVML, and whether every GPU answers.

use std::collections::BTreeSet;

use berth_topology::gpu::{Gpu, HealthState};
use berth_topology::node::Unknown;
use berth_topology::raw::RawPci;

use super::{Finding, at, at_gpu, error, gpus, named, note, ok, status, unknown, warning};
use crate::doctor::facts::Facts;

const NVIDIA: &str = "0x10de";
/// PCI classes of display and 3D controllers.
const GPU_CLASSES: [&str; 2] = ["0x0300", "0x0302"];

/// The driver's version, and whether module and library are of one release.
pub(super) fn driver(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(nouveau(check, facts));
    let Ok(raw) = &facts.raw else {
        found.push(without_record(check, facts));
        return found;
    };
    let Some(nvml) = raw.nvml.value() else {
        found.push(no_nvml(check, facts, raw.nvml.error().unwrap_or_default()));
        return found;
    };
    if let Some((version, module)) = nvml.driver_version.value().zip(module(facts))
        && !module.contains(version.as_str())
    {
        found.push(
            error(
                check,
                "the driver's library and its kernel module are of different releases",
            )
            .read(version, "nvmlSystemGetDriverVersion")
            .read(module, "/proc/driver/nvidia/version")
            .fix("restart the node, or unload the module and load it again once nobody uses a GPU"),
        );
        return found;
    }
    match (nvml.driver_version.value(), nvml.driver_version.error()) {
        (Some(version), _) => found.push(
            ok(check, format!("NVML answers, driver {version}"))
                .read(version, "nvmlSystemGetDriverVersion"),
        ),
        (None, why) => found.push(
            warning(check, "NVML answers, but not what its driver's version is")
                .read(why.unwrap_or_default(), "nvmlSystemGetDriverVersion")
                .fix("see that `nvidia-smi` shows a version"),
        ),
    }
    found
}

fn without_record(check: &'static str, facts: &Facts) -> Finding {
    let why = facts.raw.as_ref().err().cloned().unwrap_or_default();
    match unreadable(facts) {
        Some(nvml) => no_nvml(check, facts, &nvml.why),
        None => unknown(check, "the driver's version is not known").read(why, "NVML"),
    }
}

/// Nothing is wrong with a machine that has no GPU.
fn no_nvml(check: &'static str, facts: &Facts, why: &str) -> Finding {
    let fix = "install NVIDIA's driver and see that `nvidia-smi` works; for an agent in a pod, NVIDIA's \
               container toolkit and its RuntimeClass, or --driver-root";
    let on_bus = on_bus(facts);
    match &on_bus {
        Some(gpus) if gpus.is_empty() => {
            note(check, "there is no NVIDIA GPU here, and no NVML").read(why, "NVML")
        }
        Some(gpus) => {
            let message = format!("NVML cannot be asked, and {} on PCI", are(gpus.len()));
            let seen = gpus
                .iter()
                .map(|bus_id| (bus_id.clone(), "sysfs".to_owned()));
            let module = module(facts).unwrap_or("not loaded, or not asked");
            error(check, message)
                .read(why, "NVML")
                .read(module, "/proc/driver/nvidia/version")
                .read_all(seen)
                .fix(fix)
        }
        None => warning(check, "NVML cannot be asked")
            .read(why, "NVML")
            .fix(fix),
    }
}

fn are(count: usize) -> String {
    match count {
        1 => "there is 1 NVIDIA GPU".to_owned(),
        _ => format!("there are {count} NVIDIA GPUs"),
    }
}

/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  …`.
fn module(facts: &Facts) -> Option<&str> {
    facts
        .host
        .as_ref()
        .ok()?
        .driver_module
        .as_ref()
        .ok()?
        .as_deref()
}

fn nouveau(check: &'static str, facts: &Facts) -> Option<Finding> {
    let modules = facts.host.as_ref().ok()?.modules.as_ref().ok()?;
    modules.contains("nouveau").then(|| {
        error(
            check,
            "the kernel drives the GPUs with nouveau, not with NVIDIA's driver",
        )
        .read("nouveau", "/proc/modules")
        .fix("blacklist nouveau (options nouveau modeset=0), rebuild the initramfs, restart")
    })
}

/// What the agent says when NVML as a whole does not answer.
fn unreadable(facts: &Facts) -> Option<&Unknown> {
    let unknowns = &status(facts)?.unknowns;
    unknowns.iter().find(|unknown| unknown.what == "gpus")
}

/// PCI addresses of NVIDIA's GPUs by sysfs; `None` where sysfs was not read.
fn on_bus(facts: &Facts) -> Option<BTreeSet<String>> {
    let sysfs = &facts.raw.as_ref().ok()?.sysfs;
    let is_gpu = |pci: &RawPci| {
        let class = pci.class.as_deref().unwrap_or_default();
        pci.vendor.as_deref() == Some(NVIDIA)
            && GPU_CLASSES.iter().any(|gpu| class.starts_with(gpu))
    };
    let gpus = sysfs.pci.iter().filter(|(_, pci)| is_gpu(pci));
    Some(gpus.map(|(bus_id, _)| bus_id.clone()).collect())
}

/// Whether every GPU on PCI is one that NVML lists.
pub(super) fn listed(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let Some(status) = status(facts) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if let Some(on_bus) = on_bus(facts) {
        let known: BTreeSet<&str> = status
            .gpus
            .iter()
            .filter_map(|gpu| Some(gpu.bus_id.as_ref()?.as_str()))
            .collect();
        let lost: Vec<&String> = on_bus
            .iter()
            .filter(|id| !known.contains(id.as_str()))
            .collect();
        if !lost.is_empty() && unreadable(facts).is_none() {
            found.push(
                error(check, format!("{} on PCI that NVML does not list", are(lost.len())))
                    .read_all(lost.into_iter().map(|id| (id.clone(), "sysfs".to_owned())))
                    .fix("look for `fallen off the bus` or `RmInitAdapter failed` in the kernel's log; reset or restart"),
            );
        }
    }
    if !status.gpus.is_empty() {
        let count = status.gpus.len();
        found.push(
            ok(
                check,
                format!("NVML lists {}", crate::show::count(count, "GPU")),
            )
            .read(models(&status.gpus), at(facts, "gpus")),
        );
    } else if unreadable(facts).is_none() && found.is_empty() {
        found.push(note(check, "this machine has no GPU").read("[]", at(facts, "gpus")));
    }
    found
}

fn models(gpus: &[Gpu]) -> String {
    let models: BTreeSet<&str> = gpus.iter().map(|gpu| gpu.model.as_str()).collect();
    models.into_iter().collect::<Vec<_>>().join(", ")
}

/// Health as the agent sees it.
pub(super) fn health(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let gpus = gpus(facts);
    let told = |gpu: &&Gpu| {
        let reasons = gpu.health.reasons.join("; ");
        let state = gpu.health.state.as_str();
        let value = if reasons.is_empty() {
            state.to_owned()
        } else {
            format!("{state}: {reasons}")
        };
        (value, at_gpu(facts, gpu, "health"))
    };
    let in_state = |wanted: &[HealthState]| -> Vec<&Gpu> {
        gpus.iter()
            .filter(|gpu| wanted.contains(&gpu.health.state))
            .collect()
    };
    let failed = in_state(&[HealthState::Failed]);
    let degraded = in_state(&[HealthState::Degraded]);
    let unsure = in_state(&[HealthState::Unknown]);
    let mut found = Vec::new();
    if !failed.is_empty() {
        let message = format!("{} failed: no pod gets it", named(failed.iter().copied()));
        let fix = "drain the node, `nvidia-smi --gpu-reset -i INDEX` or restart it; replace the GPU if it comes back";
        found.push(
            error(check, message)
                .read_all(failed.iter().map(told))
                .fix(fix),
        );
    }
    if !degraded.is_empty() {
        let message = format!(
            "{} degraded: usable, and less than its model promises",
            named(degraded.iter().copied())
        );
        found.push(
            warning(check, message)
                .read_all(degraded.iter().map(told))
                .fix(
                    "see `nvidia-smi -q` for what is pending; a reset takes up what waits for one",
                ),
        );
    }
    if !unsure.is_empty() {
        let message = format!(
            "whether {} can be used is not known: no pod gets it",
            named(unsure.iter().copied())
        );
        found.push(unknown(check, message).read_all(unsure.iter().map(told)));
    }
    if found.is_empty() && !gpus.is_empty() {
        found.push(
            ok(check, "all GPUs are healthy").read("healthy", at(facts, "gpus[].health.state")),
        );
    }
    found
}

/// CUDA needs them; without them a container starts and sees no GPU.
pub(super) fn device_files(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let Ok(host) = &facts.host else {
        return Vec::new();
    };
    if gpus(facts).is_empty() {
        return Vec::new();
    }
    let files = match &host.device_files {
        Ok(files) => files,
        Err(why) => return vec![unknown(check, "device files cannot be listed").read(why, "/dev")],
    };
    let of_gpus = gpus(facts)
        .iter()
        .filter_map(|gpu| Some(format!("nvidia{}", gpu.minor?)));
    let wanted = ["nvidiactl", "nvidia-uvm"]
        .map(str::to_owned)
        .into_iter()
        .chain(of_gpus);
    let missing: Vec<String> = wanted.filter(|file| !files.contains(file)).collect();
    if missing.is_empty() {
        return vec![ok(check, "every GPU has its device file").read(files.join(" "), "/dev")];
    }
    vec![
        error(check, format!("/dev lacks {}", missing.join(", ")))
            .read(files.join(" "), "/dev")
            .fix("`nvidia-modprobe -u -c=0`, or start nvidia-persistenced"),
    ]
}
