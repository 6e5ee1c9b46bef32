//! Many pods, and more than one that decides: 10, 11, 18.

use std::collections::BTreeSet;

use futures::future::join_all;

use super::*;
use crate::http::tests::world_on;

/// The GPUs of every pod that the API server has bound, one by one.
fn given(world: &World) -> Vec<String> {
    let pods = lock(&world.api.state).pods.clone();
    let is_bound = |pod: &&Pod| {
        pod.spec
            .as_ref()
            .is_some_and(|spec| spec.node_name.is_some())
    };
    let bound = pods.values().filter(is_bound);
    let names = bound.filter_map(|pod| pod.metadata.name.clone());
    names.flat_map(|name| world.assigned(&name)).collect()
}

#[track_caller]
fn check_given(world: &World, count: usize) {
    let given = given(world);
    assert_eq!(given.len(), count);
    assert_eq!(
        given.iter().collect::<BTreeSet<_>>().len(),
        count,
        "no GPU twice"
    );
}

fn quad(name: &str) -> Pod {
    let wishing = annotated(pod(name, 4), "berth.dev/link", "nvlink");
    annotated(wishing, "berth.dev/link-policy", "require")
}

#[actix_web::test]
async fn p10_filters_and_binds_at_once_never_give_a_gpu_twice() {
    let world = world(cluster(&["a"]), None);
    let pods: Vec<Pod> = (0..12)
        .map(|number| pod(&format!("p{number}"), 2))
        .collect();
    pods.iter().for_each(|pod| world.create(pod));
    let binds = join_all(pods.iter().map(|pod| world.bind(pod, "a")));
    let filters = join_all(pods.iter().map(|pod| world.filter(pod, &["a"])));
    let (errors, _) = futures::future::join(binds, filters).await;
    let (bound, refused): (Vec<_>, Vec<_>) = errors.into_iter().partition(String::is_empty);
    assert_eq!(bound.len(), 4);
    let why = "the pod does not fit the node any more: not enough free GPUs";
    assert!(refused.iter().all(|error| error == why), "{refused:?}");
    check_given(&world, 8);
}

#[actix_web::test]
async fn p11_of_a_group_that_is_filtered_as_one_and_bound_as_one_the_rest_is_tried_again() {
    let world = world(cluster(&["a", "b"]), None);
    let group: Vec<Pod> = (0..5).map(|number| quad(&format!("p{number}"))).collect();
    group.iter().for_each(|pod| world.create(pod));
    // The whole group in one snapshot of kube-scheduler's, no bind in between.
    for pod in &group {
        assert_eq!(
            world.filter(pod, &["a", "b"]).await["NodeNames"],
            json!(["a", "b"])
        );
    }
    let to = ["a", "a", "a", "b", "b"];
    let errors = join_all(
        group
            .iter()
            .zip(to)
            .map(|(pod, node)| world.bind(pod, node)),
    )
    .await;
    let late = errors.iter().position(|error| !error.is_empty()).unwrap();
    assert_eq!(errors.iter().filter(|error| !error.is_empty()).count(), 1);
    assert_eq!(
        errors[late],
        "the pod does not fit the node any more: not enough free GPUs"
    );
    check_given(&world, 16);
    let leaving = (0..5).find(|number| *number != late).unwrap();
    lock(&world.shared.service.index).delete_pod(&format!("u-p{leaving}"));
    lock(&world.api.state).pods.remove(&format!("p{leaving}"));
    let answer = world.filter(&group[late], &["a", "b"]).await;
    let node = answer["NodeNames"][0].as_str().unwrap();
    assert_eq!(world.bind(&group[late], node).await, "");
    check_given(&world, 16);
}

#[actix_web::test]
async fn p11_a_burst_is_shown_the_promises_made_to_it_and_spreads_over_the_nodes() {
    let mut index = cluster(&["a", "b", "c"]);
    index.apply_pod(&bound(pod("on-a", 3), "a", &[5, 6, 7]));
    index.apply_pod(&bound(pod("on-b", 2), "b", &[6, 7]));
    let world = world(index, None);
    let nodes = ["a", "b", "c"];
    let pods = [quad("p"), quad("q"), quad("r")];
    for (pod, expected) in pods.iter().zip(nodes) {
        world.create(pod);
        assert_eq!(
            world.filter(pod, &nodes).await["NodeNames"],
            json!(nodes),
            "never refused"
        );
        assert_eq!(world.ranked(pod, &nodes).await[0], expected);
    }
    for (pod, node) in pods.iter().zip(nodes) {
        assert_eq!(world.bind(pod, node).await, "");
    }
    check_given(&world, 12);
}

#[actix_web::test]
async fn p18_of_two_extenders_one_binds_and_the_other_holds_nothing() {
    let first = world(cluster(&["a", "b"]), None);
    let second = world_on(first.api.clone(), cluster(&["a", "b"]), None);
    let pod = pod("p", 8);
    for world in [&first, &second] {
        world.create(&pod);
    }
    let both = futures::future::join(first.bind(&pod, "a"), second.bind(&pod, "b")).await;
    let (bound, error) = if both.0.is_empty() {
        ("a", both.1)
    } else {
        ("b", both.0)
    };
    assert_eq!(error, format!("the pod is already bound to node {bound}"));
    for world in [&first, &second] {
        world.see(&world.api.pod("p"));
        let free = [world.free("a").await, world.free("b").await];
        assert_eq!(free, if bound == "a" { [0, 8] } else { [8, 0] });
    }
    check_given(&first, 8);
}
