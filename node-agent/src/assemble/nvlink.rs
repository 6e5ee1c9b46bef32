//! Which GPUs NVLink joins, with how many lanes, and what is wrong with them.
//!
//! A link that ends at a GPU of this node joins the two; one that ends at an NVSwitch joins the GPU
//! with every other GPU at a switch. In virtual machines the switches may be invisible: an active
//! link whose end cannot be told is taken for one to a switch where peer access works.

use std::collections::BTreeSet;

use berth_topology::gpu::GpuNvLink;
use berth_topology::ids::BusId;
use berth_topology::link::{PairNvLink, Via};
use berth_topology::raw::{RawGpu, RawMachine, RawNvLink};

use super::unknowns::{NOT_SUPPORTED, Unknowns};
use super::{Found, lanes, pci};

/// `NVML_NVLINK_DEVICE_TYPE_SWITCH`.
const REMOTE_SWITCH: u32 = 2;
/// `NVML_NVLINK_DEVICE_TYPE_UNKNOWN`.
const REMOTE_UNKNOWN: u32 = 255;

/// The NVLinks of all GPUs of a machine. GPUs are positions in the list of found ones.
pub(crate) struct Wiring {
    gpus: Vec<Ends>,
    /// By position: whether peer access over NVLink works, where the driver says.
    peer_access: Vec<Vec<Option<u32>>>,
}

/// The NVLinks of one GPU.
struct Ends {
    name: String,
    links: Vec<End>,
    lanes_expected: u32,
    mig_enabled: bool,
}

struct End {
    peer: Peer,
    /// Absent where the driver did not say.
    active: Option<bool>,
    /// 0 where neither the driver nor the model tells.
    speed_mb_per_second: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// A GPU of this node.
    Gpu(usize),
    Switch,
    /// Active, but what it ends at cannot be told.
    Assumed,
    /// Inactive without an end, or another kind of device.
    Elsewhere,
}

/// What NVLink is between two GPUs, and why it is less than it should be.
struct Pair {
    nvlink: PairNvLink,
    problem: Option<String>,
}

// === impl Wiring ===

