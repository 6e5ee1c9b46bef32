//! The agent as a pod, in each form that is shipped: it works, and may do no more than its manifest says.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use berth_it::agent_pod::{self, Confined, Form};
use berth_it::cluster::{Cluster, topologies};
use berth_it::control_plane::REAL_NODE;
use berth_it::given::{GPUS, MACHINE, RESOURCE, has_what_was_promised};
use berth_it::manifests;
use berth_it::pair::Pair;
use berth_it::pods::{create, gpu_pod};
use berth_it::real_node::{RealNode, holding_here};
use berth_it::story::story;
use berth_it::wait::{PATIENCE, eventually};
use berth_test_machine::raw as recorded;
use serde_json::json;

#[test]
fn an_agent_that_is_a_pod_of_its_own_image_gives_what_was_promised() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        let client = cluster.admin();
        let _pair = Pair::start(&cluster, "pair", &[]).await?;
        let node = RealNode::start(&cluster.plane, stage.folder()).await?;
        let class = json!({
            "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
            "metadata": {"name": "nvidia"}, "handler": "nvidia",
        });
        manifests::apply(client, &class).await?;
        let form = Form::PluginByRuntimeClass;
        agent_pod::start(&cluster, &node, &recorded(MACHINE), form).await?;
        node.wait_until_allocatable(client, RESOURCE, GPUS).await?;
        // Root, because the kubelet's sockets are; nothing else of root is left.
        let expected = Confined {
            uid: 0,
            capabilities: 0,
            may_gain_privileges: false,
            is_filtered: true,
            writable: BTreeSet::from(["/var/lib/kubelet/device-plugins".to_owned()]),
        };
        let confined = Confined::of_agent(&node)?;
        ensure!(confined == expected, "{confined:?}");

        for (name, count) in [("single", 1), ("quad", 4)] {
            create(client, &holding_here(gpu_pod(name, count, &[]), None)).await?;
            has_what_was_promised(client, &node, name).await?;
        }
        node.end(client).await
    })
}

#[test]
fn an_agent_without_nvidias_runtime_finds_the_library_below_the_drivers_root() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        let client = cluster.admin();
        let node = RealNode::start(&cluster.plane, stage.folder()).await?;
        let form = Form::PlainByDriverRoot;
        agent_pod::start(&cluster, &node, &recorded(MACHINE), form).await?;
        eventually("the GPUs to be published", PATIENCE, async || {
            let topology = topologies(client).get(REAL_NODE).await?;
            let status = &topology.data["status"];
            let count = status["gpus"].as_array().map(Vec::len);
            ensure!(
                count == Some(GPUS),
                "{count:?}, because {}",
                status["unknowns"]
            );
            Ok(())
        })
        .await?;
        // Privileged for the devices, and yet not root: without a capability, and nowhere to write.
        let expected = Confined {
            uid: 65532,
            capabilities: 0,
            may_gain_privileges: true,
            is_filtered: false,
            writable: BTreeSet::new(),
        };
        let confined = Confined::of_agent(&node)?;
        ensure!(confined == expected, "{confined:?}");
        node.end(client).await
    })
}
