//! The sets that a container could have on one node, and what decided between them.

use berth_placement::{Bandwidth, Criteria, Cut, GpuSet, Machine, Ranked, Ranking, ranked};
use berth_topology::claim::GpuClaim;
use berth_topology::ids::GpuUuid;
use serde::{Deserialize, Serialize};

use crate::node::Topology;

/// Sets told for each container.
const SETS_MAX: usize = 3;

/// One set of GPUs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetStory {
    /// Indices in rank order; of MIG instances those of the GPUs that they are part of.
    pub gpus: Vec<u32>,
    /// The same by UUID.
    pub uuids: Vec<GpuUuid>,
    /// What it is judged by, first to last, with units.
    pub criteria: Vec<(String, String)>,
    /// Why the set before it is better; absent for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_by: Option<Loss>,
}

/// The first criterion in which two sets differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Loss {
    /// Its name.
    pub criterion: String,
    /// What the better set has, with its unit.
    pub better: String,
    /// What this one has.
    pub this: String,
}

/// What [`sets`] found.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub set_count: usize,
    pub are_all_compared: bool,
    pub sets: Vec<SetStory>,
}

/// The best sets for one group, and of how many; none where no group fits.
pub(super) fn sets(topology: &Topology, free: GpuSet, claim: &GpuClaim) -> Told {
    let machine = &topology.machine;
    let Ranking {
        sets,
        candidate_count,
        is_complete,
    } = ranked(machine, free, claim, SETS_MAX).unwrap_or_default();
    let told = |(position, one): (usize, &Ranked)| {
        let before = position.checked_sub(1).and_then(|before| sets.get(before));
        let indices = one.order.iter().map(|at| machine.index(*at).0);
        SetStory {
            gpus: indices.collect(),
            uuids: one
                .order
                .iter()
                .map(|at| machine.uuids()[*at].clone())
                .collect(),
            criteria: criteria(&one.criteria),
            lost_by: before.map(|best| Loss::of(machine, &best.criteria, &one.criteria)),
        }
    };
    Told {
        set_count: candidate_count,
        are_all_compared: is_complete,
        sets: sets.iter().enumerate().map(told).collect(),
    }
}

/// Each by its name, in words.
fn criteria(criteria: &Criteria) -> Vec<(String, String)> {
    let names = [
        "link wish",
        "bandwidth",
        "NUMA nodes",
        "sockets",
        "RDMA card",
        "what stays possible",
        "what is cut off",
    ];
    let known = names.into_iter();
    known
        .filter_map(|name| Some((name.to_owned(), value(criteria, name)?)))
        .collect()
}

/// What that criterion says of the set, with its unit; `None` where it was not asked for.
fn value(criteria: &Criteria, name: &str) -> Option<String> {
    let count = |count: Option<usize>| count.map(|count| count.to_string());
    Some(match name {
        "link wish" if criteria.meets_wish => "met".to_owned(),
        "link wish" => "not met".to_owned(),
        "bandwidth" => bandwidth(criteria.bandwidth),
        "NUMA nodes" => count(criteria.numa_nodes)?,
        "sockets" => count(criteria.sockets)?,
        "RDMA card" => ancestor(criteria.nic_rank?).to_owned(),
        "what stays possible" => groups(criteria.future),
        "what is cut off" => {
            let Cut {
                nvlink_mb_per_second,
                pcie,
                numa_neighbours,
            } = criteria.cut;
            let nvlink = gigabytes(nvlink_mb_per_second);
            format!("NVLink {nvlink}, PCIe {pcie}, NUMA neighbours {numa_neighbours}")
        }
        _ => return None,
    })
}

/// Groups that could be asked for next, each weighed by how good it would be.
fn groups(thousandths: u64) -> String {
    format!("{}.{:03} groups", thousandths / 1_000, thousandths % 1_000)
}

fn gigabytes(mb_per_second: u64) -> String {
    format!(
        "{}.{} GB/s",
        mb_per_second / 1_000,
        mb_per_second % 1_000 / 100
    )
}

fn bandwidth(bandwidth: Bandwidth) -> String {
    match bandwidth {
        Bandwidth::Alone => "one GPU".to_owned(),
        Bandwidth::NvLink { mb_per_second } => {
            format!("NVLink {:.1} GB/s", f64::from(mb_per_second) / 1_000.0)
        }
        Bandwidth::Pcie {
            ancestor_rank,
            lanes: 0,
        } => format!("PCIe {}", ancestor(ancestor_rank)),
        Bandwidth::Pcie {
            ancestor_rank,
            lanes,
        } => format!("PCIe {}, gen x width {lanes}", ancestor(ancestor_rank)),
    }
}

/// As `nvidia-smi topo -m` calls it.
fn ancestor(rank: u8) -> &'static str {
    match rank {
        6 => "one board",
        5 => "PIX",
        4 => "PXB",
        3 => "PHB",
        2 => "NODE",
        1 => "SYS",
        _ => "unknown",
    }
}

// === impl Loss ===

impl Loss {
    fn of(machine: &Machine, better: &Criteria, this: &Criteria) -> Self {
        let criterion = better.decided_by(this);
        let told = |criteria: &Criteria, other: &Criteria| match criterion {
            "what is cut off" => cut_but(&criteria.cut, &other.cut),
            "lowest index" => positions(machine, criteria.set),
            name => value(criteria, name).unwrap_or_default(),
        };
        Self {
            criterion: criterion.to_owned(),
            better: told(better, this),
            this: told(this, better),
        }
    }
}

/// The first part in which it differs from the other.
fn cut_but(cut: &Cut, other: &Cut) -> String {
    if cut.nvlink_mb_per_second != other.nvlink_mb_per_second {
        return format!("NVLink {}", gigabytes(cut.nvlink_mb_per_second));
    }
    if cut.pcie != other.pcie {
        return format!("PCIe closeness {}", cut.pcie);
    }
    format!("{} NUMA neighbours", cut.numa_neighbours)
}

fn positions(machine: &Machine, set: GpuSet) -> String {
    let indices = set.iter().map(|at| machine.index(at).0.to_string());
    let indices: Vec<String> = indices.collect();
    indices.join(",")
}
