//! The objective once more, from the status itself and without any shortcut: every set, every cut,
//! every order. Shares no code with the crate.

use berth_topology::claim::{GpuClaim, LinkPolicy, NumaPolicy};
use berth_topology::ids::NumaId;
use berth_topology::link::{LinkClass, Path};
use berth_topology::node::Status;

/// Greater is better; the set itself decides last, lower first.
type Worth = (
    bool,
    Bandwidth,
    std::cmp::Reverse<(usize, [u64; 3], Vec<usize>)>,
);

/// Class, then what is compared within the class.
pub(crate) type Bandwidth = (u8, u64, u64);

/// What brute force says of one group.
#[derive(Debug)]
pub(crate) struct Best {
    pub(crate) order: Vec<usize>,
    pub(crate) bandwidth: Bandwidth,
}

/// The best single group of `claim.gpu_count` out of `free`.
pub(crate) fn best(status: &Status, free: &[usize], claim: &GpuClaim) -> Option<Best> {
    let sets = sets(&usable(status, free), claim.gpu_count);
    let allowed = sets
        .into_iter()
        .filter(|set| is_allowed(status, set, claim));
    let set = allowed.max_by_key(|set| worth(status, set, free, claim))?;
    Some(Best {
        bandwidth: bandwidth(status, &set),
        order: ring(status, &set),
    })
}

/// What the worst of the groups has at best over every way to form them, with the link wish before.
pub(crate) fn best_worst(
    status: &Status,
    free: &[usize],
    claim: &GpuClaim,
) -> Option<(bool, Bandwidth)> {
    let size = claim.tensor_parallel_size.unwrap_or(claim.gpu_count);
    worst_of(
        status,
        &usable(status, free),
        claim,
        (size, claim.gpu_count / size),
    )
}

pub(crate) fn bandwidth(status: &Status, set: &[usize]) -> Bandwidth {
    if set.len() < 2 {
        return (2, 0, 0);
    }
    let budget = set.iter().map(|gpu| budget(status, *gpu)).min().unwrap();
    let cut = least_cut(status, set).min(budget);
    if cut > 0 {
        return (1, cut, 0);
    }
    let pcie = pairs(set)
        .into_iter()
        .filter(|(a, b)| nvlink(status, *a, *b) == 0);
    let ancestor = pcie.map(|(a, b)| ancestor(status, a, b)).min().unwrap_or(0);
    let lanes = set.iter().map(|gpu| lanes(status, *gpu)).min().unwrap();
    (0, ancestor, lanes)
}

fn worst_of(
    status: &Status,
    free: &[usize],
    claim: &GpuClaim,
    (size, count): (usize, usize),
) -> Option<(bool, Bandwidth)> {
    if count == 0 {
        return Some((true, (u8::MAX, 0, 0)));
    }
    let ways = sets(free, size)
        .into_iter()
        .filter(|set| is_allowed(status, set, claim))
        .filter_map(|set| {
            // Groups in ascending order of their first: the order in which they are formed is no matter.
            let rest: Vec<usize> = free
                .iter()
                .copied()
                .filter(|gpu| *gpu > set[0] && !set.contains(gpu))
                .collect();
            let others = worst_of(status, &rest, claim, (size, count - 1))?;
            Some(others.min((meets(status, &set, claim.link), bandwidth(status, &set))))
        });
    ways.max()
}

fn worth(status: &Status, set: &[usize], free: &[usize], claim: &GpuClaim) -> Worth {
    let left: Vec<usize> = usable(status, free)
        .into_iter()
        .filter(|gpu| !set.contains(gpu))
        .collect();
    let across = || set.iter().flat_map(|a| left.iter().map(move |b| (*a, *b)));
    let joined = across().map(|(a, b)| nvlink(status, a, b)).sum();
    let apart = across().filter(|(a, b)| nvlink(status, *a, *b) == 0);
    let pcie = apart.map(|(a, b)| ancestor(status, a, b)).sum();
    let node = |gpu: usize| status.gpus[gpu].numa_node;
    let neighbours = across()
        .filter(|(a, b)| node(*a).is_some() && node(*a) == node(*b))
        .count();
    let numa = if claim.numa == NumaPolicy::Any {
        0
    } else {
        numa_count(status, set)
    };
    let rest = std::cmp::Reverse((numa, [joined, pcie, neighbours as u64], set.to_vec()));
    (meets(status, set, claim.link), bandwidth(status, set), rest)
}

fn is_allowed(status: &Status, set: &[usize], claim: &GpuClaim) -> bool {
    let nodes: Vec<Option<NumaId>> = set.iter().map(|gpu| status.gpus[*gpu].numa_node).collect();
    let is_single = nodes[0].is_some() && nodes.iter().all(|node| *node == nodes[0]);
    let is_linked = claim.link_policy == LinkPolicy::Prefer || meets(status, set, claim.link);
    is_linked && (claim.numa != NumaPolicy::Single || is_single)
}

