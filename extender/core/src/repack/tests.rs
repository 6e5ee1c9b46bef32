//! Small clusters in which somebody is in the way.

use super::*;
use crate::fixtures::*;
use crate::index::Index;

fn plan(index: &mut Index, pod: &k8s_openapi::api::core::v1::Pod) -> Result<Plan, NoWay> {
    let claims = index.claims();
    repack(&snapshot(index), &claims, &ask(pod))
}

/// `a` has a pod of one GPU in each quad, `b` one quad free.
fn fragmented() -> Index {
    let mut index = cluster(&["a", "b"]);
    index.apply_pod(&bound(pod("left", 1), "a", &[0]));
    index.apply_pod(&bound(pod("right", 2), "a", &[4, 5]));
    index.apply_pod(&bound(pod("quad", 4), "b", &[0, 1, 2, 3]));
    index
}

fn joined(pod: k8s_openapi::api::core::v1::Pod) -> k8s_openapi::api::core::v1::Pod {
    let pod = annotated(pod, "berth.dev/link", "nvlink");
    annotated(pod, "berth.dev/link-policy", "require")
}

#[test]
fn a_pod_that_fits_moves_nobody() {
    let plan = plan(&mut fragmented(), &joined(pod("p", 4))).unwrap();
    assert_eq!((plan.node.as_str(), plan.moves.len()), ("b", 0));
}

#[test]
fn the_fewest_gpus_move_and_each_goes_where_it_fits() {
    let mut index = fragmented();
    index.apply_pod(&bound(pod("one", 1), "b", &[4]));
    let plan = plan(&mut index, &joined(pod("p", 4))).unwrap();
    assert_eq!(plan.moved_gpu_count, 1);
    assert_eq!((plan.node.as_str(), plan.gpus), ("a", vec![0, 1, 2, 3]));
    let moved = &plan.moves[0];
    assert_eq!(
        (moved.pod.as_str(), &moved.from_gpus),
        ("ns/left", &vec![0])
    );
    assert!(
        moved.to == "a" && moved.to_gpus[0] > 5 || moved.to == "b",
        "{moved:?}"
    );
}

#[test]
fn what_is_held_by_nobody_knows_whom_does_not_move() {
    let mut index = cluster(&["a"]);
    index.apply_pod(&bound_by_other(pod("stranger", 5), "a"));
    assert_eq!(plan(&mut index, &pod("p", 4)), Err(NoWay::NotEnough));
}

#[test]
fn for_a_pod_that_is_terminating_it_is_enough_to_wait() {
    let mut index = fragmented();
    index.apply_pod(&bound(pod("one", 1), "b", &[4]));
    index.apply_pod(&terminating(bound(pod("left", 1), "a", &[0])));
    let told = plan(&mut index, &joined(pod("p", 4))).unwrap();
    assert_eq!((told.moves.len(), told.moved_gpu_count), (0, 0));
    assert_eq!(told.waits_for, ["ns/left"]);
    assert_eq!((told.node.as_str(), told.gpus), ("a", vec![0, 1, 2, 3]));
    let fits = plan(&mut index, &joined(pod("p", 2))).unwrap();
    assert!(fits.waits_for.is_empty(), "{fits:?}");
}

#[test]
fn nobody_who_is_terminating_moves_and_what_has_to_be_gone_is_said() {
    let mut index = cluster(&["a"]);
    index.apply_pod(&terminating(bound(pod("goes", 1), "a", &[0])));
    index.apply_pod(&terminating(bound(pod("too", 1), "a", &[7])));
    index.apply_pod(&bound(pod("stays", 1), "a", &[1]));
    index.apply_pod(&bound(pod("beside", 2), "a", &[4, 5]));
    let told = plan(&mut index, &joined(pod("p", 4))).unwrap();
    let moved: Vec<&str> = told.moves.iter().map(|one| one.pod.as_str()).collect();
    assert_eq!(moved, ["ns/stays"]);
    assert_eq!(told.waits_for, ["ns/goes"]);
    assert_eq!(
        told.moves[0].to_gpus,
        [6],
        "the other one may still hold its GPU"
    );
}

