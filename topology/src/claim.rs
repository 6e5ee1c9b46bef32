//! What a pod asks for: its extended resource, and the annotations that say how it is to be wired.
//!
//! Everything is optional but the resource. A bad annotation is refused with its name, its value
//! and what is allowed: the pod is never silently placed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};

use crate::link::LinkClass;
use crate::{names, quantity};

mod needs;

pub use needs::{ContainerNeeds, Phase, PodNeeds};

/// More GPUs than any node has: a count above it is a mistake of the pod's author.
pub const GPU_COUNT_MAX: usize = 1_024;

/// What one pod asks for, container by container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodClaim {
    /// Containers that hold GPUs as long as the pod runs, sidecars included, in pod order.
    pub containers: Vec<ContainerClaim>,
    /// Plain init containers with GPUs: they run one after the other before the containers above,
    /// which reuse their devices.
    pub init: Vec<ContainerClaim>,
    /// What else the kubelet looks at when it admits the pod. Empty where only GPUs are asked for.
    pub needs: PodNeeds,
}

/// What one container asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerClaim {
    /// The container's name.
    pub name: String,
    /// Its GPUs and how they are to be wired.
    pub claim: GpuClaim,
}

/// How many GPUs, and how they are to be wired.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuClaim {
    /// Devices of the resource; 0 asks for CPU ranks (`berth place --gpus 0`).
    pub gpu_count: usize,
    /// Ranks K of one model: n = m·K GPUs are m groups. `None` means one group of all.
    pub tensor_parallel_size: Option<usize>,
    /// Least memory of each GPU, in bytes.
    pub gpu_memory_bytes_min: Option<u64>,
    /// Model that each GPU must be, compared as in [`model_matches`].
    pub gpu_model: Option<String>,
    /// Least link wanted between every pair of a group.
    pub link: LinkClass,
    /// Whether `link` is a wish or a condition.
    pub link_policy: LinkPolicy,
    /// Whether a group must be of one NUMA node.
    pub numa: NumaPolicy,
    /// Whether GPUs should be near an RDMA NIC.
    pub nic: NicPolicy,
    /// Pods of the same group work together.
    pub group: Option<String>,
}

/// What a link below the wanted one means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LinkPolicy {
    /// A lesser set is taken when there is no better one.
    #[default]
    Prefer,
    /// A lesser set is refused.
    Require,
}

/// What a set over several NUMA nodes means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NumaPolicy {
    /// Refused.
    Single,
    /// Taken when there is no better one.
    #[default]
    Prefer,
    /// As good as any.
    Any,
}

/// Whether the distance to an RDMA NIC counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NicPolicy {
    /// It does.
    Near,
    /// It does not.
    #[default]
    Any,
}

/// A claim that cannot be read: which annotation, what it holds, what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An annotation's value is not one of those allowed.
    #[error("annotation {name} is {value:?}; allowed: {allowed}")]
    Annotation {
        /// The annotation.
        name: &'static str,
        /// Its value, cut at 64 characters.
        value: String,
        /// What would be accepted.
        allowed: &'static str,
    },
    /// The annotated tensor-parallel size does not divide a container's GPUs.
    #[error(
        "annotation {} does not divide the container's GPUs; allowed: a divisor of its GPU count",
        names::TENSOR_PARALLEL_SIZE
    )]
    NotDivisible,
    /// The resource's quantity is not a whole number up to [`GPU_COUNT_MAX`].
    #[error("resource {resource} is {value:?}; allowed: a whole number up to 1024")]
    Count {
        /// The resource.
        resource: String,
        /// Its quantity.
        value: String,
    },
}

// === impl PodClaim ===

