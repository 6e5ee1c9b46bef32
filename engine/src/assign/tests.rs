//! From what was said to where each rank runs.

use std::io::Write;

use super::*;

/// Four cores of two threads: CPU n and n + 4 are one core.
fn machine(allowed: &str) -> Machine {
    Machine {
        allowed: allowed.parse().unwrap(),
        core_of: (0..8).map(|cpu| (cpu, cpu % 4)).collect(),
        memory_nodes: "0-1".parse().unwrap(),
    }
}

fn allocation(ranks: &[(&str, Option<u32>)]) -> Identity {
    let rank = |(index, (cpus, node)): (usize, &(&str, Option<u32>))| {
        let node = node
            .map(|node| format!(",\"numaNode\":{node}"))
            .unwrap_or_default();
        format!("{{\"rank\":{index},\"gpu\":\"GPU-{index}\",\"cpus\":\"{cpus}\"{node}}}")
    };
    let ranks: Vec<String> = ranks.iter().enumerate().map(rank).collect();
    let text = format!("{{\"ranks\":[{}]}}", ranks.join(","));
    Identity {
        allocation: Some(text),
        ..Identity::default()
    }
}

fn show(places: &Places) -> String {
    let one = |place: &Place| {
        let node = place
            .numa_node
            .map(|node| format!(" node {node}"))
            .unwrap_or_default();
        let kept = if place.mask_kept { " kept" } else { "" };
        format!("{}: {}{node}{kept}", place.rank, place.cpus)
    };
    let places_shown: Vec<String> = places.places.iter().map(one).collect();
    format!("{} | {}", places.origin.label(), places_shown.join(" | "))
}

#[track_caller]
fn check(identity: &Identity, degree: Option<usize>, allowed: &str, expected: &str) {
    let places = resolve(identity, None, degree, &machine(allowed)).unwrap();
    assert_eq!(show(&places), expected);
}

#[test]
fn without_an_assignment_the_machine_is_split_by_whole_cores() {
    let nobody = Identity::default();
    check(&nobody, None, "0-7", "machine | 0: 0-7");
    check(&nobody, Some(2), "0-7", "machine | 0: 0-1,4-5 | 1: 2-3,6-7");
    check(
        &nobody,
        Some(3),
        "0-7",
        "machine | 0: 0-1,4-5 | 1: 2,6 | 2: 3,7",
    );
    check(&nobody, Some(2), "1,5", "machine | 0: 1 | 1: 5");
    check(
        &nobody,
        Some(3),
        "1,5",
        "machine | 0: 1,5 | 1: 1,5 | 2: 1,5",
    );
}

#[test]
fn ranks_with_the_same_cpus_share_them_and_others_keep_theirs() {
    let identity = allocation(&[("0-1,4-5", Some(0)), ("0-1,4-5", Some(0)), ("2", Some(1))]);
    check(
        &identity,
        None,
        "0-7",
        "allocation | 0: 0,4 node 0 | 1: 1,5 node 0 | 2: 2 node 1",
    );
}

#[test]
fn assigned_cpus_are_a_preference_within_our_own_mask() {
    check(
        &allocation(&[("0-5", None)]),
        Some(1),
        "4-7",
        "allocation | 0: 4-5",
    );
    check(
        &allocation(&[("64-127", None)]),
        None,
        "4-7",
        "allocation | 0: 4-7 kept",
    );
}

#[test]
fn a_rank_whose_cpus_are_all_foreign_keeps_the_mask_and_takes_no_share_from_others() {
    let identity = allocation(&[("0-1", None), ("64", None), ("0-1", None)]);
    check(
        &identity,
        None,
        "0-1",
        "allocation | 0: 0 | 1: 0-1 kept | 2: 1",
    );
}

#[test]
fn a_flag_that_contradicts_the_assignment_is_an_error() {
    let error = resolve(&allocation(&[("0", None)]), None, Some(2), &machine("0-7")).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("--tensor-parallel-size 2 contradicts"),
        "{error}"
    );
}

fn file(containers: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "{{\"schema\":\"berth.dev/v1alpha1\",\"podUid\":\"u1\",\"node\":\"n1\",\
         \"containers\":{containers}}}"
    );
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[track_caller]
fn check_file(identity: &Identity, containers: &str, expected: Result<&str, &str>) {
    let file = file(containers);
    let found = resolve(identity, Some(file.path()), None, &machine("0-7"));
    match (found, expected) {
        (Ok(places), Ok(expected)) => assert_eq!(show(&places), expected),
        (Err(error), Err(expected)) => {
            assert!(error.to_string().contains(expected), "{error}");
        }
        (found, _) => panic!("{found:?}"),
    }
}

const TWO: &str = "{\"a\":{\"ranks\":[{\"rank\":0,\"cpus\":\"1\"}]},\
                   \"b\":{\"ranks\":[{\"rank\":0,\"cpus\":\"2\"}]}}";

#[test]
fn the_file_is_read_for_this_container_of_this_pod_on_this_node() {
    let named = |container: &str, pod_uid: &str, node: &str| Identity {
        allocation: None,
        container: Some(container.to_owned()),
        pod_uid: Some(pod_uid.to_owned()),
        node: Some(node.to_owned()),
    };
    check_file(&named("b", "u1", "n1"), TWO, Ok("assignment | 0: 2"));
    check_file(&named("b", "u2", "n1"), TWO, Ok("machine | 0: 0-7"));
    check_file(&named("b", "u1", "n2"), TWO, Ok("machine | 0: 0-7"));
    check_file(
        &named("c", "u1", "n1"),
        TWO,
        Err("containers a, b, and this one is said to be"),
    );
    check_file(
        &Identity::default(),
        TWO,
        Err("nothing says which is this one"),
    );
    let sole = "{\"x\":{\"ranks\":[{\"rank\":0,\"cpus\":\"3\"}]}}";
    check_file(&Identity::default(), sole, Ok("assignment | 0: 3"));
    check_file(
        &Identity::default(),
        "{\"x\":{\"ranks\":[]}}",
        Err("has no ranks"),
    );
}

#[test]
fn a_file_that_was_asked_for_must_be_there_and_an_empty_one_says_nothing() {
    let missing = Path::new("/nonexistent/assignment");
    let error = resolve(&Identity::default(), Some(missing), None, &machine("0")).unwrap_err();
    assert!(
        error.to_string().contains("/nonexistent/assignment"),
        "{error}"
    );
    let empty = tempfile::NamedTempFile::new().unwrap();
    let places = resolve(
        &Identity::default(),
        Some(empty.path()),
        None,
        &machine("0"),
    )
    .unwrap();
    assert_eq!(places.origin, Origin::Machine);
}
