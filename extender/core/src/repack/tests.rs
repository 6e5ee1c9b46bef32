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
        residents in proptest::collection::vec((0_usize..3, 0_u32..8, 1_usize..4), 1..9),
        wanted in 1_usize..8,
    ) {
        let mut index = cluster(&["a", "b", "c"]);
        let mut taken = HashSet::new();
        for (number, (node, first, count)) in residents.into_iter().enumerate() {
            let node = ["a", "b", "c"][node];
            let gpus: Vec<u32> = (first..8).take(count).collect();
            if gpus.iter().all(|gpu| taken.insert((node, *gpu))) {
                let pod = pod(&format!("r{number}"), gpus.len());
                index.apply_pod(&bound(pod, node, &gpus));
            }
        }
        let Ok(plan) = plan(&mut index, &joined(pod("p", wanted))) else {
            return Ok(());
        };
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
