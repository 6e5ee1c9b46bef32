//! The committed CRD is the one that the types give.

use berth_topology::crd;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../daemonset/crd.yaml");
const HEADER: &str = "# Generated from the types in topology/: UPDATE_EXPECT=1 cargo test -p berth-topology --test crd\n";

#[test]
fn the_committed_definition_is_the_one_that_the_types_give() {
    let generated = HEADER.to_owned() + &serde_yaml_ng::to_string(&crd::definition()).unwrap();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(PATH, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        committed == generated,
        "daemonset/crd.yaml is stale: UPDATE_EXPECT=1 cargo test -p berth-topology --test crd"
    );
}

#[test]
fn the_status_keeps_fields_that_this_version_does_not_know() {
    let definition = serde_json::to_value(crd::definition()).unwrap();
    let status =
        &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
    assert_eq!(status["x-kubernetes-preserve-unknown-fields"], true);
    assert_eq!(
        status["properties"]["gpus"]["items"]["properties"]["cpus"]["type"],
        "string"
    );
}