impl Wiring {
    /// Follows each link to its end.
    pub(crate) fn read(found: &[Found<'_>], raw: &RawMachine, unknowns: &mut Unknowns) -> Self {
        let switches = nvswitches(raw);
        let gpus = found
            .iter()
            .map(|gpu| ends(gpu, found, &switches, unknowns))
            .collect();
        let peer_access = found
            .iter()
            .map(|gpu| peer_access(gpu.raw, found))
            .collect();
        let wiring = Self { gpus, peer_access };
        wiring.note_assumed(unknowns);
        wiring
    }

    /// All lanes of one GPU; absent where it has none.
    pub(crate) fn budget(&self, gpu: usize) -> Option<GpuNvLink> {
        let ends = &self.gpus[gpu];
        let active = ends.links.iter().filter(|end| end.is_active());
        let lanes = count(active.clone());
        (ends.lanes_expected > 0).then(|| GpuNvLink {
            lanes,
            lanes_expected: ends.lanes_expected,
            gb_per_second: gb_per_second(active.map(|end| end.speed_mb_per_second).sum()),
        })
    }

    /// NVLink between two GPUs; absent where none is meant to be.
    pub(crate) fn pair(&self, a: usize, b: usize) -> Option<PairNvLink> {
        self.joined(a, b).map(|pair| pair.nvlink)
    }

    /// Why a GPU's NVLink is less than its model promises.
    pub(crate) fn problems(&self, gpu: usize) -> Vec<String> {
        let ends = &self.gpus[gpu];
        let lanes = count(ends.links.iter().filter(|end| end.is_active()));
        let unread = count(ends.links.iter().filter(|end| end.active.is_none()));
        let lost = ends.lanes_expected.saturating_sub(lanes + unread);
        let lanes_problem = (lost > 0 && !ends.mig_enabled)
            .then(|| format!("{lanes} of {} NVLinks are active", ends.lanes_expected));
        let others = (0..self.gpus.len()).filter(|other| *other != gpu);
        let pair_problems = others.filter_map(|other| self.joined(gpu, other)?.problem);
        lanes_problem.into_iter().chain(pair_problems).collect()
    }

    fn joined(&self, a: usize, b: usize) -> Option<Pair> {
        let pair = self.direct(a, b).or_else(|| self.switched(a, b))?;
        self.with_peer_access(a, b, pair)
    }

    /// Links that end at each other. Both ends tell the same unless one could not be read.
    fn direct(&self, a: usize, b: usize) -> Option<PairNvLink> {
        let (of_a, of_b) = (self.gpus[a].to(b), self.gpus[b].to(a));
        let lanes_expected = of_a.len().max(of_b.len());
        let active = |ends: &[&End]| count(ends.iter().copied().filter(|end| end.is_active()));
        let is_whole = of_a.len() == of_b.len();
        let (of_a_active, of_b_active) = (active(&of_a), active(&of_b));
        let lanes = if is_whole {
            of_a_active.min(of_b_active)
        } else {
            of_a_active.max(of_b_active)
        };
        let speed = least_speed(of_a.into_iter().chain(of_b));
        (lanes_expected > 0).then(|| PairNvLink {
            lanes,
            lanes_expected: u32::try_from(lanes_expected).unwrap_or(u32::MAX),
            gb_per_second: gb_per_second(u64::from(lanes) * speed),
            via: Via::Direct,
        })
    }

    /// The lesser of both GPUs' lanes to switches.
    fn switched(&self, a: usize, b: usize) -> Option<PairNvLink> {
        let (one, other) = (&self.gpus[a], &self.gpus[b]);
        let both = one.may_be_switched() && other.may_be_switched();
        if !both || !(one.is_switched() || other.is_switched()) {
            return None;
        }
        let lanes = count(one.active_switch_links()).min(count(other.active_switch_links()));
        let speed = least_speed(one.active_switch_links().chain(other.active_switch_links()));
        Some(PairNvLink {
            lanes,
            lanes_expected: one.lanes_expected.min(other.lanes_expected),
            gb_per_second: gb_per_second(u64::from(lanes) * speed),
            via: Via::Switch,
        })
    }

    /// A link that is up but that peers may not use carries nothing (a broken board, a virtual
    /// machine's partition, MIG).
    fn with_peer_access(&self, a: usize, b: usize, nvlink: PairNvLink) -> Option<Pair> {
        let refused = self.access(a, b).filter(|status| *status != 0);
        let Some(status) = refused.filter(|_| nvlink.lanes > 0) else {
            return Some(Pair {
                nvlink,
                problem: None,
            });
        };
        let is_assumed = self.gpus[a].is_assumed() || self.gpus[b].is_assumed();
        if is_assumed && nvlink.via == Via::Switch {
            return None;
        }
        let (one, other) = (&self.gpus[a], &self.gpus[b]);
        let is_fault = !one.mig_enabled && !other.mig_enabled;
        let problem = is_fault.then(|| {
            let why = access_text(status);
            format!(
                "NVLink to {} is active but peer access is refused: {why}",
                other.name
            )
        });
        Some(Pair {
            nvlink: PairNvLink {
                lanes: 0,
                gb_per_second: 0.0,
                ..nvlink
            },
            problem,
        })
    }

    /// What the driver says of peer access; the worse of both directions.
    fn access(&self, a: usize, b: usize) -> Option<u32> {
        let of = |from: usize, to: usize| self.peer_access[from].get(to).copied().flatten();
        of(a, b).max(of(b, a))
    }

    fn note_assumed(&self, unknowns: &mut Unknowns) {
        for ends in self.gpus.iter().filter(|ends| ends.is_assumed()) {
            let count = ends
                .links
                .iter()
                .filter(|end| end.peer == Peer::Assumed)
                .count();
            let what = format!("{}: nvlink", ends.name);
            unknowns.note(
                &what,
                format!("what {count} active links end at cannot be told; taken for an NVSwitch"),
            );
        }
    }
}

// === impl Ends ===

impl Ends {
    fn to(&self, gpu: usize) -> Vec<&End> {
        self.links
            .iter()
            .filter(|end| end.peer == Peer::Gpu(gpu))
            .collect()
    }

    fn active_switch_links(&self) -> impl Iterator<Item = &End> {
        self.links
            .iter()
            .filter(|end| end.is_active() && end.is_to_switch())
    }

    fn is_switched(&self) -> bool {
        self.links.iter().any(End::is_to_switch)
    }

    /// At a switch, or all its links are down and it could be.
    fn may_be_switched(&self) -> bool {
        let is_dark = self.lanes_expected > 0 && !self.links.iter().any(End::is_active);
        self.is_switched() || is_dark
    }

    fn is_assumed(&self) -> bool {
        self.links.iter().any(|end| end.peer == Peer::Assumed)
    }
}

// === impl End ===

impl End {
    fn is_active(&self) -> bool {
        self.active == Some(true)
    }

