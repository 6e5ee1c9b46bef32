//! Random machines of the kinds that are built, and of kinds that are not. The same seed gives the
//! same machine.

use berth_topology::gpu::{GpuNvLink, HealthState, Pcie};
use berth_topology::ids::NumaId;
use berth_topology::link::Path;
use berth_topology::nic::{Nic, NicPath};
use berth_topology::node::Status;

use crate::wiring::{Pair, machine, uuid};

/// Numbers from a seed (SplitMix64: Steele, Lea and Flood 2014).
pub(crate) struct Seeded(pub(crate) u64);

/// How a machine is wired.
#[derive(Clone, Copy)]
enum Kind {
    /// NVLinks from GPU to GPU, some of several lanes.
    Mesh,
    /// Every GPU behind NVSwitches.
    Switch,
    /// NVLink bridges between pairs.
    Bridges,
    /// Groups that NVLink joins all to all, and PCIe between them.
    Islands,
    /// PCIe alone.
    Tree,
    /// Anything.
    Chaos,
}

const KINDS: [Kind; 6] = [
    Kind::Mesh,
    Kind::Switch,
    Kind::Bridges,
    Kind::Islands,
    Kind::Tree,
    Kind::Chaos,
];
const PATHS: [Path; 7] = [
    Path::Board,
    Path::Switch,
    Path::Switches,
    Path::HostBridge,
    Path::Node,
    Path::System,
    Path::Unknown,
];

// === impl Seeded ===

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Any of 0 to `count` - 1.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % count as u64).unwrap()
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Any of the bits set in `of`, each about as likely as not.
    pub(crate) fn bits(&mut self, of: u32) -> u32 {
        of & u32::try_from(self.next() >> 32).unwrap()
    }
}

/// A machine of `count_min` to `count_max` GPUs.
pub(crate) fn graph(seed: u64, count_min: usize, count_max: usize) -> Status {
    let mut seeded = Seeded(seed);
    let count = count_min + seeded.below(count_max - count_min + 1);
    let kind = seeded.pick(&KINDS);
    let nodes = seeded.pick(&[1, 2, 2, 4]);
    let numa: Vec<u32> = (0..count)
        .map(|gpu| u32::try_from(gpu * nodes / count).unwrap())
        .collect();
    let pairs = wiring(&mut seeded, kind, &numa);
    let mut status = machine(&numa, |a, b| pairs[a * count + b]);
    budgets(&mut seeded, &mut status, kind);
    wear(&mut seeded, &mut status);
    distances(&mut seeded, &mut status);
    if seeded.one_in(3) {
        cards(&mut seeded, &mut status);
    }
    status
}

fn wiring(seeded: &mut Seeded, kind: Kind, numa: &[u32]) -> Vec<Pair> {
    let count = numa.len();
    let (density, size) = (1 + seeded.below(4), 2 + seeded.below(3));
    let far = seeded.pick(&[Path::System, Path::Node]);
    let mut pairs = vec![(Path::Unknown, 0.0); count * count];
    for a in 0..count {
        for b in a + 1..count {
            let near = match (a / 2 == b / 2, a / 4 == b / 4) {
                (true, _) => Path::Switch,
                (_, true) => Path::Switches,
                _ => Path::Node,
            };
            let path = if numa[a] == numa[b] { near } else { far };
            let nvlink = match kind {
                Kind::Mesh if seeded.below(4) < density => seeded.pick(&[25.0, 50.0, 75.0]),
                Kind::Switch => 300.0,
                Kind::Bridges if a / 2 == b / 2 => 100.0,
                Kind::Islands if a / size == b / size => 150.0,
                Kind::Chaos if seeded.below(4) < density => seeded.pick(&[25.0, 50.0, 100.0]),
                _ => 0.0,
            };
            let is_odd = matches!(kind, Kind::Chaos) || seeded.one_in(20);
            let path = if is_odd { seeded.pick(&PATHS) } else { path };
            // A pair that lost lanes.
            let lost = nvlink > 0.0 && seeded.one_in(15);
            let nvlink = if lost {
                seeded.pick(&[0.0, 25.0])
            } else {
                nvlink
            };
            pairs[a * count + b] = (path, nvlink);
        }
    }
    pairs
}

fn budgets(seeded: &mut Seeded, status: &mut Status, kind: Kind) {
    let whole = match kind {
        Kind::Switch => 300.0,
        Kind::Mesh | Kind::Islands => 150.0,
        Kind::Bridges | Kind::Tree | Kind::Chaos => return,
    };
    for gpu in &mut status.gpus {
        let is_worn = seeded.one_in(8);
        let share = if is_worn {
            seeded.pick(&[0.0, 0.25, 0.5])
        } else {
            1.0
        };
        gpu.nvlink = Some(GpuNvLink {
            lanes: u32::from(share > 0.0),
            lanes_expected: 1,
            gb_per_second: whole * share,
        });
    }
}

/// Degraded PCIe, failed and lost GPUs, unknown places, pairs stated twice or not at all.
fn wear(seeded: &mut Seeded, status: &mut Status) {
    for gpu in &mut status.gpus {
        if seeded.one_in(6) {
            gpu.pcie = Some(Pcie {
                generation: seeded.pick(&[None, Some(3), Some(4), Some(5)]),
                width: Some(seeded.pick(&[4, 8, 16])),
                ..Pcie::default()
            });
        }
        if seeded.one_in(15) {
            gpu.health.state = seeded.pick(&[HealthState::Degraded, HealthState::Failed]);
        }
        if seeded.one_in(25) {
            gpu.numa_node = None;
        }
    }
    if seeded.one_in(6) {
        let lost = seeded.below(status.links.len() + 1);
        status.links.truncate(lost.max(status.links.len() / 2));
    }
    if !status.links.is_empty() && seeded.one_in(6) {
        let mut again = status.links[seeded.below(status.links.len())].clone();
        std::mem::swap(&mut again.a, &mut again.b);
        again.path = seeded.pick(&PATHS);
        again.nvlink = None;
        status.links.push(again);
    }
}

/// None, all alike, or two packages.
fn distances(seeded: &mut Seeded, status: &mut Status) {
    let (kind, count) = (seeded.below(4), status.numa.len());
    let odd = seeded.pick(&[12, 12, 12, 32, 40]);
    for (a, node) in status.numa.iter_mut().enumerate() {
        let distance = |b: usize| match kind {
            _ if a == b => 10,
            1 => 21,
            2 if a / 2 == b / 2 => 12,
            3 if a + b == 1 => odd,
            _ => 32,
        };
        if kind > 0 {
            node.distances = (0..count).map(distance).collect();
        }
    }
}

fn cards(seeded: &mut Seeded, status: &mut Status) {
    let mut path = |gpu| NicPath {
        gpu: uuid(gpu),
        path: seeded.pick(&PATHS),
    };
    let paths = (0..status.gpus.len()).map(&mut path).collect();
    status.nics = vec![Nic {
        name: "mlx5_0".to_owned(),
        rdma: true,
        paths,
        numa_node: Some(NumaId(0)),
        ..Nic::default()
    }];
}
