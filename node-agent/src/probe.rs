//! Asks the machine: NVML for GPUs, sysfs for PCI and NUMA, hwloc for sockets and cores.
//!
//! Derives nothing: see [`crate::assemble`]. A call that fails is recorded as failed.

mod hwloc;
mod kubelet;
mod nvml;
mod stamp;
pub(crate) mod sysfs;
pub(crate) mod text;

use std::path::{Path, PathBuf};

use berth_topology::raw::{Answer, RawHwloc, RawKubelet, RawMachine};

pub use nvml::{Listener, Notice, Place};
pub(crate) use nvml::{nvml_error_name, nvml_uuid};
pub use stamp::Stamp;

use crate::configz::Told;

/// A recorded machine is some hundred kilobytes; sixteen GPUs with 36 links each stay far below.
const RECORD_BYTES_MAX: u64 = 16 << 20;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Where the answers come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// This machine.
    Machine(Paths),
    /// A file with a [`RawMachine`], read anew at each probe.
    Recorded(PathBuf),
}

/// Where this machine's facts are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// `libnvidia-ml`; the dynamic linker's `libnvidia-ml.so.1` if absent.
    pub nvml_library: Option<PathBuf>,
    /// Folder below which the library is looked for, where it is not named.
    pub driver_root: Option<PathBuf>,
    /// Root of sysfs.
    pub sysfs_root: PathBuf,
    /// hwloc's XML; this machine if absent.
    pub hwloc_xml: Option<PathBuf>,
    /// The kubelet's configuration; not read if absent.
    pub kubelet_config: Option<PathBuf>,
}

/// Asks again and again; keeps NVML open and hwloc's answer, which are dear to get.
#[derive(Debug)]
pub struct Probe {
    source: Source,
    nvml: nvml::Session,
    /// hwloc's answer, and the online CPUs that it was given for.
    hwloc: Option<(Option<String>, Answer<RawHwloc>)>,
    /// What the kubelet itself told, where it is asked.
    told: Option<Told>,
    /// As of the last look at all of this machine.
    last: Option<RawMachine>,
}

/// What a look found that asked only what may change.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Nothing else than before.
    Same,
    /// Something: everything was asked.
    Changed(Box<RawMachine>),
}

/// Why a recorded machine could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error("cannot read the recorded machine {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is in it.
    #[error("{path} is not a recorded machine (NAME.raw.json)")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

// === impl Paths ===

impl Paths {
    fn nvml(&self) -> Place<'_> {
        Place::of(self.nvml_library.as_deref(), self.driver_root.as_deref())
    }
}

// === impl Probe ===

impl Probe {
    /// A probe that has asked nothing yet.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self {
            source,
            nvml: nvml::Session::default(),
            hwloc: None,
            told: None,
            last: None,
        }
    }

    /// The same, which takes the kubelet's word for its configuration. A recorded machine has its own.
    #[must_use]
    pub fn told(self, told: Option<Told>) -> Self {
        Self { told, ..self }
    }

    /// Tells what happens to the GPUs of this machine between two looks; a recorded one is silent.
    #[must_use]
    pub fn listener(&self) -> Option<Listener> {
        match self.source {
            Source::Machine(_) => Some(self.nvml.listener()),
            Source::Recorded(_) => None,
        }
    }

    /// What is cheap to look at and tells that the machine has changed.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        match &self.source {
            Source::Machine(paths) => {
                Stamp::read(&paths.sysfs_root, paths.kubelet_config.as_deref())
                    .with_kubelet(self.kubelet())
            }
            Source::Recorded(_) => Stamp::default(),
        }
    }

    /// Asks what may change while a machine runs, and everything if that has changed.
    ///
    /// # Errors
    ///
    /// As [`Probe::read`].
    pub fn refresh(&mut self) -> Result<Found, Error> {
        let Source::Machine(paths) = &self.source else {
            return self.read().map(|raw| Found::Changed(Box::new(raw)));
        };
        let Some(last) = &mut self.last else {
            return self.read().map(|raw| Found::Changed(Box::new(raw)));
        };
        let before = pcie_of(last);
        let is_same = self.nvml.agrees_with(paths.nvml(), &mut last.nvml);
        match is_same {
            true if before == pcie_of(last) => Ok(Found::Same),
            true => Ok(Found::Changed(Box::new(last.clone()))),
            false => self.read().map(|raw| Found::Changed(Box::new(raw))),
        }
    }

    /// Asks everything once.
    ///
    /// # Errors
    ///
    /// Only for a recorded machine whose file cannot be read; a real machine always answers
    /// something.
    pub fn read(&mut self) -> Result<RawMachine, Error> {
        match self.source.clone() {
            Source::Machine(paths) => Ok(self.read_machine(&paths)),
            Source::Recorded(path) => read_recorded(&path),
        }
    }

    fn read_machine(&mut self, paths: &Paths) -> RawMachine {
        let sysfs = sysfs::read(&paths.sysfs_root);
        let raw = RawMachine {
            source: None,
            boot_id: text::read(Path::new(BOOT_ID)),
            driver_load: stamp::driver_load(&paths.sysfs_root).map(|inode| inode.to_string()),
            nvml: self.nvml.read(paths.nvml()),
            hwloc: self.read_hwloc(paths.hwloc_xml.as_deref(), sysfs.cpus_online.as_deref()),
            kubelet: self
                .kubelet()
                .or_else(|| paths.kubelet_config.as_deref().map(kubelet::read)),
            sysfs,
        };
        self.last = Some(raw.clone());
        raw
    }

    fn kubelet(&self) -> Option<Answer<RawKubelet>> {
        self.told.as_ref().map(|told| told.borrow().clone())
    }

    /// Discovery takes 100 ms on a large machine, and its answer changes only with hot-plugged CPUs.
    fn read_hwloc(&mut self, xml: Option<&Path>, online: Option<&str>) -> Answer<RawHwloc> {
        if let Some((read_for, answer)) = &self.hwloc
            && read_for.as_deref() == online
        {
            return answer.clone();
        }
        let answer = hwloc::read(xml);
        self.hwloc = Some((online.map(str::to_owned), answer.clone()));
        answer
    }
}

/// Generation and width of each GPU's PCIe link.
fn pcie_of(raw: &RawMachine) -> Vec<(Answer<u32>, Answer<u32>)> {
    let gpus = raw.nvml.value().map(|nvml| &nvml.gpus[..]);
    let gpus = gpus.unwrap_or_default().iter().filter_map(Answer::value);
    gpus.map(|gpu| (gpu.pcie_generation.clone(), gpu.pcie_width.clone()))
        .collect()
}

fn read_recorded(path: &Path) -> Result<RawMachine, Error> {
    let bytes = text::read_bounded(path, RECORD_BYTES_MAX).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Parse {
        path: path.to_owned(),
        source,
    })
}
