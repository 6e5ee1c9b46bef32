//! The command line of `tune`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::plan::Wish;
use crate::probe::Place;

/// Tells what of this machine costs an engine time; with `apply` changes what is asked for, until
/// it is ended.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Nothing is changed unless it is asked for by its flag and the step is `apply`. On SIGTERM or SIGINT
apply puts the former values back, except where somebody else has changed them since. With --state
the former values survive a kill: the next apply with the same file takes them up.

What is only reported: PCIe link width and speed, MaxReadReq, irqbalance.

Clocks are application clocks where the driver has them; else they are locked, and unlocked at the end.

Examples:
  berth-node-agent tune report
  berth-node-agent tune report --governor performance --irq-affinity -o json
  berth-node-agent tune apply --governor performance --irq-affinity --state /run/berth/tune.json
  berth-node-agent tune apply --persistence --gpu-clocks max
  berth-node-agent tune apply --huge-pages 0:2048:4096 --huge-pages 1:2048:4096")]
pub struct TuneArgs {
    /// Only tell, or change and put back at the end.
    pub step: Step,
    /// Scaling governor for every CPU, one that the kernel offers, such as `performance`.
    #[arg(long, value_name = "NAME")]
    pub governor: Option<String>,
    /// Interrupts of GPUs and network cards to the CPUs of their NUMA node.
    #[arg(long)]
    pub irq_affinity: bool,
    /// Huge pages of one size on one NUMA node, in all; may be given several times.
    #[arg(long, value_name = "NODE:SIZE_KB:COUNT")]
    pub huge_pages: Vec<HugePages>,
    /// Persistence mode of every GPU: the driver stays loaded when nobody uses it.
    #[arg(long)]
    pub persistence: bool,
    /// Graphics clock of every GPU in MHz, one that NVML says is supported, or `max`.
    #[arg(long, value_name = "MHZ|max")]
    pub gpu_clocks: Option<GpuClocks>,
    /// How it is printed.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
    /// Where former values are kept while they are changed.
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// `libnvidia-ml` [default: libnvidia-ml.so.1 of the dynamic linker].
    #[arg(long, value_name = "FILE")]
    pub nvml_library: Option<PathBuf>,
    /// Where the driver has its `/`: the library is looked for in the usual folders below it, and
    /// nowhere else.
    #[arg(
        long,
        env = "BERTH_DRIVER_ROOT",
        value_name = "DIR",
        conflicts_with = "nvml_library"
    )]
    pub driver_root: Option<PathBuf>,
    /// Where sysfs is mounted.
    #[arg(long, value_name = "DIR", default_value = "/sys")]
    pub sysfs_root: PathBuf,
    /// Where procfs is mounted.
    #[arg(long, value_name = "DIR", default_value = "/proc")]
    pub procfs_root: PathBuf,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Step {
    /// Writes nothing.
    Report,
    /// Changes, waits for a signal, restores.
    Apply,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

/// `max`, or a clock in MHz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuClocks {
    /// The highest that is supported.
    Max,
    /// This one.
    Mhz(u32),
}

/// `NODE:SIZE_KB:COUNT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugePages {
    /// The NUMA node.
    pub node: u32,
    /// Bytes of a page, divided by 1,024.
    pub size_kb: u64,
    /// Pages in all, not more pages.
    pub count: u64,
}

// === impl TuneArgs ===

impl TuneArgs {
    /// Where NVML's library is.
    #[must_use]
    pub fn nvml(&self) -> Place<'_> {
        Place::of(self.nvml_library.as_deref(), self.driver_root.as_deref())
    }

    /// What is asked for.
    #[must_use]
    pub fn wish(&self) -> Wish {
        Wish {
            governor: self.governor.clone(),
            irq_affinity: self.irq_affinity,
            huge_pages: self.huge_pages.clone(),
            persistence: self.persistence,
            gpu_clocks: self.gpu_clocks,
        }
    }
}

// === impl GpuClocks ===

impl FromStr for GpuClocks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "max" => Ok(Self::Max),
            text => text
                .parse()
                .map(Self::Mhz)
                .map_err(|_| "expected a clock in MHz, such as 1980, or max".to_owned()),
        }
    }
}

// === impl HugePages ===

impl FromStr for HugePages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Option<Vec<u64>> = text.split(':').map(|part| part.parse().ok()).collect();
        match parts.as_deref() {
            Some(&[node, size_kb, count]) if node < 1024 => Ok(Self {
                node: u32::try_from(node).map_err(|error| error.to_string())?,
                size_kb,
                count,
            }),
            _ => Err("expected NODE:SIZE_KB:COUNT, such as 0:2048:1024".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_the_highest_or_a_number() {
        assert_eq!("max".parse(), Ok(GpuClocks::Max));
        assert_eq!("1980".parse(), Ok(GpuClocks::Mhz(1980)));
        for wrong in ["", "1980MHz", "-1", "877,1530"] {
            assert!(wrong.parse::<GpuClocks>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn huge_pages_are_a_node_a_size_and_a_count() {
        let expected = HugePages {
            node: 1,
            size_kb: 2048,
            count: 512,
        };
        assert_eq!("1:2048:512".parse(), Ok(expected));
        for wrong in [
            "",
            "1:2048",
            "1:2048:512:3",
            "1:2M:512",
            "-1:2048:1",
            "5000:1:1",
        ] {
            assert!(wrong.parse::<HugePages>().is_err(), "{wrong:?}");
        }
    }
}