impl PodClaim {
    /// Reads what `pod` asks of `resource`.
    ///
    /// # Errors
    /// When an annotation or a quantity cannot be read.
    pub fn of_pod(pod: &Pod, resource: &str) -> Result<Self, Error> {
        let none = BTreeMap::new();
        let wishes = wishes(pod.metadata.annotations.as_ref().unwrap_or(&none))?;
        let Some(spec) = &pod.spec else {
            return Ok(Self::default());
        };
        let mut claim = Self {
            needs: PodNeeds::of_pod(pod, resource),
            ..Self::default()
        };
        for container in spec.init_containers.iter().flatten() {
            let is_sidecar = container.restart_policy.as_deref() == Some("Always");
            let list = if is_sidecar {
                &mut claim.containers
            } else {
                &mut claim.init
            };
            list.extend(container_claim(container, resource, &wishes)?);
        }
        for container in &spec.containers {
            claim
                .containers
                .extend(container_claim(container, resource, &wishes)?);
        }
        Ok(claim)
    }

    /// Its containers in the order in which the kubelet admits them: those that the pod named, or
    /// else those that ask for GPUs, init containers first.
    #[must_use]
    pub fn admitted(&self) -> Cow<'_, [ContainerNeeds]> {
        if !self.needs.containers.is_empty() {
            return Cow::Borrowed(&self.needs.containers);
        }
        let needs = |phase| {
            move |container: &ContainerClaim| ContainerNeeds {
                name: container.name.clone(),
                phase,
                gpu_count: container.claim.gpu_count,
                names_gpus: true,
                ..ContainerNeeds::default()
            }
        };
        let init = self.init.iter().map(needs(Phase::Init));
        let main = self.containers.iter().map(needs(Phase::Main));
        Cow::Owned(init.chain(main).collect())
    }

    /// GPUs that the pod holds at once, as kube-scheduler and the kubelet count them: what its
    /// containers hold together, or its greediest init container beside the sidecars that started
    /// before it if that is more.
    #[must_use]
    pub fn gpu_count(&self) -> usize {
        needs::together(&self.admitted(), |container| container.gpu_count)
    }
}

// === impl GpuClaim ===

impl GpuClaim {
    /// A claim for that many GPUs without any wish.
    #[must_use]
    pub fn of_count(gpu_count: usize) -> Self {
        Self {
            gpu_count,
            ..Self::default()
        }
    }

    /// GPUs of one group.
    #[must_use]
    pub fn group_size(&self) -> usize {
        match self.tensor_parallel_size {
            Some(size) if size > 0 && size <= self.gpu_count => size,
            _ => self.gpu_count,
        }
    }
}

impl LinkPolicy {
    /// Reads a spelling.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        match text {
            "prefer" => Some(Self::Prefer),
            "require" => Some(Self::Require),
            _ => None,
        }
    }
}

impl NumaPolicy {
    /// Reads a spelling.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        match text {
            "single" => Some(Self::Single),
            "prefer" => Some(Self::Prefer),
            "any" => Some(Self::Any),
            _ => None,
        }
    }
}

impl NicPolicy {
    /// Reads a spelling.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        match text {
            "near" => Some(Self::Near),
            "any" => Some(Self::Any),
            _ => None,
        }
    }
}

/// Whether a GPU of `model` is what `wanted` names: the words of `wanted` stand in `model` next to
/// each other, letter case and separators aside (`h100` and `NVIDIA-H100` match
/// `NVIDIA H100 80GB HBM3`, `h10` does not).
#[must_use]
pub fn model_matches(model: &str, wanted: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let lower = text.to_ascii_lowercase();
        let parts = lower.split(|c: char| !c.is_ascii_alphanumeric());
        parts
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let (model, wanted) = (words(model), words(wanted));
    !wanted.is_empty() && model.windows(wanted.len()).any(|window| window == wanted)
}

/// The annotations of a pod, as a claim for no GPU yet.
fn wishes(annotations: &BTreeMap<String, String>) -> Result<GpuClaim, Error> {
    Ok(GpuClaim {
        gpu_count: 0,
        tensor_parallel_size: read(annotations, names::TENSOR_PARALLEL_SIZE, SIZES, size)?,
        gpu_memory_bytes_min: read(annotations, names::GPU_MEMORY, QUANTITIES, quantity::parse)?,
        gpu_model: read(annotations, names::GPU_MODEL, NAMES, name)?,
        link: read(annotations, names::LINK, LINKS, LinkClass::from_text)?.unwrap_or_default(),
        link_policy: read(
            annotations,
            names::LINK_POLICY,
            POLICIES,
            LinkPolicy::from_text,
        )?
        .unwrap_or_default(),
        numa: read(annotations, names::NUMA, NUMAS, NumaPolicy::from_text)?.unwrap_or_default(),
        nic: read(annotations, names::NIC, NICS, NicPolicy::from_text)?.unwrap_or_default(),
        group: read(annotations, names::GROUP_ANNOTATION, NAMES, name)?,
    })
}

