//! Which ranks this engine has and where each is to run.
//!
//! ```text
//! BERTH_ALLOCATION (the truth) ─► assignment file (the intent) ─► the machine
//!                     each rank: its CPUs ∩ our own mask, split where ranks share them
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use berth_topology::assignment::{self, ALLOCATION_ENV, Assignment, ContainerAssignment, Rank};
use berth_topology::cpus::CpuList;

use crate::args::ASSIGNMENT_PATH;

mod machine;
mod split;

pub(crate) use machine::{Machine, list as machine_list};

/// What tells a process which container of which pod it is, from the downward API.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    /// `BERTH_ALLOCATION`: this container's own part, for the devices it really got.
    pub(crate) allocation: Option<String>,
    /// `BERTH_CONTAINER`.
    pub(crate) container: Option<String>,
    /// `BERTH_POD_UID`.
    pub(crate) pod_uid: Option<String>,
    /// `BERTH_NODE`.
    pub(crate) node: Option<String>,
}

/// One rank's place, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) rank: usize,
    /// UUID, for people: a CPU rank does not open it.
    pub(crate) gpu: Option<String>,
    /// What was asked for; absent when nothing was.
    pub(crate) cpus_assigned: Option<CpuList>,
    /// What the rank is pinned to, never empty on a sound machine.
    pub(crate) cpus: CpuList,
    /// None of the assigned CPUs may be used here, so the mask is the process's own.
    pub(crate) mask_kept: bool,
    pub(crate) numa_node: Option<u32>,
}

/// Where the ranks come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Allocation,
    File(PathBuf),
    Machine,
}

/// Ranks and where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) origin: Origin,
    pub(crate) places: Vec<Place>,
}

/// Why there are no ranks.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `BERTH_ALLOCATION` is not one container's assignment.
    #[error(
        "reading the environment variable {ALLOCATION_ENV}, which the device plugin sets (without \
         it the assignment file decides, else the machine)"
    )]
    Allocation(#[source] assignment::Error),
    /// The file is there but cannot be read.
    #[error(
        "reading the assignment file {} (--assignment names another; without one the machine is \
         shared out)",
        path.display()
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system says.
        #[source]
        source: io::Error,
    },
    /// The file is no assignment.
    #[error(
        "decoding the assignment file {}, which must be the annotation berth.dev/assignment",
        path.display()
    )]
    Decode {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: assignment::Error,
    },
    /// Several containers, and nobody said which we are; or a name that is not there.
    #[error(
        "the assignment has containers {names}, and {wanted}: set BERTH_CONTAINER to one of them"
    )]
    Container {
        /// Names in the assignment.
        names: String,
        /// What we know of ourselves.
        wanted: String,
    },
    /// An assignment without ranks.
    #[error(
        "the assignment of this container ({origin}) has no ranks: give it one for each part of \
         the model, or take it away"
    )]
    NoRanks {
        /// Where it comes from.
        origin: &'static str,
    },
    /// Flag and assignment disagree.
    #[error(
        "--tensor-parallel-size {flag} contradicts the assignment, which has {assigned} ranks: \
         leave the flag away or ask for {flag} in berth.dev/tensor-parallel-size"
    )]
    Degree {
        /// The flag.
        flag: usize,
        /// Ranks in the assignment.
        assigned: usize,
    },
}

/// Decides each rank's place.
///
/// # Errors
/// When an assignment is there but cannot be used, or contradicts the flag.
pub(crate) fn resolve(
    identity: &Identity,
    file: Option<&Path>,
    degree: Option<usize>,
    machine: &Machine,
) -> Result<Places, Error> {
    let (origin, ranks) = match find(identity, file)? {
        Some((origin, container)) => (origin, container.ranks),
        None => (Origin::Machine, anonymous_ranks(degree.unwrap_or(1))),
    };
    if ranks.is_empty() {
        return Err(Error::NoRanks {
            origin: origin.label(),
        });
    }
    if let Some(flag) = degree.filter(|flag| *flag != ranks.len()) {
        return Err(Error::Degree {
            flag,
            assigned: ranks.len(),
        });
    }
    Ok(Places {
        origin,
        places: split::places(&ranks, machine),
    })
}

fn anonymous_ranks(degree: usize) -> Vec<Rank> {
    (0..degree)
        .map(|rank| Rank {
            rank,
            ..Rank::default()
        })
        .collect()
}

fn find(
    identity: &Identity,
    file: Option<&Path>,
) -> Result<Option<(Origin, ContainerAssignment)>, Error> {
    if let Some(text) = &identity.allocation {
        let container = ContainerAssignment::decode(text).map_err(Error::Allocation)?;
        return Ok(Some((Origin::Allocation, container)));
    }
    let path = file.unwrap_or(Path::new(ASSIGNMENT_PATH));
    let text = match read(path) {
        // A pod without the annotation has no file, or an empty one.
        Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => return Ok(None),
        Err(source) => {
            return Err(Error::Io {
                path: path.to_path_buf(),
                source,
            });
        }
        Ok(text) if text.trim().is_empty() => return Ok(None),
        Ok(text) => text,
    };
    let assignment = Assignment::decode(&text).map_err(|source| Error::Decode {
        path: path.to_path_buf(),
        source,
    })?;
    if !is_ours(&assignment, identity) {
        return Ok(None);
    }
    let container = own_part(assignment, identity.container.as_deref())?;
    Ok(Some((Origin::File(path.to_path_buf()), container)))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // One byte more than is allowed, so that the decoder sees that it is too long.
    let bound = assignment::TEXT_BYTES_MAX as u64 + 1;
    File::open(path)?.take(bound).read_to_string(&mut text)?;
    Ok(text)
}

/// An assignment for another pod or node is ignored, as the contract says.
fn is_ours(assignment: &Assignment, identity: &Identity) -> bool {
    let differs = |written: Option<&str>, own: Option<&str>| matches!((written, own), (Some(written), Some(own)) if written != own);
    let pod_uid = assignment.pod_uid.as_ref().map(|uid| uid.as_str());
    let node = assignment.node.as_ref().map(|node| node.as_str());
    let other =
        differs(pod_uid, identity.pod_uid.as_deref()) || differs(node, identity.node.as_deref());
    if other {
        tracing::warn!(
            ?pod_uid,
            ?node,
            "the assignment is for another pod or node: ignored"
        );
    }
    !other
}

fn own_part(
    mut assignment: Assignment,
    container: Option<&str>,
) -> Result<ContainerAssignment, Error> {
    let names: Vec<String> = assignment.containers.keys().cloned().collect();
    let (found, wanted) = match (container, names.as_slice()) {
        (Some(name), _) => (
            assignment.containers.remove(name),
            format!("this one is said to be {name:?}"),
        ),
        (None, [only]) => (assignment.containers.remove(only), String::new()),
        (None, _) => (None, "nothing says which is this one".to_owned()),
    };
    found.ok_or_else(|| Error::Container {
        names: names.join(", "),
        wanted,
    })
}

// === impl Identity ===

impl Identity {
    /// From the environment.
    pub(crate) fn from_env() -> Self {
        let read = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            allocation: read(ALLOCATION_ENV),
            container: read("BERTH_CONTAINER"),
            pod_uid: read("BERTH_POD_UID"),
            node: read("BERTH_NODE"),
        }
    }
}

// === impl Origin ===

impl Origin {
    /// One word for logs and metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Allocation => "allocation",
            Self::File(_) => "assignment",
            Self::Machine => "machine",
        }
    }
}

#[cfg(test)]
mod tests;