    fn is_to_switch(&self) -> bool {
        matches!(self.peer, Peer::Switch | Peer::Assumed)
    }
}

fn ends(
    gpu: &Found<'_>,
    found: &[Found<'_>],
    switches: &BTreeSet<BusId>,
    unknowns: &mut Unknowns,
) -> Ends {
    let name = format!("gpu {}", gpu.index);
    note_unread(&name, gpu.raw, unknowns);
    let links: Vec<End> = gpu
        .raw
        .nvlinks
        .iter()
        .map(|link| End {
            peer: peer(link, found, switches),
            active: link.active.value().copied(),
            speed_mb_per_second: speed(link, gpu.raw),
        })
        .collect();
    if links
        .iter()
        .any(|end| end.is_active() && end.speed_mb_per_second == 0)
    {
        unknowns.note(
            &format!("{name}: nvlink"),
            "neither NVML nor the model tells the speed of a link",
        );
    }
    let mig_enabled = gpu.raw.mig_mode.value() == Some(&1);
    let lanes_expected = lanes_expected(gpu.raw, &links, found.len());
    Ends {
        name,
        links,
        lanes_expected,
        mig_enabled,
    }
}

fn note_unread(name: &str, raw: &RawGpu, unknowns: &mut Unknowns) {
    let what = format!("{name}: nvlink");
    if raw.nvlinks.is_empty() {
        unknowns.optional(&what, "NVML_FI_DEV_NVLINK_LINK_COUNT", &raw.nvlink_count);
    }
    for (number, link) in raw.nvlinks.iter().enumerate() {
        unknowns.optional(
            &what,
            &format!("nvmlDeviceGetNvLinkState of link {number}"),
            &link.active,
        );
    }
}

/// A known address decides; the type that NVML gives only where there is none.
fn peer(link: &RawNvLink, found: &[Found<'_>], switches: &BTreeSet<BusId>) -> Peer {
    let address = link
        .remote_pci_bus_id
        .value()
        .and_then(|id| pci::from_nvml(id));
    let known = address.as_ref().and_then(|address| {
        found
            .iter()
            .position(|gpu| gpu.bus_id.as_ref() == Some(address))
    });
    let is_active = link.active.value() == Some(&true);
    match (
        known,
        link.remote_type.value().copied().unwrap_or(REMOTE_UNKNOWN),
    ) {
        (Some(position), _) => Peer::Gpu(position),
        (None, REMOTE_SWITCH) => Peer::Switch,
        _ if address.is_some_and(|address| switches.contains(&address)) => Peer::Switch,
        (None, REMOTE_UNKNOWN) if is_active => Peer::Assumed,
        _ => Peer::Elsewhere,
    }
}

/// What NVML says; where it does not, what the model has.
fn speed(link: &RawNvLink, raw: &RawGpu) -> u64 {
    let told = link
        .speed_mb_per_second
        .value()
        .copied()
        .filter(|speed| *speed > 0);
    let by_model = || lanes::speed_mb_per_second(*raw.compute_capability.value()?);
    told.or_else(by_model).unwrap_or(0)
}

/// By model where all links are wired on every board; else those that lead somewhere, active or
/// not, and at a switch all that NVML counts. Inactive links of cards are normal: an H100 PCIe uses
/// 12 of 18. A lone GPU without an active link has nobody to reach.
fn lanes_expected(raw: &RawGpu, links: &[End], gpu_count: usize) -> u32 {
    let active = count(links.iter().filter(|end| end.is_active()));
    let counted = raw.nvlink_count.value().copied().unwrap_or(0).min(36);
    let model = raw.name.value().and_then(|name| lanes::wired(name));
    let wired = count(links.iter().filter(|end| end.peer != Peer::Elsewhere));
    let is_switched = links.iter().any(End::is_to_switch);
    let expected = match model {
        Some(_) if active == 0 && gpu_count < 2 => 0,
        Some(_) if links.is_empty() => 0,
        Some(lanes) if counted > 0 => lanes.min(counted),
        Some(lanes) => lanes,
        None if is_switched => counted.max(wired),
        None => wired,
    };
    expected.max(active)
}

fn peer_access(raw: &RawGpu, found: &[Found<'_>]) -> Vec<Option<u32>> {
    let to = |other: &Found<'_>| {
        let index = usize::try_from(other.index.0).ok()?;
        raw.p2p_nvlink.get(index)?.value().copied()
    };
    found.iter().map(to).collect()
}

fn nvswitches(raw: &RawMachine) -> BTreeSet<BusId> {
    let switches = raw
        .sysfs
        .pci
        .iter()
        .filter(|(_, pci)| pci::kind(pci) == Some(pci::Kind::NvSwitch));
    switches
        .map(|(address, _)| BusId(address.clone()))
        .collect()
}

/// `nvmlGpuP2PStatus_t`.
fn access_text(status: u32) -> String {
    let text = match status {
        1 => "not supported by the chipset",
        2 => "not supported by the GPU",
        3 => "not supported by the I/O hub's topology",
        4 => "disabled in the driver's registry",
        5 => NOT_SUPPORTED,
        _ => return format!("status {status}"),
    };
    text.to_owned()
}

fn least_speed<'a>(ends: impl Iterator<Item = &'a End>) -> u64 {
    ends.filter(|end| end.is_active())
        .map(|end| end.speed_mb_per_second)
        .min()
        .unwrap_or(0)
}

fn count<'a>(ends: impl Iterator<Item = &'a End>) -> u32 {
    u32::try_from(ends.count()).unwrap_or(u32::MAX)
}

/// From 10⁶ to 10⁹ bytes a second.
fn gb_per_second(mb_per_second: u64) -> f64 {
    f64::from(u32::try_from(mb_per_second).unwrap_or(u32::MAX)) / 1000.0
}