fn meets(status: &Status, set: &[usize], link: LinkClass) -> bool {
    pairs(set).into_iter().all(|(a, b)| {
        let class = if nvlink(status, a, b) > 0 {
            LinkClass::NvLink
        } else {
            path(status, a, b).class()
        };
        class >= link
    })
}

fn numa_count(status: &Status, set: &[usize]) -> usize {
    let mut nodes: Vec<Option<NumaId>> =
        set.iter().map(|gpu| status.gpus[*gpu].numa_node).collect();
    nodes.sort();
    nodes.dedup();
    nodes.len()
}

/// Every two-part split of the set.
fn least_cut(status: &Status, set: &[usize]) -> u64 {
    let cut = |side: u32| -> u64 {
        let is_in =
            |gpu: &usize| side >> set.iter().position(|other| other == gpu).unwrap() & 1 == 1;
        let across = pairs(set).into_iter().filter(|(a, b)| is_in(a) != is_in(b));
        across.map(|(a, b)| nvlink(status, a, b)).sum()
    };
    (1..(1 << set.len()) - 1).map(cut).min().unwrap()
}

fn ring(status: &Status, set: &[usize]) -> Vec<usize> {
    let edge = |a: usize, b: usize| match nvlink(status, a, b) {
        0 => (
            0,
            ancestor(status, a, b),
            lanes(status, a).min(lanes(status, b)),
        ),
        joined => (joined, 0, 0),
    };
    let weakest = |order: &[usize]| {
        let around = order.iter().zip(order.iter().cycle().skip(1));
        around.map(|(a, b)| edge(*a, *b)).min()
    };
    if set.len() < 3 {
        return set.to_vec();
    }
    let tails = orders(&set[1..]).into_iter();
    let rings = tails.map(|tail| [&[set[0]], tail.as_slice()].concat());
    rings
        .max_by_key(|order| (weakest(order), std::cmp::Reverse(order.clone())))
        .unwrap()
}

fn orders(items: &[usize]) -> Vec<Vec<usize>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let first = |item: &usize| {
        let rest: Vec<usize> = items
            .iter()
            .copied()
            .filter(|other| other != item)
            .collect();
        orders(&rest)
            .into_iter()
            .map(|tail| [&[*item], tail.as_slice()].concat())
            .collect::<Vec<_>>()
    };
    items.iter().flat_map(first).collect()
}

fn sets(of: &[usize], size: usize) -> Vec<Vec<usize>> {
    let all = 0_u32..1 << of.len();
    let chosen = all.filter(|bits| bits.count_ones() as usize == size);
    chosen
        .map(|bits| {
            (0..of.len())
                .filter(|bit| bits >> bit & 1 == 1)
                .map(|bit| of[bit])
                .collect()
        })
        .collect()
}

fn pairs(set: &[usize]) -> Vec<(usize, usize)> {
    set.iter()
        .flat_map(|a| set.iter().filter(move |b| *b > a).map(move |b| (*a, *b)))
        .collect()
}

fn usable(status: &Status, free: &[usize]) -> Vec<usize> {
    free.iter()
        .copied()
        .filter(|gpu| status.gpus[*gpu].is_usable())
        .collect()
}

fn path(status: &Status, a: usize, b: usize) -> Path {
    let link = status.link(&status.gpus[a].uuid, &status.gpus[b].uuid);
    link.map_or(Path::Unknown, |link| link.path)
}

fn ancestor(status: &Status, a: usize, b: usize) -> u64 {
    use Path::{Board, HostBridge, Node, Switch, Switches, System, Unknown};
    let worst_first = [Unknown, System, Node, HostBridge, Switches, Switch, Board];
    worst_first
        .iter()
        .position(|other| *other == path(status, a, b))
        .unwrap() as u64
}

/// In 10⁶ bytes a second. The machines of these tests have whole ones.
fn nvlink(status: &Status, a: usize, b: usize) -> u64 {
    let link = status.link(&status.gpus[a].uuid, &status.gpus[b].uuid);
    link.and_then(|link| link.nvlink.as_ref())
        .map_or(0, |nvlink| mb(nvlink.gb_per_second))
}

fn budget(status: &Status, gpu: usize) -> u64 {
    let peers = (0..status.gpus.len()).filter(|peer| *peer != gpu);
    let sum = || peers.map(|peer| nvlink(status, gpu, peer)).sum();
    status.gpus[gpu]
        .nvlink
        .as_ref()
        .map_or_else(sum, |nvlink| mb(nvlink.gb_per_second))
}

fn lanes(status: &Status, gpu: usize) -> u64 {
    let pcie = status.gpus[gpu].pcie.as_ref().unwrap();
    (pcie.generation.unwrap_or(0) * pcie.width.unwrap_or(0)).into()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small whole numbers"
)]
fn mb(gb: f64) -> u64 {
    (gb * 1_000.0).round() as u64
}
