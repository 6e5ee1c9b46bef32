//! What tests of several modules speak of.

use std::path::Path;

use berth_topology::node::{NodeTopology, Status};

/// A recorded machine's topology: `recorded("dgx-h100")`.
pub(crate) fn recorded(machine: &str) -> Status {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../machines/{machine}.json"));
    let text = std::fs::read_to_string(path).expect("a recorded machine");
    let object: NodeTopology = serde_json::from_str(&text).expect("a NodeTopology");
    object.status.expect("a status")
}
