//! What tests of several modules speak of.

use std::path::Path;

use berth_topology::node::{NodeTopology, Status};
use berth_topology::raw::RawMachine;
use serde::de::DeserializeOwned;

/// A recorded machine's topology: `recorded("dgx-h100")`.
pub(crate) fn recorded(machine: &str) -> Status {
    let object: NodeTopology = read(&format!("{machine}.json"));
    object.status.expect("a status")
}

/// What a recorded machine answered.
pub(crate) fn recorded_raw(machine: &str) -> RawMachine {
    read(&format!("{machine}.raw.json"))
}

fn read<T: DeserializeOwned>(file: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../machines/{file}"));
    let text = std::fs::read_to_string(path).expect("a recorded machine");
    serde_json::from_str(&text).expect("what its name says")
}
