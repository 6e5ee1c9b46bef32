//! One GPU by itself: identity, memory, PCIe, NUMA, CPUs, fabric.

use berth_topology::cpus::CpuList;
use berth_topology::gpu::{Fabric, Gpu, Pcie};
use berth_topology::ids::NumaId;
use berth_topology::raw::{Answer, RawGpu, RawPci, RawSysfs};

use super::told::tame;
use super::unknowns::{NOT_SUPPORTED, Unknowns};
use super::{Found, details, fabric, mig};

/// What one GPU and its PCI device tell. NVLink and health take the other GPUs: see the caller.
pub(crate) fn assemble(found: &Found<'_>, sysfs: &RawSysfs, unknowns: &mut Unknowns) -> Gpu {
    let raw = found.raw;
    let mut facts = Facts {
        gpu: format!("gpu {}", found.index),
        unknowns,
        lacking: Vec::new(),
    };
    let pci = facts.pci(found, sysfs);
    let numa_node = facts.numa_node(raw, pci);
    Gpu {
        uuid: found.uuid.clone(),
        index: found.index,
        minor: facts.value("minor", "nvmlDeviceGetMinorNumber", &raw.minor),
        module_id: facts.feature("moduleId", "nvmlDeviceGetModuleId", &raw.module_id),
        model: facts
            .value("model", "nvmlDeviceGetName", &raw.name)
            .map(|name| tame(&name))
            .unwrap_or_default(),
        memory_bytes: facts.value(
            "memoryBytes",
            "nvmlDeviceGetMemoryInfo",
            &raw.memory_total_bytes,
        ),
        compute_capability: facts
            .value(
                "computeCapability",
                "nvmlDeviceGetCudaComputeCapability",
                &raw.compute_capability,
            )
            .map(|(major, minor)| format!("{major}.{minor}")),
        bus_id: found.bus_id.clone(),
        pcie: facts.pcie(raw),
        numa_node,
        memory_affinity: memory_affinity(raw, numa_node),
        memory_numa_node: raw.numa_node_id.value().copied().map(NumaId),
        cpus: facts.cpus(raw, pci),
        fabric: facts.fabric(raw),
        mig: mig::assemble(raw, &mut facts),
        c2c: details::c2c(raw, &mut facts),
        power: details::power(raw, &mut facts),
        temperatures: details::temperatures(raw, &mut facts),
        virtualization: details::virtualization(raw, &mut facts),
        not_supported: facts.into_lacking(raw),
        ..Gpu::default()
    }
}

/// Reads facts of one GPU and notes those that are unknown.
pub(super) struct Facts<'a> {
    /// `gpu 0`.
    pub(super) gpu: String,
    pub(super) unknowns: &'a mut Unknowns,
    /// What NVML says that it does not have.
    lacking: Vec<String>,
}

// === impl Facts ===

