//! The variables that engines and frameworks understand, and whose word counts. Pure.
//!
//! Only what is certain: a variable that may be wrong for some engine is worse than none.
//!
//! * `OMP_NUM_THREADS` only where a process is one rank. An engine that forks its workers hands
//!   them all the same environment, and vLLM measured that one thread each is best there, which it
//!   sets itself unless it finds the variable set.
//! * `OMP_PLACES` and `OMP_PROC_BIND` only for CPU ranks with a process each: they bind the main
//!   thread to its first core, and with it whatever it starts later, as NCCL's and data loaders'
//!   threads (pytorch/pytorch#91989, llnl/mpibind#41).
//! * NCCL: none. It reads the wiring itself and keeps to the affinity that it finds.

use berth_topology::cpus::CpuList;
use berth_topology::places::{Machine, Place};
use serde::Serialize;

use super::{Wish, gpus::is_mig};
use crate::container::Container;
use crate::container::gpus::Gpus;

const DEVICE_ORDER: &str = "CUDA_DEVICE_ORDER";
const BY_ADDRESS: &str = "PCI_BUS_ID";
const VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";
const VLLM_CPUS: &str = "VLLM_CPU_OMP_THREADS_BIND";
/// What a note shows of a foreign value.
const SHOWN_CHARS_MAX: usize = 80;

/// One variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it is to be.
    pub value: String,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// Whose word counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It is set; the environment had none.
    Set,
    /// The environment has that very value.
    Same,
    /// The environment's own value stays.
    Kept(String),
    /// The environment's own value goes.
    Replaced(String),
}

/// What the variables of every process come from.
pub(super) struct Values<'a> {
    pub(super) container: &'a Container,
    places: &'a [Place],
    indices: &'a [Option<usize>],
    wish: &'a Wish,
}

// === impl Values ===

impl<'a> Values<'a> {
    pub(super) fn new(
        places: &'a [Place],
        indices: &'a [Option<usize>],
        container: &'a Container,
        wish: &'a Wish,
    ) -> Self {
        Self {
            container,
            places,
            indices,
            wish,
        }
    }

    /// Those of one rank's process, or of the one process that is all ranks.
    pub(super) fn of(&self, rank: Option<usize>) -> Vec<Variable> {
        let mut wanted = self.cuda(rank);
        match (rank, self.places) {
            (Some(rank), _) => wanted.extend(self.own(rank)),
            (None, [only]) => wanted.extend([(THREADS, cores(only, self.machine()))]),
            (None, _) => {}
        }
        if rank.is_none() && self.are_cpu_ranks() {
            wanted.push((VLLM_CPUS, lists(self.places)));
        }
        let mut variables: Vec<Variable> = wanted
            .into_iter()
            .map(|(name, value)| self.decided(name, value, false))
            .collect();
        // An inherited rank would make all of them the same one.
        let numbers = rank.map(|rank| self.numbers(rank)).into_iter().flatten();
        variables.extend(numbers.map(|(name, value)| self.decided(name, value, true)));
        variables
    }

