//! The leading scheduler and its extender go, and the other replica takes over.

use anyhow::{Result, ensure};
use berth_it::agent::Agent;
use berth_it::cluster::Cluster;
use berth_it::http1;
use berth_it::pair::Pair;
use berth_it::pods::{self, bound, create, gpu_pod, indices};
use berth_it::story::story;
use berth_it::wait::PATIENCE;
use berth_test_machine::raw as recorded;
use serde_json::json;

#[test]
fn the_other_replica_takes_over_and_until_then_refuses_to_answer() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        let client = cluster.admin();
        let _agent = Agent::start(&cluster, "dgx1", &recorded("dgx1-v100")).await?;
        let leader = Pair::start(&cluster, "pair-1", &[]).await?;
        create(client, &gpu_pod("first", 4, &[])).await?;
        bound(client, "first", PATIENCE).await?;
        let follower = Pair::start(&cluster, "pair-2", &[]).await?;
        follower.wait_until_alive().await?;

        // Were a scheduler to ask the wrong extender, it must not bind on what that one believes.
        let bind =
            json!({"PodName": "first", "PodNamespace": "default", "PodUID": "", "Node": "dgx1"});
        let answer = http1::post(follower.extender_port, "/bind", &bind).await?;
        ensure!(
            answer.status == 503,
            "a replica that does not lead answers {}",
            answer.status
        );

        drop(leader);
        create(client, &gpu_pod("second", 4, &[])).await?;
        let (_, second) = bound(client, "second", PATIENCE).await?;
        ensure!(
            indices(&second) == [4, 5, 6, 7],
            "second got {:?}",
            indices(&second)
        );
        pods::none_shares_a_gpu(client).await
    })
}
