//! What the extender promised is what the container gets: agent and device plugin on a real kubelet.

use anyhow::Result;
use berth_it::agent_pod;
use berth_it::cluster::Cluster;
use berth_it::given::{Dgx, GPUS, MACHINE, RESOURCE, has_what_was_promised};
use berth_it::pair::Pair;
use berth_it::pods::{create, gpu_pod};
use berth_it::real_node::{RealNode, delete_pod, holding_here};
use berth_it::story::story;
use berth_test_machine::raw as recorded;

#[test]
fn a_container_has_exactly_the_gpus_that_were_promised_in_rank_order() -> Result<()> {
    story(async |stage| {
        let dgx = Dgx::start(stage, &[]).await?;
        let client = dgx.client();
        // Takes one of the quad with NVLink that a kubelet of its own would give next.
        for (name, count) in [("single", 1), ("quad", 4), ("two", 2)] {
            create(client, &holding_here(gpu_pod(name, count, &[]), None)).await?;
            dgx.has_what_was_promised(name).await?;
        }
        dgx.says_what_was_given("quad").await?;

        delete_pod(client, "single").await?;
        create(client, &holding_here(gpu_pod("next", 1, &[]), None)).await?;
        dgx.has_what_was_promised("next").await
    })
}

#[test]
fn an_agent_that_is_a_pod_of_its_own_image_gives_what_was_promised() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        let client = cluster.admin();
        let _pair = Pair::start(&cluster, "pair", &[]).await?;
        let node = RealNode::start(&cluster.plane, stage.folder()).await?;
        agent_pod::start(&cluster, &node, &recorded(MACHINE)).await?;
        node.wait_until_allocatable(client, RESOURCE, GPUS).await?;

        for (name, count) in [("single", 1), ("quad", 4)] {
            create(client, &holding_here(gpu_pod(name, count, &[]), None)).await?;
            has_what_was_promised(client, &node, name).await?;
        }
        node.end(client).await
    })
}
