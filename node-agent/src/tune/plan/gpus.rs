//! Persistence mode and clocks of the GPUs. Pure.

use berth_topology::raw::Answer;

use super::{Change, Plan, Wish};
use crate::tune::args::GpuClocks;
use crate::tune::gpus::{Clocks, Gpu, Setting, UNLOCKED};
use crate::tune::host::Host;

/// What a driver answers that has no application clocks, or no longer.
const NO_APPLICATION_CLOCKS: [&str; 3] = [
    "NVML_ERROR_NOT_SUPPORTED",
    "NVML_ERROR_DEPRECATED",
    "NVML_ERROR_FUNCTION_NOT_FOUND",
];

/// Persistence first: without it a driver that nobody uses forgets the clocks.
pub(super) fn settings(host: &Host, wish: &Wish, plan: &mut Plan) {
    let gpus = match &host.gpus {
        Answer::Value(gpus) => gpus,
        Answer::Failed { error } => {
            if wish.persistence || wish.gpu_clocks.is_some() {
                let reason = format!("settings of GPUs: NVML cannot be asked: {error}");
                plan.impossible.push(reason);
            }
            return;
        }
    };
    for gpu in gpus {
        persistence(gpu, wish.persistence, plan);
    }
    for gpu in gpus {
        match wish.gpu_clocks {
            Some(wanted) => clocks(gpu, wanted, host.is_root, plan),
            None => plan.findings.extend(clocks_finding(gpu)),
        }
    }
}

fn persistence(gpu: &Gpu, wanted: bool, plan: &mut Plan) {
    let name = &gpu.name;
    match (&gpu.persistence, wanted) {
        (Answer::Value(true), _) | (Answer::Failed { .. }, false) => {}
        (Answer::Value(false), false) => plan.findings.push(format!(
            "{name}: persistence mode is off: its driver ends with the last program that uses it, and the \
             next one waits for it (--persistence)"
        )),
        (Answer::Value(false), true) => plan.changes.push(Change {
            target: gpu.target(Setting::Persistence),
            from: "off".to_owned(),
            to: "on".to_owned(),
            why: format!("{name}: a program that starts waits for a driver that is not loaded"),
        }),
        (Answer::Failed { error }, true) => {
            let reason = format!("{name}: persistence mode cannot be read: {error}");
            plan.impossible.push(reason);
        }
    }
}

fn clocks(gpu: &Gpu, wanted: GpuClocks, is_root: bool, plan: &mut Plan) {
    match clocks_change(gpu, wanted, is_root) {
        Ok(change) => plan.changes.extend(change),
        Err(reason) => plan.impossible.push(format!("{}: {reason}", gpu.name)),
    }
}

/// The change, none where the clocks are so already, or why it cannot be.
fn clocks_change(gpu: &Gpu, wanted: GpuClocks, is_root: bool) -> Result<Option<Change>, String> {
    let to = supported(gpu, wanted)?;
    match &gpu.application_clocks {
        Answer::Value(now) if *now == to => Ok(None),
        Answer::Value(_) if gpu.clocks_restricted.value() == Some(&true) && !is_root => {
            Err("its application clocks are left to root".to_owned())
        }
        Answer::Value(now) => Ok(Some(Change {
            target: gpu.target(Setting::ApplicationClocks),
            from: now.to_string(),
            to: to.to_string(),
            why: format!(
                "{}: memory and graphics clock in MHz, as asked for",
                gpu.name
            ),
        })),
        Answer::Failed { error } if NO_APPLICATION_CLOCKS.contains(&error.as_str()) => {
            Ok(Some(locked(gpu, to)))
        }
        Answer::Failed { error } => Err(format!("its application clocks cannot be read: {error}")),
    }
}

/// What was locked before cannot be read from NVML: at the end there is no lock.
fn locked(gpu: &Gpu, to: Clocks) -> Change {
    let name = &gpu.name;
    Change {
        target: gpu.target(Setting::LockedClock),
        from: UNLOCKED.to_owned(),
        to: to.graphics_mhz.to_string(),
        why: format!(
            "{name}: its driver has no application clocks; a lock of before cannot be read, and is gone after"
        ),
    }
}

/// At the memory clock that it has, else at the highest.
fn supported(gpu: &Gpu, wanted: GpuClocks) -> Result<Clocks, String> {
    let supported = match &gpu.supported_clocks {
        Answer::Value(supported) => supported,
        Answer::Failed { error } => return Err(format!("its clocks cannot be read: {error}")),
    };
    let now = gpu.application_clocks.value();
    let memory_mhz = now.map(|now| now.memory_mhz);
    let known = memory_mhz.and_then(|memory| supported.get_key_value(&memory));
    let (memory_mhz, offered) = known
        .or_else(|| supported.last_key_value())
        .ok_or("NVML offers no clocks of it")?;
    let graphics_mhz = match wanted {
        GpuClocks::Max => offered.iter().copied().max(),
        GpuClocks::Mhz(mhz) => offered.iter().copied().find(|offered| *offered == mhz),
    };
    let clocks = graphics_mhz.map(|graphics_mhz| Clocks {
        memory_mhz: *memory_mhz,
        graphics_mhz,
    });
    clocks.ok_or_else(|| {
        let (least, most) = (offered.iter().min(), offered.iter().max());
        let of = |mhz: Option<&u32>| mhz.map_or("none".to_owned(), u32::to_string);
        format!(
            "that graphics clock is none of the {} that it offers, {} to {} MHz",
            offered.len(),
            of(least),
            of(most)
        )
    })
}

