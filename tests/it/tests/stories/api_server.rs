//! The API server dies and comes back under all of them, and everything goes on.

use anyhow::{Context as _, Result, ensure};
use berth_it::agent::Agent;
use berth_it::cluster::{Cluster, NAMESPACE};
use berth_it::kubelet::remove_pod;
use berth_it::pair::Pair;
use berth_it::pods::{self, bound, create, gpu_pod, indices, refused};
use berth_it::story::story;
use berth_it::wait::{PATIENCE, SOON, eventually};
use berth_test_machine::raw as recorded;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};

#[test]
fn everything_goes_on_after_the_api_server_was_killed_and_came_back() -> Result<()> {
    story(async |stage| {
        let mut cluster = Cluster::start(stage).await?;
        let client = cluster.admin().clone();
        let agent = Agent::start(&cluster, "dgx1", &recorded("dgx1-v100")).await?;
        let pairs = [
            Pair::start(&cluster, "pair-1", &[]).await?,
            Pair::start(&cluster, "pair-2", &[]).await?,
        ];
        create(&client, &gpu_pod("first", 4, &[])).await?;
        bound(&client, "first", PATIENCE).await?;
        let last_sign = sign_of_life(&client).await?;

        cluster.plane.kill_api_server();
        // A scheduler that cannot renew its lease gives up; the supervisor starts it again.
        eventually("a scheduler to give up its lease", PATIENCE, async || {
            ensure!(
                pairs.iter().any(|pair| pair.scheduler.starts() > 1),
                "none has ended yet"
            );
            Ok(())
        })
        .await?;
        cluster.plane.start_api_server().await?;

        create(&client, &gpu_pod("second", 4, &[])).await?;
        let (_, second) = bound(&client, "second", PATIENCE).await?;
        ensure!(
            indices(&second) == [4, 5, 6, 7],
            "second got {:?}",
            indices(&second)
        );
        create(&client, &gpu_pod("third", 4, &[])).await?;
        refused(&client, "third", &["Insufficient nvidia.com/gpu"], PATIENCE).await?;
        remove_pod(&client, pods::NAMESPACE, "first").await?;
        bound(&client, "third", SOON).await?;
        pods::none_shares_a_gpu(&client).await?;

        eventually("the agent to renew its lease", PATIENCE, async || {
            ensure!(
                sign_of_life(&client).await? != last_sign,
                "it has not since {last_sign}"
            );
            Ok(())
        })
        .await?;
        ensure!(agent.starts() == 1, "the agent lives through it");
        ensure!(
            pairs.iter().all(|pair| pair.extender.starts() == 1),
            "so do the extenders"
        );
        Ok(())
    })
}

async fn sign_of_life(client: &Client) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let spec = leases
        .get("dgx1")
        .await?
        .spec
        .context("reading the agent's lease")?;
    Ok(format!(
        "{:?}",
        spec.renew_time.context("reading when it was renewed")?
    ))
}
