//! Which ranks this engine has and where each is to run.
//!
//! ```text
//! BERTH_ALLOCATION (the truth) ─► assignment file (the intent) ─► the machine
//!                     each rank: its CPUs ∩ our own mask, split where ranks share them
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use berth_topology::assignment::{self, ALLOCATION_ENV, ContainerAssignment, Rank};
use berth_topology::places::{self, ASSIGNMENT_PATH, Part, places};

mod machine;

pub(crate) use berth_topology::places::{Identity, Machine, Place};
pub(crate) use machine::{list as machine_list, read as read_machine};

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
    #[error(transparent)]
    Container(places::Error),
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
        places: places(&ranks, machine),
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
        Ok(text) => text,
    };
    let part = identity.part_of(&text).map_err(|error| match error {
        places::Error::Decode(source) => Error::Decode {
            path: path.to_path_buf(),
            source,
        },
        places::Error::Container { .. } => Error::Container(error),
    })?;
    match part {
        Part::Nothing => Ok(None),
        Part::Own(container) => Ok(Some((Origin::File(path.to_path_buf()), container))),
        Part::Foreign { pod_uid, node } => {
            tracing::warn!(
                ?pod_uid,
                ?node,
                "the assignment is for another pod or node: ignored"
            );
            Ok(None)
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // One byte more than is allowed, so that the decoder sees that it is too long.
    let bound = assignment::TEXT_BYTES_MAX as u64 + 1;
    File::open(path)?.take(bound).read_to_string(&mut text)?;
    Ok(text)
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
