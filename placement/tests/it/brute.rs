//! The objective once more, from the status itself and without any shortcut: every set, every
//! split, every order. Shares no code with the crate.
//!
//! Facts of each set are looked up in tables by bits, computed once for a machine; that is all that
//! makes it quick enough for thousands of machines.

mod read;

use std::cell::{OnceCell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use berth_topology::claim::{GpuClaim, LinkPolicy, NicPolicy, NumaPolicy};
use berth_topology::ids::NumaId;
use berth_topology::link::LinkClass;
use berth_topology::node::Status;

use read::{ancestor, budget, lanes, nic, socket, stated_nvlink};

/// Class (1 PCIe, 2 NVLink, 3 one GPU), then what is compared within it.
pub(crate) type Bandwidth = (u8, u64, u64);

/// An edge of a ring: NVLink, ancestor, lanes.
pub(crate) type Edge = (u64, u64, u64);

/// Greater is better, all but the last: wish, bandwidth, NUMA nodes and sockets, NIC, future, cut,
/// positions.
type Worth = (
    bool,
    Bandwidth,
    Reverse<(usize, usize)>,
    u64,
    u64,
    Reverse<[u64; 3]>,
    Reverse<Vec<usize>>,
);

/// What brute force says of one group.
#[derive(Debug)]
pub(crate) struct Best {
    pub(crate) order: Vec<usize>,
    pub(crate) bandwidth: Bandwidth,
}

/// One machine of up to 16 GPUs.
pub(crate) struct Brute {
    count: usize,
    nvlink: Vec<Vec<u64>>,
    ancestor: Vec<Vec<u64>>,
    class: Vec<Vec<LinkClass>>,
    lanes: Vec<u64>,
    budget: Vec<u64>,
    numa: Vec<Option<NumaId>>,
    /// GPUs of each NUMA node and of each socket, and of an unknown one.
    by_numa: Vec<u32>,
    by_socket: Vec<u32>,
    nic: Vec<u64>,
    usable: u32,
    /// NVLink inside each set.
    inside: Vec<u64>,
    known: RefCell<HashMap<u32, Bandwidth>>,
    behind: RefCell<HashMap<u32, u64>>,
    whole: RefCell<HashMap<usize, (Bandwidth, u64)>>,
    rings: OnceCell<(Vec<Edge>, Vec<u16>)>,
}

// === impl Brute ===

impl Brute {
    pub(crate) fn new(status: &Status) -> Self {
        let count = status.gpus.len();
        let table = |cell: &dyn Fn(usize, usize) -> u64| -> Vec<Vec<u64>> {
            let row = |a| {
                (0..count)
                    .map(|b| if a == b { 0 } else { cell(a, b) })
                    .collect()
            };
            (0..count).map(row).collect()
        };
        let stated = table(&|a, b| stated_nvlink(status, a, b));
        let budget: Vec<u64> = (0..count)
            .map(|gpu| budget(status, gpu, &stated[gpu]))
            .collect();
        let has_budget = |a: usize, b: usize| budget[a] > 0 && budget[b] > 0;
        let nvlink = table(&|a, b| if has_budget(a, b) { stated[a][b] } else { 0 });
        let ancestor = table(&|a, b| ancestor(status, a, b));
        let class = |a: usize, b: usize| match (nvlink[a][b], ancestor[a][b]) {
            (1.., _) => LinkClass::NvLink,
            (_, 4..) => LinkClass::Switch,
            (_, 2..) => LinkClass::Numa,
            _ => LinkClass::Any,
        };
        let numa: Vec<Option<NumaId>> = status.gpus.iter().map(|gpu| gpu.numa_node).collect();
        let sockets: Vec<_> = numa.iter().map(|node| socket(status, *node)).collect();
        let usable = (0..count).filter(|gpu| status.gpus[*gpu].is_usable());
        let mut brute = Self {
            class: (0..count)
                .map(|a| (0..count).map(|b| class(a, b)).collect())
                .collect(),
            lanes: (0..count).map(|gpu| lanes(status, gpu)).collect(),
            by_numa: by_place(&numa),
            by_socket: by_place(&sockets),
            numa,
            nic: (0..count).map(|gpu| nic(status, gpu)).collect(),
            usable: usable.fold(0, |bits, gpu| bits | 1 << gpu),
            inside: Vec::new(),
            known: RefCell::default(),
            behind: RefCell::default(),
            whole: RefCell::default(),
            rings: OnceCell::new(),
            count,
            nvlink,
            ancestor,
            budget,
        };
        brute.inside = (0..1 << count)
            .map(|set| brute.nvlink_inside(set))
            .collect();
        brute
    }

    /// The best single group of `claim.gpu_count` out of `free`.
    pub(crate) fn best(&self, free: u32, claim: &GpuClaim) -> Option<Best> {
        let free = free & self.usable;
        let sets = sets(free, claim.gpu_count).filter(|set| self.is_allowed(*set, claim));
        let wished: Vec<(bool, Bandwidth, u32)> = sets
            .map(|set| (self.meets(set, claim.link), self.bandwidth(set), set))
            .collect();
        let first = wished
            .iter()
            .map(|(meets, bandwidth, _)| (*meets, *bandwidth))
            .max()?;
        // The rest of the objective is for those only that are best by its beginning.
        let level = wished.iter().filter(|set| (set.0, set.1) == first);
        let best = level.max_by_key(|set| self.worth(set.2, free, claim))?.2;
        Some(Best {
            bandwidth: self.bandwidth(best),
            order: self.ring(best),
        })
    }

    /// All sets, best first.
    pub(crate) fn ranked(&self, free: u32, claim: &GpuClaim) -> Vec<u32> {
        let free = free & self.usable;
        let sets = sets(free, claim.gpu_count).filter(|set| self.is_allowed(*set, claim));
        let mut ranked: Vec<u32> = sets.collect();
        ranked.sort_by_cached_key(|set| Reverse(self.worth(*set, free, claim)));
        ranked
    }

    /// What the worst of the groups has at best over every way to form them, with the link wish
    /// before.
    pub(crate) fn best_worst(&self, free: u32, claim: &GpuClaim) -> Option<(bool, Bandwidth)> {
        let size = claim.tensor_parallel_size.unwrap_or(claim.gpu_count);
        self.worst_of(free & self.usable, claim, (size, claim.gpu_count / size))
    }

    fn worst_of(
        &self,
        free: u32,
        claim: &GpuClaim,
        (size, count): (usize, usize),
    ) -> Option<(bool, Bandwidth)> {
        if count == 0 {
            return Some((true, (u8::MAX, 0, 0)));
        }
        let allowed = sets(free, size).filter(|set| self.is_allowed(*set, claim));
        let ways = allowed.filter_map(|set| {
            // Groups by their first: the order in which they are formed is no matter.
            let above = !((2 << set.trailing_zeros()) - 1);
            let others = self.worst_of(free & above & !set, claim, (size, count - 1))?;
            Some(others.min((self.meets(set, claim.link), self.bandwidth(set))))
        });
        ways.max()
    }

    pub(crate) fn bandwidth(&self, set: u32) -> Bandwidth {
        if let Some(known) = self.known.borrow().get(&set) {
            return *known;
        }
        let bandwidth = match members(set).as_slice() {
            [] | [_] => (3, 0, 0),
            of => {
                let budget = of.iter().map(|gpu| self.budget[*gpu]).min().unwrap();
                match self.least_cut(set).min(budget) {
                    0 => {
                        let (_, ancestor, lanes) = self.ring_weakest(set);
                        (1, ancestor, lanes)
                    }
                    cut => (2, cut, 0),
                }
            }
        };
        self.known.borrow_mut().insert(set, bandwidth);
        bandwidth
    }

    fn worth(&self, set: u32, free: u32, claim: &GpuClaim) -> Worth {
        let left = free & !set;
        let spans = if claim.numa == NumaPolicy::Any {
            (0, 0)
        } else {
            (spanned(&self.by_numa, set), spanned(&self.by_socket, set))
        };
        let nic = match claim.nic {
            NicPolicy::Near => members(set)
                .into_iter()
                .map(|gpu| self.nic[gpu])
                .min()
                .unwrap(),
            NicPolicy::Any => 0,
        };
        (
            self.meets(set, claim.link),
            self.bandwidth(set),
            Reverse(spans),
            nic,
            self.possible(left),
            Reverse(self.cut_off(set, left)),
            Reverse(members(set)),
        )
    }

    /// Quality in thousandths of the best group of 1, 2, 4 and 8, summed.
    pub(crate) fn possible(&self, free: u32) -> u64 {
        if let Some(known) = self.behind.borrow().get(&free) {
            return *known;
        }
        let best = |size| sets(free, size).map(|set| self.quality(set)).max();
        let sum = [1, 2, 4, 8].into_iter().filter_map(best).sum();
        self.behind.borrow_mut().insert(free, sum);
        sum
    }

    fn quality(&self, set: u32) -> u64 {
        let size = set.count_ones() as usize;
        let (best, nodes) = self.best_of_size(size);
        let bandwidth = match (self.bandwidth(set), best) {
            ((1, 0, lanes), (1, 0, of)) => scaled(lanes, of),
            ((1, rank, lanes), (1, best, of)) if rank == best && of > 0 => {
                scaled((rank - 1) * of + lanes, rank * of)
            }
            ((1, rank, _), (1, best, _)) => scaled(rank, best),
            ((2, part, _), (2, whole, _)) => scaled(part, whole),
            (one, best) if one.0 == best.0 => 500,
            _ => 0,
        };
        250 + bandwidth + 250 * nodes / spanned(&self.by_numa, set) as u64
    }

    /// The best bandwidth and the fewest NUMA nodes with every usable GPU free.
    fn best_of_size(&self, size: usize) -> (Bandwidth, u64) {
        if let Some(known) = self.whole.borrow().get(&size) {
            return *known;
        }
        let all = || sets(self.usable, size);
        let best = all().map(|set| self.bandwidth(set)).max().unwrap();
        let nodes = all().map(|set| spanned(&self.by_numa, set)).min().unwrap() as u64;
        self.whole.borrow_mut().insert(size, (best, nodes));
        (best, nodes)
    }

    fn cut_off(&self, set: u32, left: u32) -> [u64; 3] {
        let mut cut = [0; 3];
        for a in members(set) {
            for b in members(left) {
                cut[0] += self.nvlink[a][b];
                cut[1] += if self.nvlink[a][b] == 0 {
                    self.ancestor[a][b]
                } else {
                    0
                };
                cut[2] += u64::from(self.numa[a].is_some() && self.numa[a] == self.numa[b]);
            }
        }
        cut
    }

    fn is_allowed(&self, set: u32, claim: &GpuClaim) -> bool {
        let is_known = members(set).into_iter().all(|gpu| self.numa[gpu].is_some());
        let is_single = is_known && spanned(&self.by_numa, set) == 1;
        let is_linked = claim.link_policy == LinkPolicy::Prefer || self.meets(set, claim.link);
        is_linked && (claim.numa != NumaPolicy::Single || is_single)
    }

    fn meets(&self, set: u32, link: LinkClass) -> bool {
        let of = members(set);
        let mut pairs = of.iter().flat_map(|a| of.iter().map(move |b| (*a, *b)));
        pairs.all(|(a, b)| a == b || self.class[a][b] >= link)
    }

    fn nvlink_inside(&self, set: u32) -> u64 {
        let of = members(set);
        of.iter()
            .map(|a| {
                of.iter()
                    .filter(|b| *b > a)
                    .map(|b| self.nvlink[*a][*b])
                    .sum::<u64>()
            })
            .sum()
    }

    /// Every split of the set in two: what is inside neither part is between them.
    fn least_cut(&self, set: u32) -> u64 {
        let inside = |part: u32| self.inside[part as usize];
        let mut least = u64::MAX;
        let mut side = (set - 1) & set;
        while side != 0 {
            least = least.min(inside(set) - inside(side) - inside(set & !side));
            side = (side - 1) & set;
        }
        least
    }

    fn edge(&self, a: usize, b: usize) -> Edge {
        match self.nvlink[a][b] {
            0 => (0, self.ancestor[a][b], self.lanes[a].min(self.lanes[b])),
            joined => (joined, 0, 0),
        }
    }

    /// The first of the best rings: every order up to eight, subsets above.
    pub(crate) fn ring(&self, set: u32) -> Vec<usize> {
        let of = members(set);
        match of.len() {
            0..=2 => of,
            3..=8 => self.ring_by_orders(&of),
            _ => self.ring_by_subsets(&of),
        }
    }

    /// The weakest edge of the best ring.
    pub(crate) fn ring_weakest(&self, set: u32) -> Edge {
        let (worths, weakest) = self.rings.get_or_init(|| {
            let pairs = (0..self.count).flat_map(|a| (0..a).map(move |b| (a, b)));
            let worths: BTreeSet<Edge> = pairs.map(|(a, b)| self.edge(a, b)).collect();
            let worths: Vec<Edge> = worths.into_iter().collect();
            let weakest = self.all_rings(&worths);
            (worths, weakest)
        });
        worths[usize::from(weakest[set as usize])]
    }

    /// For each set the place among `worths` of its best ring's weakest edge, by the best paths from
    /// the lowest member through each subset to each of its members.
    fn all_rings(&self, worths: &[Edge]) -> Vec<u16> {
        let count = self.count;
        let place = |a: usize, b: usize| {
            let place = worths.partition_point(|worth| *worth < self.edge(a, b));
            u16::try_from(place).unwrap()
        };
        let edges: Vec<u16> = (0..count * count)
            .map(|cell| place(cell / count, cell % count))
            .collect();
        let edge = |a: usize, b: usize| edges[a * count + b];
        let mut paths = vec![0; count << count];
        let mut rings = vec![0; 1 << count];
        for set in 1_usize..1 << count {
            let first = set.trailing_zeros() as usize;
            let others = |set: usize| (first + 1..count).filter(move |gpu| set >> gpu & 1 == 1);
            for last in others(set) {
                let before = set & !(1 << last);
                let through = |from: usize| paths[before * count + from].min(edge(from, last));
                let best = others(before).map(through).max();
                let best = best.unwrap_or_else(|| edge(first, last));
                paths[set * count + last] = best;
                rings[set] = rings[set].max(best.min(edge(last, first)));
            }
        }
        rings
    }

    pub(crate) fn weakest(&self, order: &[usize]) -> Edge {
        let around = order.iter().zip(order.iter().cycle().skip(1));
        around.map(|(a, b)| self.edge(*a, *b)).min().unwrap()
    }

    pub(crate) fn ring_by_orders(&self, of: &[usize]) -> Vec<usize> {
        let mut best: Option<(Edge, Vec<usize>)> = None;
        let mut order = of.to_vec();
        // Ascending: only a better one replaces what came before.
        loop {
            let weakest = self.weakest(&order);
            if best.as_ref().is_none_or(|(best, _)| weakest > *best) {
                best = Some((weakest, order.clone()));
            }
            if !next_order(&mut order[1..]) {
                return best.unwrap().1;
            }
        }
    }

    /// As [`Self::ring_by_orders`], by the best paths through subsets.
    pub(crate) fn ring_by_subsets(&self, of: &[usize]) -> Vec<usize> {
        let paths = self.paths(of);
        let best = self.closed(of, &paths);
        let mut order = vec![of[0]];
        let mut left: usize = (1 << of.len()) - 2;
        while left != 0 {
            let here = *order.last().unwrap();
            let mut next = (1..of.len()).filter(|next| left >> next & 1 == 1);
            // The rest of the ring, read from its end: a path from the first to `next`.
            let leads = |next: &usize| {
                self.edge(here, of[*next]) >= best && paths[(left | 1) * of.len() + next] >= best
            };
            let next = next.find(leads).unwrap();
            order.push(of[next]);
            left &= !(1 << next);
        }
        order
    }

    fn closed(&self, of: &[usize], paths: &[Edge]) -> Edge {
        let all = (1 << of.len()) - 1;
        let last = 1..of.len();
        last.map(|last| paths[all * of.len() + last].min(self.edge(of[last], of[0])))
            .max()
            .unwrap()
    }

    /// For each subset with the first and each of its members: the weakest edge of the best path
    /// from the first through all of the subset to that member.
    fn paths(&self, of: &[usize]) -> Vec<Edge> {
        let count = of.len();
        let mut paths = vec![(0, 0, 0); count << count];
        for set in (3..1_usize << count).step_by(2) {
            for last in (1..count).filter(|last| set >> last & 1 == 1) {
                let before = set & !(1 << last);
                let step = |from: usize| {
                    let so_far = if before == 1 {
                        (u64::MAX, u64::MAX, u64::MAX)
                    } else {
                        paths[before * count + from]
                    };
                    so_far.min(self.edge(of[from], of[last]))
                };
                let from = (0..count).filter(|from| before >> from & 1 == 1);
                let best = from
                    .filter(|from| before == 1 || *from != 0)
                    .map(step)
                    .max();
                paths[set * count + last] = best.unwrap();
            }
        }
        paths
    }

    /// Every GPU, by bits.
    pub(crate) fn all(&self) -> u32 {
        u32::try_from((1_u64 << self.count) - 1).unwrap()
    }
}

fn by_place(places: &[Option<NumaId>]) -> Vec<u32> {
    let distinct: BTreeSet<_> = places.iter().collect();
    let here = |place: &Option<NumaId>| {
        let gpus = (0..places.len()).filter(|gpu| places[*gpu] == *place);
        gpus.fold(0, |bits, gpu| bits | 1 << gpu)
    };
    distinct.into_iter().map(here).collect()
}

fn spanned(places: &[u32], set: u32) -> usize {
    places.iter().filter(|place| *place & set != 0).count()
}

fn scaled(part: u64, whole: u64) -> u64 {
    (500 * part).checked_div(whole).unwrap_or(500)
}

/// The next order of these, ascending; `false` after the last.
fn next_order(items: &mut [usize]) -> bool {
    let Some(up) = (1..items.len()).rev().find(|at| items[at - 1] < items[*at]) else {
        return false;
    };
    let greater = (up..items.len())
        .rev()
        .find(|at| items[*at] > items[up - 1])
        .unwrap();
    items.swap(up - 1, greater);
    items[up..].reverse();
    true
}

pub(crate) fn members(set: u32) -> Vec<usize> {
    (0..32).filter(|gpu| set >> gpu & 1 == 1).collect()
}

fn sets(of: u32, size: usize) -> impl Iterator<Item = u32> {
    let descending =
        std::iter::successors(Some(of), move |set| (*set != 0).then(|| (set - 1) & of));
    descending.filter(move |set| set.count_ones() as usize == size)
}