#[test]
fn what_is_kept_for_the_pod_itself_is_not_in_its_way() {
    let mut index = cluster(&["a"]);
    index.apply_pod(&bound(pod("low", 4), "a", &[0, 1, 2, 3]));
    let waits = nominated(ranked(joined(pod("p", 4)), 5), "a");
    index.apply_pod(&waits);
    let told = plan(&mut index, &waits).unwrap();
    assert_eq!((told.moves.len(), told.gpus), (0, vec![4, 5, 6, 7]));
    let other = plan(&mut index, &joined(pod("other", 4)));
    assert!(other.is_err(), "{other:?}");
}

#[test]
fn no_plan_throws_somebody_out() {
    let mut index = cluster(&["a"]);
    index.apply_pod(&bound(pod("half", 4), "a", &[0, 1, 2, 3]));
    index.apply_pod(&bound(pod("two", 2), "a", &[4, 5]));
    let no = plan(&mut index, &joined(pod("p", 4))).unwrap_err();
    assert!(matches!(no, NoWay::NoOtherPlace { .. }), "{no}");
}

#[test]
fn a_pod_that_no_machine_could_take_says_so() {
    let no = plan(&mut fragmented(), &pod("p", 9)).unwrap_err();
    assert_eq!(
        no.to_string(),
        "no node could take the pod, whoever left: TooFewGpus on 2"
    );
}

proptest::proptest! {
    /// Whatever the cluster, when a plan's moves are done every pod has its GPUs and none has another's.
    #[test]
    fn plans_can_be_carried_out(
        residents in proptest::collection::vec((0_usize..3, 0_u32..8, 1_usize..4, proptest::bool::ANY), 1..9),
        wanted in 1_usize..8,
    ) {
        let mut index = cluster(&["a", "b", "c"]);
        let mut taken = HashSet::new();
        for (number, (node, first, count, is_leaving)) in residents.into_iter().enumerate() {
            let node = ["a", "b", "c"][node];
            let gpus: Vec<u32> = (first..8).take(count).collect();
            if gpus.iter().all(|gpu| taken.insert((node, *gpu))) {
                let pod = pod(&format!("r{number}"), gpus.len());
                let pod = bound(pod, node, &gpus);
                index.apply_pod(&if is_leaving { terminating(pod) } else { pod });
            }
        }
        let snapshot_before = snapshot(&mut index);
        let is_leaving = |name: &str| {
            let mut holders = snapshot_before.nodes().flat_map(|node| &node.holders);
            let holder = holders.find(|holder| format!("ns/{}", holder.name) == name);
            holder.is_some_and(|holder| holder.terms.is_terminating)
        };
        let Ok(plan) = plan(&mut index, &joined(pod("p", wanted))) else {
            return Ok(());
        };
        proptest::prop_assert!(plan.waits_for.iter().all(|pod| is_leaving(pod)));
        proptest::prop_assert!(!plan.moves.iter().any(|one| is_leaving(&one.pod)));
        for pod in &plan.waits_for {
            index.delete_pod(&format!("u-{}", pod.trim_start_matches("ns/")));
        }
        for one in &plan.moves {
            index.delete_pod(&format!("u-{}", one.pod.trim_start_matches("ns/")));
        }
        let moved = plan.moves.iter().enumerate();
        let placed = moved.map(|(number, one)| (format!("m{number}"), &one.to, &one.to_gpus));
        let all = placed.chain([("p".to_owned(), &plan.node, &plan.gpus)]);
        for (name, node, gpus) in all {
            let free = snapshot(&mut index).node(node).unwrap().room.free;
            proptest::prop_assert!(gpus.iter().all(|gpu| free.contains(*gpu as usize)));
            index.apply_pod(&bound(pod(&name, gpus.len()), node, gpus));
        }
    }
}