const SIZES: &str = "a whole number from 1 to 1024";
const QUANTITIES: &str = "a Kubernetes quantity such as 40Gi";
const NAMES: &str = "1 to 63 characters with a letter or digit";
const LINKS: &str = "nvlink, switch, numa, any";
const POLICIES: &str = "prefer, require";
const NUMAS: &str = "single, prefer, any";
const NICS: &str = "near, any";

fn read<T>(
    annotations: &BTreeMap<String, String>,
    name: &'static str,
    allowed: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Error> {
    let Some(text) = annotations.get(name) else {
        return Ok(None);
    };
    let value = || text.chars().take(64).collect();
    parse(text).map(Some).ok_or_else(|| Error::Annotation {
        name,
        value: value(),
        allowed,
    })
}

fn size(text: &str) -> Option<usize> {
    text.parse()
        .ok()
        .filter(|size| (1..=GPU_COUNT_MAX).contains(size))
}

fn name(text: &str) -> Option<String> {
    let fits = text.len() <= 63 && text.chars().any(|c| c.is_ascii_alphanumeric());
    fits.then(|| text.to_owned())
}

/// `None` for a container without the resource.
fn container_claim(
    container: &Container,
    resource: &str,
    wishes: &GpuClaim,
) -> Result<Option<ContainerClaim>, Error> {
    let gpu_count = gpu_count(container, resource)?;
    if gpu_count == 0 {
        return Ok(None);
    }
    let annotated = wishes.tensor_parallel_size;
    let claim = GpuClaim {
        gpu_count,
        tensor_parallel_size: match annotated {
            Some(size) if !gpu_count.is_multiple_of(size) => return Err(Error::NotDivisible),
            Some(size) => Some(size),
            None => size_from_args(container, gpu_count),
        },
        ..wishes.clone()
    };
    Ok(Some(ContainerClaim {
        name: container.name.clone(),
        claim,
    }))
}

fn gpu_count(container: &Container, resource: &str) -> Result<usize, Error> {
    let Some(resources) = &container.resources else {
        return Ok(0);
    };
    let listed = |list: &Option<BTreeMap<String, Quantity>>| list.as_ref()?.get(resource).cloned();
    let Some(Quantity(text)) = listed(&resources.limits).or_else(|| listed(&resources.requests))
    else {
        return Ok(0);
    };
    let count = quantity::parse(&text).and_then(|count| usize::try_from(count).ok());
    count
        .filter(|count| *count <= GPU_COUNT_MAX)
        .ok_or_else(|| Error::Count {
            resource: resource.to_owned(),
            value: text.chars().take(64).collect(),
        })
}

/// `--tensor-parallel-size K`, `--tensor-parallel-size=K` or `-tp K` as exact tokens of command and
/// args. Best effort, so it never refuses: what does not divide is ignored, and a value above the
/// container's GPUs (multi-node serving) means all of them.
fn size_from_args(container: &Container, gpu_count: usize) -> Option<usize> {
    const FLAGS: [&str; 2] = ["--tensor-parallel-size", "-tp"];
    let tokens: Vec<&str> = container
        .command
        .iter()
        .flatten()
        .chain(container.args.iter().flatten())
        .map(String::as_str)
        .collect();
    let after = tokens
        .windows(2)
        .find(|pair| FLAGS.contains(&pair[0]))
        .map(|pair| pair[1]);
    let joined = tokens.iter().find_map(|token| {
        let (flag, value) = token.split_once('=')?;
        FLAGS.contains(&flag).then_some(value)
    });
    let size = size(after.or(joined)?)?.min(gpu_count);
    gpu_count.is_multiple_of(size).then_some(size)
}
