//! What a node says of itself, and when it is believed: 23, 24, 27, 28, 30.

use std::time::{Duration, Instant};

use berth_topology::gpu::{Mig, Sharing};
use berth_topology::ids::NumaId;
use berth_topology::kubelet::{Plugin, PluginOwner};
use berth_topology::numa::NumaNode;

use super::*;
use berth_extender_core::index::{Index, Kind};

#[actix_web::test]
async fn p23_gpus_are_known_by_uuid_when_a_reboot_renumbers_them() {
    let world = world(cluster(&["a"]), None);
    world.see(&bound(pod("p", 4), "a", &[0, 1, 2, 3]));
    let mut renumbered = topology("a");
    let gpus = &mut renumbered.status.as_mut().unwrap().gpus;
    gpus.iter_mut()
        .for_each(|gpu| gpu.index.0 = 7 - gpu.index.0);
    gpus.reverse();
    world.publish(&renumbered);
    world.create(&pod("q", 4));
    assert_eq!(world.bind(&pod("q", 4), "a").await, "");
    let mut gpus = world.assigned("q");
    gpus.sort();
    assert_eq!(gpus, ["a-4", "a-5", "a-6", "a-7"]);
}

#[actix_web::test]
async fn p24_a_node_whose_agent_is_silent_or_absent_is_refused_with_the_reason() {
    // Nothing is fresh: what was listed is old at once.
    let mut index = Index::new(RESOURCE, Duration::ZERO, Instant::now());
    index.reset_nodes(&[node("a"), node("b")]);
    index.reset_topologies(&[topology("a")]);
    index.reset_pods(Vec::new());
    index.reset_leases(&[renewed("a", 1)], Instant::now());
    let world = world(index, None);
    let stale = world.verdict(&pod("p", 1), "a").await;
    assert_eq!(stale, "never: the node agent has stopped reporting");
    let absent = "never: the node has published no GPU topology";
    assert_eq!(world.verdict(&pod("p", 1), "b").await, absent);
    world.create(&pod("p", 1));
    assert!(
        world
            .bind(&pod("p", 1), "a")
            .await
            .ends_with("the node agent has stopped reporting")
    );
    assert_eq!(
        world.verdict(&pod("no-gpu", 0), "a").await,
        "fits",
        "none of our business"
    );
    let (_, metrics) = world.get("/metrics").await;
    assert!(
        metrics.contains("berth_extender_stale_nodes 1\n"),
        "{metrics}"
    );
}

#[actix_web::test]
async fn p27_a_pod_that_the_topology_manager_would_reject_is_not_sent_there() {
    let world = world(cluster(&["a"]), None);
    let mut strict = topology("a");
    let status = strict.status.as_mut().unwrap();
    status.kubelet.topology_manager_policy = "single-numa-node".to_owned();
    status.kubelet.topology_manager_scope = "container".to_owned();
    let numa = |id| NumaNode {
        id: NumaId(id),
        ..NumaNode::default()
    };
    status.numa = vec![numa(0), numa(1)];
    world.publish(&strict);
    world.see(&bound(pod("p", 2), "a", &[0, 1]));
    world.see(&bound(pod("q", 2), "a", &[4, 5]));
    assert_eq!(world.verdict(&pod("r", 2), "a").await, "fits");
    let four = world.verdict(&pod("r", 4), "a").await;
    assert!(
        four.starts_with("later: the kubelet's topology manager would reject"),
        "{four}"
    );
    let eight = world.verdict(&pod("r", 8), "a").await;
    assert!(
        eight.starts_with("never: the kubelet's topology manager would reject"),
        "{eight}"
    );
    lock(&world.shared.service.index).delete_pod("u-q");
    world.create(&pod("r", 4));
    assert_eq!(world.bind(&pod("r", 4), "a").await, "");
    assert_eq!(world.assigned("r"), ["a-4", "a-5", "a-6", "a-7"]);
}

#[actix_web::test]
async fn p28_shared_partitioned_and_foreign_devices_are_not_given_as_whole_gpus() {
    let world = world(cluster(&["mig", "shared", "dra"]), None);
    let with = |name: &str, change: &dyn Fn(&mut berth_topology::node::Status)| {
        let mut changed = topology(name);
        change(changed.status.as_mut().unwrap());
        world.publish(&changed);
    };
    with("mig", &|status| {
        for gpu in &mut status.gpus {
            gpu.mig = Some(Mig {
                mode: "enabled".to_owned(),
                ..Mig::default()
            });
        }
    });
    with("shared", &|status| {
        for gpu in &mut status.gpus {
            gpu.sharing = Some(Sharing {
                kind: "time-slicing".to_owned(),
                replicas: 4,
            });
        }
        // Replicas are named after their GPU; no whole GPU has such a name.
        let mut replica = allocation("other", "shared", &[0]);
        replica.devices = vec!["shared-0::3".into()];
        status.allocations = vec![replica];
    });
    with("dra", &|status| {
        status.plugins = vec![Plugin {
            resource: RESOURCE.to_owned(),
            owner: PluginOwner::Dra,
            ..Plugin::default()
        }];
    });
    let shared = "never: the node's GPUs are shared or partitioned";
    assert_eq!(world.verdict(&pod("p", 2), "mig").await, shared);
    assert_eq!(world.verdict(&pod("p", 2), "shared").await, shared);
    let dra = "never: a DRA driver manages the node's GPUs";
    assert_eq!(world.verdict(&pod("p", 2), "dra").await, dra);
}

#[actix_web::test]
async fn p30_no_time_of_another_machine_is_ever_read() {
    let world = world(cluster(&["past", "future"]), None);
    let now = Instant::now();
    let century = 3_000_000_000;
    for (name, second) in [("past", -century), ("future", century)] {
        let index = &world.shared.service.index;
        lock(index).apply_lease(&renewed(name, second), now);
        assert_eq!(world.free(name).await, 8, "{name}");
        // Only that it changes counts, in whichever direction.
        lock(index).lost(Kind::Leases, now);
        lock(index).reset_leases(&[renewed("past", 1), renewed("future", 1)], now);
        lock(index).apply_lease(&renewed(name, second / 2), now);
        assert_eq!(world.free(name).await, 8, "{name}");
    }
}
