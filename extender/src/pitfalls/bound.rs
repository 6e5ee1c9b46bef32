//! Who holds what: pods of others, pods that end, containers that share: 19 to 22.

use berth_topology::allocation::Allocation;
use berth_topology::gpu::HealthState;
use berth_topology::node::NodeTopology;

use super::*;

impl World {
    /// The node's agent lists what the kubelet gave.
    fn tell(&self, node: &str, allocations: Vec<Allocation>) {
        let mut told = topology(node);
        told.status.as_mut().unwrap().allocations = allocations;
        self.publish(&told);
    }

    pub(super) fn publish(&self, topology: &NodeTopology) {
        lock(&self.shared.service.index).apply_topology(topology);
    }

    fn delete(&self, uid: &str) {
        lock(&self.shared.service.index).delete_pod(uid);
    }
}

#[actix_web::test]
async fn p19_pods_of_other_schedulers_count_by_number_until_the_kubelet_names_their_gpus() {
    let world = world(cluster(&["a"]), None);
    world.see(&bound_by_other(pod("daemon", 3), "a"));
    assert_eq!(world.free("a").await, 5);
    world.tell("a", vec![allocation("daemon", "a", &[0, 1, 2])]);
    assert_eq!(world.free("a").await, 5, "the same three");
    world.create(&pod("p", 4));
    assert_eq!(world.bind(&pod("p", 4), "a").await, "");
    assert_eq!(world.assigned("p"), ["a-4", "a-5", "a-6", "a-7"]);
    world.create(&bound_by_other(pod("q", 1), "a"));
    let error = world.bind(&pod("q", 1), "a").await;
    assert_eq!(
        error,
        "the pod is already bound to this node, without an assignment of ours"
    );
}

#[actix_web::test]
async fn p19_a_static_pod_is_one_pod_although_the_kubelet_knows_it_by_another_uid() {
    let world = world(cluster(&["a"]), None);
    let hash = "5f2b8cf0b1a0f4f7b6f3b6c1d3a9e0d4";
    let mirror = annotated(pod("static", 2), "kubernetes.io/config.mirror", hash);
    world.see(&bound_by_other(mirror, "a"));
    let by_kubelet = Allocation {
        pod_uid: Some(hash.into()),
        ..allocation("static", "a", &[0, 1])
    };
    world.tell("a", vec![by_kubelet]);
    assert_eq!(world.free("a").await, 6, "not four");
    world.delete("u-static");
    assert_eq!(world.free("a").await, 6, "without its mirror it still runs");
    world.tell("a", Vec::new());
    assert_eq!(world.free("a").await, 8);
}

#[actix_web::test]
async fn p19_a_swap_by_the_kubelet_is_followed_until_both_pods_are_gone() {
    let world = world(cluster(&["a"]), None);
    world.see(&bound(pod("p", 2), "a", &[0, 1]));
    world.see(&bound(pod("q", 2), "a", &[2, 3]));
    world.tell("a", vec![allocation("p", "a", &[2, 3])]);
    assert_eq!(world.free("a").await, 4, "q is taken to have what p freed");
    world.delete("u-p");
    world.create(&pod("r", 6));
    assert_eq!(world.free("a").await, 6);
    world.tell(
        "a",
        vec![allocation("p", "a", &[2, 3]), allocation("q", "a", &[0, 1])],
    );
    assert_eq!(
        world.free("a").await,
        6,
        "a list that still names p is behind"
    );
    assert_eq!(world.bind(&pod("r", 6), "a").await, "");
    assert!(
        !world
            .assigned("r")
            .iter()
            .any(|gpu| ["a-0", "a-1"].contains(&gpu.as_str()))
    );
    world.delete("u-q");
    assert_eq!(world.free("a").await, 2);
}

#[actix_web::test]
async fn p20_a_finished_pod_frees_its_gpus_and_a_terminating_one_holds_them_until_it_is_gone() {
    let world = world(cluster(&["a"]), None);
    for phase in ["Succeeded", "Failed"] {
        let running = bound(pod("p", 8), "a", &ALL);
        world.see(&running);
        assert_eq!(world.free("a").await, 0);
        world.see(&in_phase(running, phase));
        assert_eq!(world.free("a").await, 8, "{phase}");
    }
    let mut terminating = bound(pod("q", 8), "a", &ALL);
    let at = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    terminating.metadata.deletion_timestamp = Some(at);
    world.see(&terminating);
    assert_eq!(world.free("a").await, 0);
    world.delete("u-q");
    assert_eq!(world.free("a").await, 8);
}

#[actix_web::test]
async fn p21_init_containers_run_in_the_gpus_of_the_others_and_several_containers_share_none() {
    let world = world(cluster(&["a"]), None);
    let mut both = pod("p", 4);
    let spec = both.spec.as_mut().unwrap();
    let named = |name: &str, count: &str| {
        let limits = json!({RESOURCE: count});
        serde_json::from_value(json!({"name": name, "resources": {"limits": limits}})).unwrap()
    };
    spec.init_containers = Some(vec![named("warm", "6")]);
    spec.containers.push(named("side", "2"));
    world.create(&both);
    assert_eq!(world.bind(&both, "a").await, "");
    let mut gpus = world.assigned("p");
    assert_eq!(gpus.len(), 6, "four and two; none for the init container");
    gpus.sort();
    gpus.dedup();
    assert_eq!(gpus.len(), 6);
    world.see(&world.api.pod("p"));
    assert_eq!(world.free("a").await, 2);
}

#[actix_web::test]
async fn p22_a_gpu_that_fails_or_vanishes_under_a_pod_costs_nobody_else_anything() {
    let world = world(cluster(&["a"]), None);
    world.see(&bound(pod("p", 2), "a", &[0, 1]));
    let mut failed = topology("a");
    failed.status.as_mut().unwrap().gpus[0].health.state = HealthState::Failed;
    world.publish(&failed);
    assert_eq!(world.free("a").await, 6);
    failed.status.as_mut().unwrap().gpus.remove(0);
    world.publish(&failed);
    assert_eq!(world.free("a").await, 6);
    world.delete("u-p");
    assert_eq!(world.free("a").await, 7);
}
