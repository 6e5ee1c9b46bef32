//! The objects of a script's cluster, as the API server would hold them.

use std::collections::BTreeMap;

use berth_topology::gpu::{HealthState, Mig, MigInstance};
use berth_topology::hash;
use berth_topology::ids::GpuUuid;
use berth_topology::node::{NodeTopology, Status};
use k8s_openapi::api::core::v1::{
    Container, Node, NodeCondition, NodeStatus, Pod, PodSpec, PodStatus, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Asks;

/// Every pod of a script lives here.
pub(super) const NAMESPACE: &str = "default";

/// A Node that is Ready.
pub(super) fn ready_node(name: &str) -> Node {
    let ready = NodeCondition {
        type_: "Ready".to_owned(),
        status: "True".to_owned(),
        ..NodeCondition::default()
    };
    Node {
        metadata: named(name),
        status: Some(NodeStatus {
            conditions: Some(vec![ready]),
            ..NodeStatus::default()
        }),
        ..Node::default()
    }
}

/// A pending pod. `number` makes its uid: a name may be used again.
pub(super) fn pending_pod(name: &str, number: usize, asks: &Asks, resource: &str) -> Pod {
    let annotations = asks.annotations.iter();
    let annotations: BTreeMap<String, String> = annotations
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect();
    let limits = [(resource.to_owned(), Quantity(asks.gpu_count.to_string()))];
    let container = Container {
        name: "main".to_owned(),
        resources: Some(ResourceRequirements {
            limits: Some(limits.into()),
            ..ResourceRequirements::default()
        }),
        ..Container::default()
    };
    Pod {
        metadata: ObjectMeta {
            namespace: Some(NAMESPACE.to_owned()),
            uid: Some(format!("{name}.{number}")),
            annotations: Some(annotations),
            ..named(name)
        },
        spec: Some(PodSpec {
            containers: vec![container],
            priority: asks.priority,
            ..PodSpec::default()
        }),
        status: Some(PodStatus {
            phase: Some("Pending".to_owned()),
            ..PodStatus::default()
        }),
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

/// Changes what the agent of `node` publishes.
///
/// # Errors
/// What `change` says is wrong.
pub(super) fn change(
    node: &mut NodeTopology,
    change: impl FnOnce(&mut Status) -> Result<(), String>,
) -> Result<(), String> {
    let status = node.status.get_or_insert_default();
    change(status)?;
    status.hash = hash::of_status(status);
    Ok(())
}

pub(super) fn fail(status: &mut Status, index: u32) -> Result<(), String> {
    let mut gpus = status.gpus.iter_mut();
    let gpu = gpus.find(|gpu| gpu.index.0 == index);
    let gpu = gpu.ok_or_else(|| format!("the node has no GPU {index}"))?;
    gpu.health.state = HealthState::Failed;
    Ok(())
}

/// No GPU has more (`NVML_GPU_INSTANCE_PROFILE_1_SLICE`'s most).
const INSTANCES_MAX: usize = 7;

/// Gives that GPU so many instances more of that profile, `1g.10gb` or `1g.10gb+me`.
pub(super) fn partition(
    status: &mut Status,
    index: u32,
    profile: &str,
    count: u32,
) -> Result<(), String> {
    let (slices, gibibytes) =
        sizes(profile).ok_or_else(|| format!("{profile:?} is no profile, such as 1g.10gb"))?;
    let mut gpus = status.gpus.iter_mut();
    let gpu = gpus.find(|gpu| gpu.index.0 == index);
    let gpu = gpu.ok_or_else(|| format!("the node has no GPU {index}"))?;
    let uuid = gpu.uuid.clone();
    let mig = gpu.mig.get_or_insert_with(|| Mig {
        mode: "disabled".to_owned(),
        instances: Vec::new(),
    });
    "enabled".clone_into(&mut mig.mode);
    for _ in 0..count {
        if mig.instances.len() >= INSTANCES_MAX {
            return Err(format!("a GPU has at most {INSTANCES_MAX} instances"));
        }
        mig.instances.push(MigInstance {
            uuid: GpuUuid(format!("MIG-{}/{}", uuid.as_str(), mig.instances.len())),
            profile: profile.to_owned(),
            memory_bytes: u64::from(gibibytes) << 30,
            compute_slices: slices,
            ..MigInstance::default()
        });
    }
    Ok(())
}

/// Compute slices and GiB of a profile.
fn sizes(profile: &str) -> Option<(u32, u32)> {
    let bare = profile.split('+').next()?;
    let (slices, memory) = bare.split_once('.')?;
    let slices = slices.strip_suffix('g')?.parse().ok()?;
    let gibibytes = memory.strip_suffix("gb")?.parse().ok()?;
    Some((slices, gibibytes))
}

/// Leaves that many lanes between the two GPUs, and as many fewer in their budgets.
pub(super) fn degrade(status: &mut Status, a: u32, b: u32, lanes: u32) -> Result<(), String> {
    let uuid = |index: u32| {
        let gpu = status.gpus.iter().find(|gpu| gpu.index.0 == index);
        gpu.map(|gpu| gpu.uuid.clone())
            .ok_or_else(|| format!("the node has no GPU {index}"))
    };
    let (a, b) = (uuid(a)?, uuid(b)?);
    let mut links = status.links.iter_mut();
    let link = links.find(|link| [(&a, &b), (&b, &a)].contains(&(&link.a, &link.b)));
    let nvlink = link.and_then(|link| link.nvlink.as_mut());
    let nvlink = nvlink.ok_or("no NVLink joins the two GPUs")?;
    if lanes >= nvlink.lanes {
        return Err(format!(
            "the two GPUs have {} lanes; leave fewer",
            nvlink.lanes
        ));
    }
    let per_lane = nvlink.gb_per_second / f64::from(nvlink.lanes.max(1));
    let lost = nvlink.lanes - lanes;
    nvlink.lanes = lanes;
    nvlink.gb_per_second = per_lane * f64::from(lanes);
    for gpu in status
        .gpus
        .iter_mut()
        .filter(|gpu| gpu.uuid == a || gpu.uuid == b)
    {
        if let Some(budget) = &mut gpu.nvlink {
            budget.lanes = budget.lanes.saturating_sub(lost);
            budget.gb_per_second = (budget.gb_per_second - per_lane * f64::from(lost)).max(0.0);
        }
    }
    Ok(())
}
