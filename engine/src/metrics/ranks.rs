//! Where ranks were put and where they really run: `berth_engine_rank_*`.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Labels, add, count};
use crate::assign::Origin;
use crate::rank::report::{self, Bind, RankReport};

/// Set once, after loading.
#[derive(Debug)]
pub(crate) struct RankSeries {
    info: Family<Labels, Gauge>,
    cpu_bind: Family<Labels, Gauge>,
    memory_bind: Family<Labels, Gauge>,
    cpu_count: Family<Labels, Gauge>,
    memory: Family<Labels, Gauge>,
}

// === impl RankSeries ===

impl RankSeries {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let mut family = |name, help| add(registry, name, help, Family::default());
        Self {
            info: family(
                "berth_engine_rank_info",
                "Where a rank was put and what it may use",
            ),
            cpu_bind: family(
                "berth_engine_rank_cpu_bind",
                "Whether its CPUs are those it was given",
            ),
            memory_bind: family(
                "berth_engine_rank_memory_bind",
                "Whether its memory policy is set",
            ),
            cpu_count: family("berth_engine_rank_cpus", "CPUs it may use"),
            memory: family(
                "berth_engine_memory_bytes",
                "This process by NUMA node, after loading",
            ),
        }
    }

    /// Exports and logs what each rank got.
    pub(crate) fn show(&self, origin: &Origin, ranks: &[RankReport]) {
        for rank in ranks {
            self.show_rank(origin, rank);
            log(origin, rank);
        }
        for (node, bytes) in report::memory_by_node() {
            let labels = vec![("numa_node", node.to_string())];
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.memory.get_or_create(&labels).set(bytes);
        }
    }

    fn show_rank(&self, origin: &Origin, rank: &RankReport) {
        let number = rank.place.rank.to_string();
        let state = |bind: Bind| vec![("rank", number.clone()), ("state", bind.label().to_owned())];
        self.info.get_or_create(&info_labels(origin, rank)).set(1);
        self.cpu_bind.get_or_create(&state(rank.cpu_bind)).set(1);
        self.memory_bind
            .get_or_create(&state(rank.memory_bind))
            .set(1);
        let cpu_count = rank.cpus_seen.as_ref().map_or(0, |cpus| cpus.len());
        self.cpu_count
            .get_or_create(&vec![("rank", number)])
            .set(count(cpu_count));
    }
}

fn log(origin: &Origin, rank: &RankReport) {
    let place = &rank.place;
    tracing::info!(
        rank = place.rank,
        origin = origin.label(),
        gpu = place.gpu,
        cpus = shown(rank.cpus_seen.as_ref()),
        numa_node = place.numa_node,
        cpu_bind = rank.cpu_bind.label(),
        memory_bind = rank.memory_bind.label(),
        "rank is ready"
    );
}

fn info_labels(origin: &Origin, rank: &RankReport) -> Labels {
    let place = &rank.place;
    vec![
        ("rank", place.rank.to_string()),
        ("gpu", place.gpu.clone().unwrap_or_default()),
        ("cpus", shown(rank.cpus_seen.as_ref())),
        ("cpus_assigned", shown(place.cpus_assigned.as_ref())),
        ("numa_node", shown(place.numa_node.as_ref())),
        ("thread_id", rank.thread_id.to_string()),
        ("origin", origin.label().to_owned()),
    ]
}

fn shown(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}
