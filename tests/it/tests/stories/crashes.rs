//! The extender dies at the worst moments, and nothing is lost or given twice.

use anyhow::{Result, ensure};
use berth_it::agent::Agent;
use berth_it::cluster::Cluster;
use berth_it::pair::Pair;
use berth_it::pods::{self, bound, create, gpu_pod, indices};
use berth_it::relay::AtBind;
use berth_it::story::{Stage, story};
use berth_it::wait::{PATIENCE, eventually};
use berth_test_machine::raw as recorded;

#[test]
fn an_extender_killed_between_filter_and_bind_loses_nothing() -> Result<()> {
    story(async |stage| killed_at_bind(stage, AtBind::HoldBack).await)
}

#[test]
fn an_extender_killed_after_its_write_and_before_its_answer_gives_nothing_twice() -> Result<()> {
    story(async |stage| killed_at_bind(stage, AtBind::LoseAnswer).await)
}

async fn killed_at_bind(stage: &Stage, at_bind: AtBind) -> Result<()> {
    let cluster = Cluster::start(stage).await?;
    let client = cluster.admin();
    let _agent = Agent::start(&cluster, "dgx1", &recorded("dgx1-v100")).await?;
    let pair = Pair::start(&cluster, "pair", &[]).await?;
    pair.wait_until_alive().await?;

    let caught = pair.relay.at_next_bind(at_bind);
    create(client, &gpu_pod("first", 4, &[])).await?;
    let caught = caught.await?;
    let was_bound = !pods::node(&pods::api(client).get("first").await?).is_empty();
    ensure!(
        was_bound == (at_bind == AtBind::LoseAnswer),
        "{at_bind:?}, and bound: {was_bound}"
    );
    pair.extender.kill();
    drop(caught);
    eventually("the extender to be started again", PATIENCE, async || {
        ensure!(
            pair.extender.starts() > 1 && pair.extender.pid().is_some(),
            "it is not"
        );
        Ok(())
    })
    .await?;

    let (_, first) = bound(client, "first", PATIENCE).await?;
    create(client, &gpu_pod("second", 4, &[])).await?;
    let (_, second) = bound(client, "second", PATIENCE).await?;
    ensure!(
        indices(&first) == [0, 1, 2, 3],
        "first got {:?}",
        indices(&first)
    );
    ensure!(
        indices(&second) == [4, 5, 6, 7],
        "second got {:?}",
        indices(&second)
    );
    pods::none_shares_a_gpu(client).await
}