fn clocks_finding(gpu: &Gpu) -> Option<String> {
    let now = gpu.application_clocks.value()?;
    let most = supported(gpu, GpuClocks::Max).ok()?;
    (now.graphics_mhz < most.graphics_mhz).then(|| {
        format!(
            "{}: its application clock is {} MHz of {} (--gpu-clocks max)",
            gpu.name, now.graphics_mhz, most.graphics_mhz
        )
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const CLOCKS: &str = "NVML_ERROR_DEPRECATED";

    /// A V100 at the clocks after a boot (NVIDIA/nvidia-docker#1076).
    fn gpu() -> Gpu {
        Gpu {
            uuid: "GPU-0".into(),
            name: "GPU 0".to_owned(),
            persistence: Answer::Value(false),
            application_clocks: Answer::Value(Clocks {
                memory_mhz: 877,
                graphics_mhz: 1290,
            }),
            supported_clocks: Answer::Value(BTreeMap::from([(877, vec![1530, 1290, 135])])),
            clocks_restricted: Answer::Value(true),
        }
    }

    fn planned(gpu: Gpu, wish: &Wish, is_root: bool) -> Plan {
        let host = Host {
            gpus: Answer::Value(vec![gpu]),
            is_root,
            ..Host::default()
        };
        super::super::plan(&host, wish)
    }

    fn wanting(gpu_clocks: GpuClocks) -> Wish {
        Wish {
            gpu_clocks: Some(gpu_clocks),
            ..Wish::default()
        }
    }

    fn shown(plan: &Plan) -> Vec<String> {
        let change =
            |change: &Change| format!("{}: {} -> {}", change.target, change.from, change.to);
        plan.changes.iter().map(change).collect()
    }

    #[test]
    fn without_a_wish_it_is_only_told() {
        let plan = planned(gpu(), &Wish::default(), true);
        assert_eq!(plan.changes, []);
        let [persistence, clocks] = &plan.findings[..] else {
            panic!("{:?}", plan.findings)
        };
        assert!(persistence.contains("GPU 0: persistence mode is off"));
        assert!(clocks.contains("1290 MHz of 1530 (--gpu-clocks max)"));
    }

    #[test]
    fn persistence_comes_before_clocks() {
        let wish = Wish {
            persistence: true,
            ..wanting(GpuClocks::Max)
        };
        let expected = [
            "persistence mode of GPU-0: off -> on",
            "application clocks of GPU-0: 877,1290 -> 877,1530",
        ];
        assert_eq!(shown(&planned(gpu(), &wish, true)), expected);
        let on = Gpu {
            persistence: Answer::Value(true),
            ..gpu()
        };
        assert_eq!(shown(&planned(on, &wish, true)), expected[1..]);
    }

    #[test]
    fn only_a_clock_that_is_offered_is_set_and_one_that_is_so_is_left() {
        let plan = planned(gpu(), &wanting(GpuClocks::Mhz(1400)), true);
        assert_eq!(plan.changes, []);
        assert!(plan.impossible[0].contains("none of the 3 that it offers, 135 to 1530 MHz"));
        let same = planned(gpu(), &wanting(GpuClocks::Mhz(1290)), true);
        assert_eq!((same.changes.len(), same.impossible.len()), (0, 0));
    }

    #[test]
    fn what_is_left_to_root_takes_root() {
        let plan = planned(gpu(), &wanting(GpuClocks::Max), false);
        assert_eq!(plan.changes, []);
        assert!(plan.impossible[0].contains("left to root"));
        let open = Gpu {
            clocks_restricted: Answer::Value(false),
            ..gpu()
        };
        assert_eq!(
            planned(open, &wanting(GpuClocks::Max), false).changes.len(),
            1
        );
    }

    #[test]
    fn a_driver_without_application_clocks_locks_them() {
        let newer = Gpu {
            application_clocks: Answer::failed(CLOCKS),
            ..gpu()
        };
        let plan = planned(newer, &wanting(GpuClocks::Max), true);
        assert_eq!(shown(&plan), ["locked clock of GPU-0: unlocked -> 1530"]);
    }

    #[test]
    fn what_cannot_be_read_is_not_set() {
        let failed = |error: &str| Gpu {
            application_clocks: Answer::failed(error),
            ..gpu()
        };
        let lost = planned(
            failed("NVML_ERROR_GPU_IS_LOST"),
            &wanting(GpuClocks::Max),
            true,
        );
        assert!(lost.impossible[0].contains("GPU_IS_LOST"));
        let mute = Gpu {
            persistence: Answer::default(),
            supported_clocks: Answer::default(),
            ..gpu()
        };
        let wish = Wish {
            persistence: true,
            ..wanting(GpuClocks::Max)
        };
        let plan = planned(mute, &wish, true);
        assert_eq!((plan.changes.len(), plan.impossible.len()), (0, 2));
        let none = super::super::plan(&Host::default(), &wish);
        assert!(none.impossible[0].contains("NVML cannot be asked"));
    }
}