    /// What the user should know about the values, whoever sets them.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let gpu_count = self.places.iter().filter(|place| place.gpu.is_some());
        if let (Gpus::Unknown(reason), true) = (&self.container.gpus, self.has_whole_gpus()) {
            notes.push(format!(
                "{VISIBLE_DEVICES} gets UUIDs, for which some releases of vLLM stop: which index \
                 a GPU has here cannot be told ({reason})"
            ));
        }
        if self.has_mig() && gpu_count.count() > 1 && !self.wish.per_rank {
            notes.push(
                "CUDA uses only the first MIG instance of a process: --per-rank gives each its own"
                    .to_owned(),
            );
        }
        if self.has_whole_gpus() && !self.counts_by_address() {
            notes.push(format!(
                "{VISIBLE_DEVICES} gets UUIDs: indices mean what was decided only with \
                 {DEVICE_ORDER}={BY_ADDRESS}"
            ));
        }
        notes
    }

    fn cuda(&self, rank: Option<usize>) -> Vec<(&'static str, String)> {
        if self.are_cpu_ranks() {
            return Vec::new();
        }
        vec![
            (DEVICE_ORDER, BY_ADDRESS.to_owned()),
            (VISIBLE_DEVICES, self.visible(rank)),
        ]
    }

    /// Every rank sees all GPUs, as torchrun's programs expect; of MIG instances a process can use
    /// one only.
    fn visible(&self, rank: Option<usize>) -> String {
        let uuids = || self.places.iter().filter_map(|place| place.gpu.clone());
        if self.has_mig() {
            let own = rank.and_then(|rank| self.places[rank].gpu.clone());
            return own.unwrap_or_else(|| uuids().collect::<Vec<_>>().join(","));
        }
        let by_index = self.indices.iter().flatten().map(usize::to_string);
        let by_index: Vec<String> = by_index.collect();
        if by_index.len() == uuids().count() && self.counts_by_address() {
            by_index.join(",")
        } else {
            uuids().collect::<Vec<_>>().join(",")
        }
    }

    fn own(&self, rank: usize) -> Vec<(&'static str, String)> {
        let place = &self.places[rank];
        let mut own = vec![(THREADS, cores(place, self.machine()))];
        if self.are_cpu_ranks() {
            let places = omp_places(&place.cpus, self.machine());
            own.extend([
                ("OMP_PLACES", places),
                ("OMP_PROC_BIND", "close".to_owned()),
            ]);
        }
        let port = self.wish.master_port.to_string();
        own.extend([
            ("MASTER_ADDR", "127.0.0.1".to_owned()),
            ("MASTER_PORT", port),
        ]);
        own
    }

    fn numbers(&self, rank: usize) -> Vec<(&'static str, String)> {
        let (rank, count) = (rank.to_string(), self.places.len().to_string());
        vec![
            ("RANK", rank.clone()),
            ("LOCAL_RANK", rank),
            ("WORLD_SIZE", count.clone()),
            ("LOCAL_WORLD_SIZE", count),
        ]
    }

    fn decided(&self, name: &'static str, value: String, always: bool) -> Variable {
        let outcome = match self.container.environment.get(name) {
            None => Outcome::Set,
            Some(found) if *found == value => Outcome::Same,
            Some(found) if self.wish.replace || always => Outcome::Replaced(found.clone()),
            Some(found) => Outcome::Kept(found.clone()),
        };
        Variable {
            name,
            value,
            outcome,
        }
    }

    /// Whether CUDA will count GPUs by address, as the indices here are counted.
    fn counts_by_address(&self) -> bool {
        let own = self.container.environment.get(DEVICE_ORDER);
        self.wish.replace || own.is_none_or(|order| order == BY_ADDRESS)
    }

    fn has_mig(&self) -> bool {
        let mut gpus = self.places.iter().filter_map(|place| place.gpu.as_deref());
        gpus.any(is_mig)
    }

    fn has_whole_gpus(&self) -> bool {
        !self.are_cpu_ranks() && !self.has_mig()
    }

    fn are_cpu_ranks(&self) -> bool {
        self.places.iter().all(|place| place.gpu.is_none())
    }

    fn machine(&self) -> &Machine {
        &self.container.machine
    }
}

const THREADS: &str = "OMP_NUM_THREADS";

fn cores(place: &Place, machine: &Machine) -> String {
    machine.cores(&place.cpus).len().max(1).to_string()
}

/// `{0,4},{1,5}`: a place for each core.
fn omp_places(cpus: &CpuList, machine: &Machine) -> String {
    let place = |core: Vec<u32>| {
        let cpus: Vec<String> = core.iter().map(u32::to_string).collect();
        format!("{{{}}}", cpus.join(","))
    };
    let places: Vec<String> = machine.cores(cpus).into_iter().map(place).collect();
    places.join(",")
}

/// `0-3|4-7`: vLLM's form, one list for each rank.
fn lists(places: &[Place]) -> String {
    let lists: Vec<String> = places.iter().map(|place| place.cpus.to_string()).collect();
    lists.join("|")
}

// === impl Variable ===

impl Variable {
    /// Whether this program sets it.
    #[must_use]
    pub fn is_set_by_us(&self) -> bool {
        matches!(self.outcome, Outcome::Set | Outcome::Replaced(_))
    }

    /// A line where the environment said something else.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let shown = |value: &str| value.chars().take(SHOWN_CHARS_MAX).collect::<String>();
        let (name, value) = (self.name, &self.value);
        match &self.outcome {
            Outcome::Set | Outcome::Same => None,
            Outcome::Kept(found) => Some(format!(
                "{name}={} is kept, it would be {value} (--override replaces it)",
                shown(found)
            )),
            Outcome::Replaced(found) => Some(format!("{name}={} is replaced", shown(found))),
        }
    }
}
