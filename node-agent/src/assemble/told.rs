//! What a machine tells of itself goes to everybody who reads the topology: bounded, and on one line.

use std::collections::BTreeMap;

use berth_topology::kubelet::Kubelet;

/// Longer than any name of a sound machine, and than any reason of ours.
const CHARS_MAX: usize = 512;
/// The kubelet has fewer.
const OPTIONS_MAX: usize = 32;

/// Cut off where it is too long; what would move a terminal's cursor is U+FFFD.
pub(super) fn tame(text: &str) -> String {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(CHARS_MAX).map(visible).collect()
}

/// Whether a text can be what it identifies, as it is.
pub(super) fn is_tame(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= CHARS_MAX && !text.chars().any(char::is_control)
}

/// Its policies are texts of a file.
pub(super) fn tame_kubelet(kubelet: Kubelet) -> Kubelet {
    Kubelet {
        topology_manager_policy: tame(&kubelet.topology_manager_policy),
        topology_manager_scope: tame(&kubelet.topology_manager_scope),
        cpu_manager_policy: tame(&kubelet.cpu_manager_policy),
        topology_manager_policy_options: kubelet.topology_manager_policy_options.map(tame_options),
        cpu_manager_policy_options: kubelet.cpu_manager_policy_options.map(tame_options),
        memory_manager_policy: kubelet.memory_manager_policy.as_deref().map(tame),
        ..kubelet
    }
}

fn tame_options(options: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let first = options.into_iter().take(OPTIONS_MAX);
    first
        .map(|(name, value)| (tame(&name), tame(&value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use berth_topology::raw::{Answer, RawGpu, RawKubelet, RawMachine};
    use berth_topology::{hash, labels};
    use serde_json::Value;

    use super::*;
    use crate::assemble::assemble;
    use crate::fixtures::recorded_raw;

    const MACHINE: &str = "dgx1-v100";

    /// Ten kilobytes that clear a terminal, end a line, and end a string.
    fn hostile() -> String {
        "\u{1b}[2J\n\"\\\u{0}\u{9f}".repeat(1_500)
    }

    fn gpu(raw: &mut RawMachine, index: usize) -> &mut RawGpu {
        let Answer::Value(nvml) = &mut raw.nvml else {
            panic!("the machine has NVML");
        };
        let Answer::Value(gpu) = &mut nvml.gpus[index] else {
            panic!("the machine has the GPU");
        };
        gpu
    }

    /// Hostile wherever a text of the machine is taken over.
    fn machine() -> RawMachine {
        let mut raw = recorded_raw(MACHINE);
        let text = || Answer::Value(hostile());
        gpu(&mut raw, 0).name = text();
        gpu(&mut raw, 1).uuid = text();
        gpu(&mut raw, 2).pci_bus_id = text();
        gpu(&mut raw, 3).cpu_affinity = Answer::failed(hostile());
        raw.boot_id = Some(hostile());
        raw.driver_load = Some(hostile());
        let ports = std::mem::take(&mut raw.sysfs.infiniband);
        raw.sysfs.infiniband = ports
            .into_iter()
            .map(|(name, port)| (name + &hostile(), port))
            .collect();
        for pci in raw.sysfs.pci.values_mut() {
            pci.numa_node = Some(hostile());
            pci.local_cpulist = Some(hostile());
        }
        raw.sysfs.cpus_online = Some(hostile());
        raw.kubelet = Some(Answer::Value(RawKubelet {
            topology_manager_policy: Some(hostile()),
            cpu_manager_policy_options: Some(BTreeMap::from([(hostile(), hostile())])),
            reserved_system_cpus: Some(hostile()),
            ..RawKubelet::default()
        }));
        raw
    }

    fn each_text(value: &Value, check: &mut impl FnMut(&str)) {
        match value {
            Value::String(text) => check(text),
            Value::Array(values) => values.iter().for_each(|value| each_text(value, check)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    check(name);
                    each_text(value, check);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    #[test]
    fn hostile_texts_end_bounded_and_without_control_characters() {
        let status = assemble(&machine());
        let json = serde_json::to_value(&status).unwrap();
        each_text(&json, &mut |text| {
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert!(text.chars().count() <= CHARS_MAX, "{text:?}");
        });
        let json = json.to_string();
        let sound = serde_json::to_string(&assemble(&recorded_raw(MACHINE))).unwrap();
        let unknowns = status.unknowns.len();
        let bound = sound.len() + (unknowns + 64) * 4 * CHARS_MAX;
        assert!(json.len() < bound, "{} bytes", json.len());
        assert_eq!(status.hash, hash::of_status(&status));
    }

    #[test]
    fn a_gpu_whose_identity_is_hostile_is_not_listed_and_the_others_are() {
        let status = assemble(&machine());
        assert_eq!(status.gpus.len(), 7);
        let why = |what: &str| status.unknowns.iter().any(|unknown| unknown.what == what);
        assert!(why("gpu 1"), "{:?}", status.unknowns);
    }

    #[test]
    fn labels_of_a_hostile_machine_are_labels() {
        for (name, value) in labels::of_status(&assemble(&machine())) {
            let sound = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            assert!(
                value.len() <= 63 && value.chars().all(sound),
                "{name}: {value}"
            );
        }
    }

    #[test]
    fn what_is_sound_stays_as_it_is() {
        for text in ["Tesla V100-SXM2-32GB", "mlx5_0", "Grüße", ""] {
            assert_eq!(tame(text), text);
        }
        assert_eq!(tame("a\u{1b}[2J\nb"), "a\u{fffd}[2J\u{fffd}b");
        assert_eq!(tame(&"x".repeat(10_000)).len(), CHARS_MAX);
    }
}
