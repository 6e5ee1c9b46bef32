//! A whole pod: the kubelet admits its containers one by one, and each is given what is best of
//! what it can be given then.

use std::collections::BTreeMap;

use berth_topology::assignment::ContainerAssignment;
use berth_topology::claim::{ContainerClaim, GpuClaim, Phase, PodClaim};
use berth_topology::ids::NumaId;
use berth_topology::link::LinkClass;

use crate::free::Free;
use crate::kubelet::Inexact;
use crate::machine::Machine;
use crate::place::Placement;
use crate::pod::plan::{Plan, is_ever_admitted, plan};
use crate::refusal::Refusal;
use crate::set::GpuSet;

mod plan;

/// Sets of leaving GPUs that are tried before a refusal by the kubelet is called final: all of 8.
const DEPARTURES_MAX: usize = 256;

/// What a pod would be given.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPlacement {
    /// By container. Init containers are not listed: what they held is given to these, and an
    /// assignment names a GPU once.
    pub containers: BTreeMap<String, ContainerAssignment>,
    /// Every container, in the order in which the kubelet admits them.
    pub admitted: Vec<Admitted>,
    /// Every GPU that the pod holds at some time.
    pub gpus: GpuSet,
    /// Of the container that does worst, 0..=10.
    pub score: u8,
    /// Why the pod may get others than these; absent where the kubelet can give no others.
    pub inexact: Option<Inexact>,
}

/// What the kubelet does with one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The container.
    pub container: String,
    /// NUMA nodes that its topology manager decides on; absent where it has no wish.
    pub numa_nodes: Option<Vec<NumaId>>,
    /// The container's GPUs.
    pub gpus: GpuSet,
}

/// A pod that fits, without the assignment's texts: all that filter and prioritize need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodFit {
    /// Every GPU that the pod would hold.
    pub gpus: GpuSet,
    /// Of the container that does worst, 0..=10.
    pub score: u8,
    /// Of the container that does worst; absent where no group has two GPUs.
    pub weakest_link: Option<LinkClass>,
    /// 0..=10: what stays possible beside the whole pod, as [`crate::Placement::future`].
    pub future: u8,
    /// As [`PodPlacement::inexact`].
    pub inexact: Option<Inexact>,
}

/// Places every container of a pod on what is `free`.
///
/// # Errors
/// The [`Refusal`] of the container that does not fit beside the others, or that the kubelet rejects.
pub fn place_pod<'a>(
    machine: &Machine,
    free: impl Into<Free<'a>>,
    claim: &PodClaim,
) -> Result<PodPlacement, Refusal> {
    let plan = choose_pod(machine, &free.into(), claim)?;
    let fit = plan.fit(&machine.shape);
    let containers = claim.admitted();
    let steps = containers.iter().zip(&plan.steps);
    let main = steps.filter(|(needs, _)| needs.phase != Phase::Init);
    let named = main.filter_map(|(needs, step)| {
        let choice = step.choice.as_ref()?;
        Some((needs.name.clone(), choice.assignment(machine)))
    });
    Ok(PodPlacement {
        containers: named.collect(),
        admitted: plan.admitted(machine, &containers),
        gpus: fit.gpus,
        score: fit.score,
        inexact: fit.inexact,
    })
}

/// Places the one container of a pod that asks for nothing else, as [`crate::place()`] does, but within
/// what the kubelet can give; and why that is not exact, where it is not.
///
/// # Errors
/// As [`place_pod`].
pub fn place_alone<'a>(
    machine: &Machine,
    free: impl Into<Free<'a>>,
    claim: &GpuClaim,
) -> Result<(Placement, Option<Inexact>), Refusal> {
    let pod = PodClaim {
        containers: vec![ContainerClaim {
            name: String::new(),
            claim: claim.clone(),
        }],
        ..PodClaim::default()
    };
    let plan = choose_pod(machine, &free.into(), &pod)?;
    let choice = plan.steps.first().and_then(|step| step.choice.as_ref());
    let placement = choice.map_or_else(Placement::empty, |choice| choice.placement(machine));
    Ok((placement, plan.fit(&machine.shape).inexact))
}

/// Whether and how well the pod fits: the decision of [`place_pod`], at a fraction of its cost.
///
/// # Errors
/// As [`place_pod`].
pub fn fit_pod<'a>(
    machine: &Machine,
    free: impl Into<Free<'a>>,
    claim: &PodClaim,
) -> Result<PodFit, Refusal> {
    choose_pod(machine, &free.into(), claim).map(|plan| plan.fit(&machine.shape))
}

fn choose_pod(machine: &Machine, free: &Free<'_>, claim: &PodClaim) -> Result<Plan, Refusal> {
    let usable = machine.usable();
    let now = Free {
        gpus: free.gpus.intersection(usable),
        ..*free
    };
    plan(machine, &now, claim).map_err(|refusal| {
        // One container's refusal already says whether anybody's leaving helps, but for the kubelet's.
        let is_alone = claim.containers.len() + claim.init.len() <= 1;
        if !refusal.is_resolvable() || is_alone && !machine.kubelet.aligns() {
            return refusal;
        }
        let empty = Free {
            gpus: usable,
            cpus: None,
            doubt: free.doubt,
        };
        match plan(machine, &empty, claim) {
            Ok(_) => refusal,
            Err(Refusal::KubeletWouldRefuse) if fits_after_some_leave(machine, &now, claim) => {
                refusal
            }
            Err(never) => never.on_empty_machine(),
        }
    })
}

/// The kubelet's ties go to the lowest NUMA node, so a pod may fit while others hold that one, and
/// not on the empty machine.
fn fits_after_some_leave(machine: &Machine, now: &Free<'_>, claim: &PodClaim) -> bool {
    if !is_ever_admitted(machine, claim) {
        return false;
    }
    let held = machine.usable().difference(now.gpus).bits();
    let next = |left: &u64| Some(left.wrapping_sub(1) & held).filter(|left| *left != 0);
    let leaving = std::iter::successors(Some(held), next);
    leaving.take(DEPARTURES_MAX).any(|leaving| {
        let free = Free {
            gpus: now.gpus.union(GpuSet::from_bits(leaving)),
            cpus: None,
            doubt: now.doubt,
        };
        plan(machine, &free, claim).is_ok()
    })
}

// === impl PodFit ===

impl PodFit {
    /// Whether the kubelet can give no other GPUs than these.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.inexact.is_none()
    }
}

// === impl PodPlacement ===

impl PodPlacement {
    /// Whether the kubelet can give no other GPUs than these.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.inexact.is_none()
    }
}
