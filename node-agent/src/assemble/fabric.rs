//! What an NVSwitch fabric tells of a GPU's registration and health.

use berth_topology::gpu::Fabric;
use berth_topology::raw::RawFabric;

/// `NVML_GPU_FABRIC_STATE_COMPLETED`.
const COMPLETED: u32 = 3;
/// `NVML_GPU_FABRIC_HEALTH_SUMMARY_UNHEALTHY`.
const UNHEALTHY: u32 = 2;
/// `NVML_GPU_FABRIC_HEALTH_SUMMARY_LIMITED_CAPACITY`.
const LIMITED_CAPACITY: u32 = 3;
/// Value of a two-bit part of the mask that holds; 0 is not supported, 2 does not hold.
const HOLDS: u32 = 1;
/// `NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_*` of the parts that are true or false, and what each means.
const PARTS: [(u32, &str); 4] = [
    (0, "degraded-bandwidth"),
    (2, "route-recovery"),
    (4, "route-unhealthy"),
    (6, "access-timeout-recovery"),
];
/// `NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_INCORRECT_CONFIGURATION`, four bits.
const CONFIGURATION_SHIFT: u32 = 8;

/// Valid only when registration completed with success and the domain has an identity: a GPU that was
/// refused by the fabric manager looks registered otherwise.
pub(super) fn membership(raw: &RawFabric) -> Option<Fabric> {
    let has_identity = raw
        .cluster_uuid
        .bytes()
        .any(|byte| byte.is_ascii_alphanumeric() && byte != b'0');
    (is_registered(raw) && has_identity).then(|| Fabric {
        cluster_uuid: raw.cluster_uuid.clone(),
        clique_id: raw.clique_id,
        state: "completed".to_owned(),
        conditions: conditions(raw),
    })
}

/// Why NVLink through the switches does less than it should, or nothing. "Insufficient resources" is a
/// completed registration without success: NVLink does not work then.
pub(super) fn problem(raw: &RawFabric) -> Option<String> {
    match (raw.state, raw.status) {
        (1, _) => Some("registration with the NVSwitch fabric has not started".to_owned()),
        (2, _) => Some("registration with the NVSwitch fabric is in progress".to_owned()),
        (COMPLETED, 0) => {
            let conditions = conditions(raw);
            let says = || format!("the NVSwitch fabric says {}", conditions.join(", "));
            (!conditions.is_empty()).then(says)
        }
        (COMPLETED, status) => Some(format!(
            "the NVSwitch fabric refused the GPU: nvmlReturn_t {status}"
        )),
        _ => None,
    }
}

fn is_registered(raw: &RawFabric) -> bool {
    raw.state == COMPLETED && raw.status == 0
}

/// The parts of the health mask that hold, by name; the summary where no part says as much.
fn conditions(raw: &RawFabric) -> Vec<String> {
    let holds = |(shift, _): &&(u32, &str)| raw.health_mask >> shift & 0x3 == HOLDS;
    let parts = PARTS.iter().filter(holds);
    let mut conditions: Vec<String> = parts.map(|(_, name)| (*name).to_owned()).collect();
    conditions.extend(configuration(raw.health_mask >> CONFIGURATION_SHIFT & 0xf));
    let summary = match raw.health_summary {
        LIMITED_CAPACITY => Some("limited-capacity"),
        UNHEALTHY if conditions.is_empty() => Some("unhealthy"),
        _ => None,
    };
    conditions.extend(summary.map(str::to_owned));
    conditions
}

/// `NVML_GPU_FABRIC_HEALTH_MASK_INCORRECT_CONFIGURATION_*`.
fn configuration(value: u32) -> Option<String> {
    let why = match value {
        0 | 1 => return None,
        2 => "incorrect-system-guid",
        3 => "incorrect-chassis-serial",
        4 => "no-partition",
        5 => "insufficient-nvlinks",
        newer => return Some(format!("incorrect-configuration-{newer}")),
    };
    Some(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fabric(health_mask: u32, health_summary: u32) -> RawFabric {
        RawFabric {
            cluster_uuid: "a1".repeat(16),
            clique_id: 1,
            state: COMPLETED,
            status: 0,
            health_mask,
            health_summary,
        }
    }

    #[track_caller]
    fn check(health_mask: u32, health_summary: u32, expected: &[&str]) {
        let fabric = fabric(health_mask, health_summary);
        assert_eq!(conditions(&fabric), expected, "{health_mask:#x}");
        assert_eq!(problem(&fabric).is_some(), !expected.is_empty());
        let member = membership(&fabric).map(|fabric| fabric.conditions);
        assert_eq!(member.as_deref(), Some(&conditions(&fabric)[..]));
    }

    #[test]
    fn what_is_not_supported_or_false_is_no_condition() {
        check(0, 0, &[]);
        // false four times, and nothing wrong with the configuration
        check(0b1_10_10_10_10, 1, &[]);
    }

    #[test]
    fn each_part_that_holds_has_its_name() {
        check(0b01, 0, &["degraded-bandwidth"]);
        check(0b01_10, 2, &["route-recovery"]);
        check(0b01_10_10, 2, &["route-unhealthy"]);
        check(0b01_10_10_10, 2, &["access-timeout-recovery"]);
        check(
            0b01_10_01_10,
            2,
            &["route-recovery", "access-timeout-recovery"],
        );
        check(0x2aa, 2, &["incorrect-system-guid"]);
        check(0x5aa, 2, &["insufficient-nvlinks"]);
        check(0xfaa, 0, &["incorrect-configuration-15"]);
    }

    #[test]
    fn a_summary_without_a_part_says_it_itself() {
        check(0, 2, &["unhealthy"]);
        check(0b01, 3, &["degraded-bandwidth", "limited-capacity"]);
    }
}
