//! What this container was assigned, and by whom.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use berth_topology::assignment::{self, ALLOCATION_ENV, ContainerAssignment, TEXT_BYTES_MAX};
use berth_topology::places::{self, ASSIGNMENT_PATH, Identity, Part};

/// Who said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The device plugin, for the devices that the kubelet really gave.
    Allocation,
    /// The extender, before the kubelet gave anything.
    File(PathBuf),
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Nothing for this container, and why.
    Nothing(String),
    /// Its ranks, at least one.
    Ranks(Origin, ContainerAssignment),
}

/// Why what was found cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `BERTH_ALLOCATION` is not one container's assignment.
    #[error("reading the environment variable {ALLOCATION_ENV}")]
    Allocation(#[source] assignment::Error),
    /// The file is there but cannot be read.
    #[error("reading the assignment file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system says.
        #[source]
        source: io::Error,
    },
    /// The file is no assignment, or does not say which container this is.
    #[error("the assignment file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: places::Error,
    },
    /// An assignment without ranks.
    #[error("the assignment of this container ({0}) has no ranks")]
    NoRanks(String),
}

/// Finds what was assigned: the environment's word before the file's.
///
/// # Errors
/// When something is there that cannot be used.
pub fn find(identity: &Identity, file: Option<&Path>) -> Result<Found, Error> {
    let found = match &identity.allocation {
        Some(text) => {
            let ranks = ContainerAssignment::decode(text).map_err(Error::Allocation)?;
            Found::Ranks(Origin::Allocation, ranks)
        }
        None => in_file(identity, file)?,
    };
    match found {
        Found::Ranks(origin, assigned) if assigned.ranks.is_empty() => {
            Err(Error::NoRanks(origin.to_string()))
        }
        found => Ok(found),
    }
}

fn in_file(identity: &Identity, file: Option<&Path>) -> Result<Found, Error> {
    let path = file.unwrap_or(Path::new(ASSIGNMENT_PATH)).to_path_buf();
    let text = match read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => {
            let reason = format!("neither {ALLOCATION_ENV} nor {ASSIGNMENT_PATH} is here");
            return Ok(Found::Nothing(reason));
        }
        Err(source) => return Err(Error::Io { path, source }),
        Ok(text) => text,
    };
    match identity.part_of(&text) {
        Err(source) => Err(Error::File { path, source }),
        Ok(Part::Nothing) => Ok(Found::Nothing(format!("{} is empty", path.display()))),
        Ok(Part::Foreign { pod_uid, node }) => Ok(Found::Nothing(format!(
            "{} is for pod {} on node {}, not for this one",
            path.display(),
            pod_uid.as_deref().unwrap_or("unknown"),
            node.as_deref().unwrap_or("unknown")
        ))),
        Ok(Part::Own(ranks)) => Ok(Found::Ranks(Origin::File(path), ranks)),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // One byte more than is allowed, so that the decoder sees that it is too long.
    let bound = TEXT_BYTES_MAX as u64 + 1;
    File::open(path)?.take(bound).read_to_string(&mut text)?;
    Ok(text)
}

// === impl Origin ===

impl Origin {
    /// Whether the devices are those that the kubelet gave.
    #[must_use]
    pub fn is_truth(&self) -> bool {
        *self == Self::Allocation
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Allocation => f.write_str(ALLOCATION_ENV),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocation(text: &str) -> Identity {
        Identity {
            allocation: Some(text.to_owned()),
            ..Identity::default()
        }
    }

    #[track_caller]
    fn check_error(found: Result<Found, Error>, expected: &str) {
        let error = anyhow::Error::new(found.unwrap_err());
        let text = format!("{error:#}");
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_broken_allocation_is_an_error_and_is_never_passed_over_for_the_file() {
        check_error(find(&allocation("{"), None), "reading the environment");
        check_error(find(&allocation("{\"ranks\":[]}"), None), "has no ranks");
        let twice = "{\"ranks\":[{\"rank\":0,\"gpu\":\"GPU-a\"},{\"rank\":1,\"gpu\":\"GPU-a\"}]}";
        check_error(find(&allocation(twice), None), "assigned twice");
        let gap = "{\"ranks\":[{\"rank\":1}]}";
        check_error(find(&allocation(gap), None), "not numbered from 0");
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        check_error(find(&allocation(&long), None), "longer than");
    }

    #[test]
    fn a_file_for_another_pod_says_nothing_and_one_that_was_asked_for_must_be_there() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "{\"schema\":\"berth.dev/v1alpha1\",\"podUid\":\"u1\",\
                    \"containers\":{\"a\":{\"ranks\":[{\"rank\":0}]}}}";
        std::fs::write(file.path(), text).unwrap();
        let named = |pod: &str| Identity {
            pod_uid: Some(pod.to_owned()),
            ..Identity::default()
        };
        let own = find(&named("u1"), Some(file.path())).unwrap();
        assert!(matches!(own, Found::Ranks(Origin::File(_), ranks) if ranks.ranks.len() == 1));
        let other = find(&named("u2"), Some(file.path())).unwrap();
        assert!(matches!(other, Found::Nothing(why) if why.contains("for pod u1")));
        let missing = find(&Identity::default(), Some(Path::new("/nonexistent/a")));
        check_error(missing, "/nonexistent/a");
    }
}
