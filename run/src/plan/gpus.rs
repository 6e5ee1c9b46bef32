//! From UUIDs to the indices that this container counts. Pure.

use berth_topology::places::Place;

use super::Error;
use crate::container::gpus::Gpus;
use crate::source::Origin;

/// How many of the container's GPUs an error names.
const NAMED_MAX: usize = 16;

/// Each rank's index; `None` for CPU ranks, for MIG instances, which have none, and where the
/// container's GPUs cannot be told.
pub(super) fn indices(
    places: &[Place],
    gpus: &Gpus,
    origin: &Origin,
) -> Result<Vec<Option<usize>>, Error> {
    let Gpus::Known(here) = gpus else {
        return Ok(vec![None; places.len()]);
    };
    let index = |place: &Place| match &place.gpu {
        None => Ok(None),
        Some(gpu) if is_mig(gpu) => Ok(None),
        Some(gpu) => match here.iter().position(|uuid| uuid == gpu) {
            Some(index) => Ok(Some(index)),
            None => Err(Error::NotHere {
                rank: place.rank,
                gpu: gpu.clone(),
                origin: origin.to_string(),
                has: named(here),
            }),
        },
    };
    places.iter().map(index).collect()
}

/// Whether a UUID is a MIG instance's.
pub(super) fn is_mig(uuid: &str) -> bool {
    uuid.starts_with("MIG-")
}

fn named(here: &[String]) -> String {
    let more = here.len().saturating_sub(NAMED_MAX);
    let mut names = here[..here.len() - more].join(", ");
    if here.is_empty() {
        names = "none".to_owned();
    } else if more > 0 {
        names = format!("{names} and {more} more");
    }
    names
}