impl Facts<'_> {
    fn note(&mut self, fact: &str, why: impl Into<String>) {
        self.unknowns.note(&format!("{}: {fact}", self.gpu), why);
    }

    fn value<T: Clone>(&mut self, fact: &str, call: &str, answer: &Answer<T>) -> Option<T> {
        self.unknowns
            .value(&format!("{}: {fact}", self.gpu), call, answer)
            .cloned()
    }

    pub(super) fn optional<T: Clone>(
        &mut self,
        fact: &str,
        call: &str,
        answer: &Answer<T>,
    ) -> Option<T> {
        self.unknowns
            .optional(&format!("{}: {fact}", self.gpu), call, answer)
            .cloned()
    }

    /// As [`Facts::optional`], named among what the GPU lacks where it does.
    pub(super) fn feature<T: Clone>(
        &mut self,
        fact: &str,
        call: &str,
        answer: &Answer<T>,
    ) -> Option<T> {
        self.note_lack(fact, answer);
        self.optional(fact, call, answer)
    }

    fn note_lack<T>(&mut self, fact: &str, answer: &Answer<T>) {
        if answer.error() == Some(NOT_SUPPORTED) {
            self.lacking.push(fact.to_owned());
        }
    }

    /// With what is read elsewhere, or without a complaint.
    fn into_lacking(mut self, raw: &RawGpu) -> Vec<String> {
        self.note_lack("memoryNumaNode", &raw.numa_node_id);
        self.note_lack("nvlink", &raw.nvlink_count);
        self.note_lack("ecc", &raw.ecc_uncorrected_volatile);
        self.note_lack("remapped rows", &raw.remapped_rows_pending);
        self.note_lack("retired pages", &raw.retired_pages_pending);
        self.note_lack("recovery action", &raw.recovery_action);
        self.lacking
    }

    /// Its device in sysfs.
    fn pci<'s>(&mut self, found: &Found<'_>, sysfs: &'s RawSysfs) -> Option<&'s RawPci> {
        let given = self.value("busId", "nvmlDeviceGetPciInfo", &found.raw.pci_bus_id)?;
        let Some(bus_id) = &found.bus_id else {
            self.note("busId", format!("NVML's {given:?} is not a PCI address"));
            return None;
        };
        sysfs.pci.get(bus_id.as_str())
    }

    fn pcie(&mut self, raw: &RawGpu) -> Option<Pcie> {
        let mut read = |fact: &str, call: &str, answer| {
            self.value(
                &format!("pcie {fact}"),
                &format!("nvmlDeviceGet{call}"),
                answer,
            )
        };
        let pcie = Pcie {
            generation: read("generation", "CurrPcieLinkGeneration", &raw.pcie_generation),
            width: read("width", "CurrPcieLinkWidth", &raw.pcie_width),
            max_generation: read(
                "maxGeneration",
                "MaxPcieLinkGeneration",
                &raw.pcie_max_generation,
            ),
            max_width: read("maxWidth", "MaxPcieLinkWidth", &raw.pcie_max_width),
        };
        (pcie != Pcie::default()).then_some(pcie)
    }

    /// sysfs decides; where NVML's memory affinity says otherwise, that is noted.
    fn numa_node(&mut self, raw: &RawGpu, pci: Option<&RawPci>) -> Option<NumaId> {
        let node = match pci.map(|pci| pci.numa_node.as_deref()) {
            Some(Some(text)) => numa_id(text),
            Some(None) => Err("sysfs has no numa_node for it".to_owned()),
            None => Err("sysfs does not list its PCI device".to_owned()),
        };
        match node {
            Ok(node) => {
                self.compare_memory_affinity(raw, node);
                Some(node)
            }
            Err(why) => {
                self.note("numaNode", why);
                None
            }
        }
    }

    fn compare_memory_affinity(&mut self, raw: &RawGpu, node: NumaId) {
        let Some(nodes) = raw.memory_affinity.value() else {
            return;
        };
        if !nodes.is_empty() && !nodes.contains(&node.0) {
            let why =
                format!("sysfs says {node}, NVML's memory affinity {nodes:?}; sysfs is taken");
            self.note("numaNode", why);
        }
    }

    /// sysfs decides; NVML helps out.
    fn cpus(&mut self, raw: &RawGpu, pci: Option<&RawPci>) -> Option<CpuList> {
        let local = pci.and_then(|pci| pci.local_cpulist.as_deref());
        let by_nvml = raw.cpu_affinity.value().filter(|cpus| !cpus.is_empty());
        let by_sysfs = match local.map(str::parse::<CpuList>) {
            Some(Ok(cpus)) if !cpus.is_empty() => Some(cpus),
            Some(Err(error)) => {
                self.note("cpus", format!("sysfs local_cpulist: {error}"));
                None
            }
            _ => None,
        };
        match (by_sysfs, by_nvml) {
            (Some(cpus), Some(other)) if cpus.intersection(other).is_empty() => {
                let why = format!("sysfs says {cpus}, NVML's CPU affinity {other}; sysfs is taken");
                self.note("cpus", why);
                Some(cpus)
            }
            (Some(cpus), _) => Some(cpus),
            (None, Some(cpus)) => Some(cpus.clone()),
            (None, None) => {
                let nvml = raw.cpu_affinity.error().unwrap_or("an empty set");
                let why =
                    format!("sysfs has no local_cpulist for it; nvmlDeviceGetCpuAffinity: {nvml}");
                self.note("cpus", why);
                None
            }
        }
    }

    fn fabric(&mut self, raw: &RawGpu) -> Option<Fabric> {
        let told = self.feature("fabric", "nvmlDeviceGetGpuFabricInfo", &raw.fabric)?;
        fabric::membership(&told)
    }
}

/// The kernel writes -1 where the firmware does not say; that must not become node 0.
pub(crate) fn numa_id(text: &str) -> Result<NumaId, String> {
    match text.trim().parse::<i64>() {
        Ok(-1) => Err("sysfs numa_node is -1: the firmware does not say".to_owned()),
        Ok(node) => u32::try_from(node)
            .map(NumaId)
            .map_err(|_| format!("sysfs numa_node is {node}")),
        Err(_) => Err(format!("sysfs numa_node is {text:?}, not a number")),
    }
}

/// NUMA nodes near it, where NVML names more than the one that sysfs does.
fn memory_affinity(raw: &RawGpu, numa_node: Option<NumaId>) -> Option<CpuList> {
    let nodes = raw.memory_affinity.value()?;
    let says_more = nodes.len() > 1 || nodes.first().copied() != numa_node.map(|node| node.0);
    (says_more && !nodes.is_empty()).then(|| nodes.iter().copied().collect())
}
