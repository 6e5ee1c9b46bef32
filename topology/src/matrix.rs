//! The matrix of a node as `nvidia-smi topo -m` draws it: tab-separated, with its legend.
//!
//! Checked against outputs quoted in the issues that `machines/` names as sources.

use crate::gpu::Gpu;
use crate::link::Path;
use crate::nic::Nic;
use crate::node::Status;

const SELF_CELL: &str = " X ";
const LEGEND: &str = "
Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
  NODE = Connection traversing PCIe as well as the interconnect between PCIe Host Bridges within a NUMA node
  PHB  = Connection traversing PCIe as well as a PCIe Host Bridge (typically the CPU)
  PXB  = Connection traversing multiple PCIe bridges (without traversing the PCIe Host Bridge)
  PIX  = Connection traversing at most a single PCIe bridge
  NV#  = Connection traversing a bonded set of # NVLinks
";

/// The whole picture: header, one row for each GPU and NIC, the legends. Empty without GPUs.
#[must_use]
pub fn draw(status: &Status) -> String {
    if status.gpus.is_empty() {
        return String::new();
    }
    let nics = || status.nics.iter().enumerate();
    let mut lines = vec![header(status)];
    lines.extend(status.gpus.iter().map(|gpu| gpu_row(status, gpu)));
    lines.extend(nics().map(|(index, _)| nic_row(status, index)));
    let mut text = lines.join("\n") + "\n" + LEGEND;
    if !status.nics.is_empty() {
        text.push_str("\nNIC Legend:\n\n");
        text.extend(nics().map(|(index, nic)| format!("  NIC{index}: {}\n", nic.name)));
    }
    text
}

fn header(status: &Status) -> String {
    let gpus = status.gpus.iter().map(|gpu| format!("\tGPU{}", gpu.index));
    let nics = (0..status.nics.len()).map(|index| format!("\tNIC{index}"));
    let columns: String = gpus.chain(nics).collect();
    columns + "\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID"
}

fn gpu_row(status: &Status, gpu: &Gpu) -> String {
    let gpus = status.gpus.iter().map(|other| gpu_cell(status, gpu, other));
    let nics = status.nics.iter().map(|nic| nic_cell(nic, gpu).to_owned());
    let cells: Vec<String> = gpus.chain(nics).collect();
    let cpus = gpu
        .cpus
        .as_ref()
        .map(ToString::to_string)
        .filter(|cpus| !cpus.is_empty());
    let numa = match (&gpu.memory_affinity, gpu.numa_node) {
        (Some(list), _) => list.to_string(),
        (None, Some(id)) => id.to_string(),
        (None, None) => "N/A".to_owned(),
    };
    let own = gpu
        .memory_numa_node
        .map_or_else(|| "N/A".to_owned(), |id| id.to_string());
    format!(
        "GPU{}\t{}\t{}\t{numa}\t\t{own}",
        gpu.index,
        cells.join("\t"),
        cpus.as_deref().unwrap_or("N/A")
    )
}

/// A NIC's row ends after its last cell but keeps the tabs of the affinity columns.
fn nic_row(status: &Status, index: usize) -> String {
    let nic = &status.nics[index];
    let gpus = status.gpus.iter().map(|gpu| nic_cell(nic, gpu));
    let nics = (0..status.nics.len()).map(|other| nic_pair_cell(status, index, other));
    let cells: Vec<&str> = gpus.chain(nics).collect();
    format!("NIC{index}\t{}\t\t\t\t", cells.join("\t"))
}

fn gpu_cell(status: &Status, gpu: &Gpu, other: &Gpu) -> String {
    if gpu.uuid == other.uuid {
        return SELF_CELL.to_owned();
    }
    match status.link(&gpu.uuid, &other.uuid) {
        Some(link) => match &link.nvlink {
            Some(nvlink) if nvlink.lanes > 0 => format!("NV{}", nvlink.lanes),
            _ => link.path.abbreviation().to_owned(),
        },
        None => Path::Unknown.abbreviation().to_owned(),
    }
}

fn nic_cell(nic: &Nic, gpu: &Gpu) -> &'static str {
    let path = nic.paths.iter().find(|path| path.gpu == gpu.uuid);
    path.map_or(Path::Unknown, |path| path.path).abbreviation()
}

fn nic_pair_cell(status: &Status, one: usize, other: usize) -> &'static str {
    if one == other {
        return SELF_CELL;
    }
    let (first, second) = (&status.nics[one.min(other)], &status.nics[one.max(other)]);
    let path = first.nic_paths.iter().find(|path| path.nic == second.name);
    path.map_or(Path::Unknown, |path| path.path).abbreviation()
}
