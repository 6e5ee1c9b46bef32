//! Who has to go for a pod of higher priority, and who is left alone because it would not help.

use anyhow::{Result, ensure};
use berth_it::agent::Agent;
use berth_it::cluster::Cluster;
use berth_it::pair::Pair;
use berth_it::pods::{self, bound, create, gpu_pod, indices, none_shares_a_gpu};
use berth_it::story::story;
use berth_it::wait::PATIENCE;
use berth_test_machine::raw as recorded;
use berth_topology::names::{LINK, LINK_POLICY};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

/// Only NVLink will do: the four L40S have none.
pub(crate) const NVLINK_ONLY: [(&str, &str); 2] = [(LINK, "nvlink"), (LINK_POLICY, "require")];
const URGENT: &str = "urgent";

#[test]
fn a_pod_of_higher_priority_evicts_one_quad_where_that_helps_and_nobody_elsewhere() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        let _dgx1 = Agent::start(&cluster, "dgx1", &recorded("dgx1-v100")).await?;
        let _l40s = Agent::start(&cluster, "l40s", &recorded("l40s-4")).await?;
        let pair = Pair::start(&cluster, "pair", &[]).await?;
        pair.wait_until_alive().await?;
        let client = cluster.admin();
        create_priority_class(client).await?;

        // The second is as urgent as the one to come: nobody may touch it.
        let first = gpu_pod("first", 4, &NVLINK_ONLY);
        let second = urgent(gpu_pod("second", 4, &NVLINK_ONLY));
        for pod in [first, second] {
            create(client, &leaving_at_once(pod.clone())).await?;
            bound(client, &pod.name_any(), PATIENCE).await?;
        }
        create(client, &leaving_at_once(gpu_pod("bystander", 4, &[]))).await?;
        let (bystander, _) = bound(client, "bystander", PATIENCE).await?;
        ensure!(pods::node(&bystander) == "l40s", "both nodes are full now");

        // By count a victim on either node would do; by wiring only one on the DGX-1.
        create(client, &urgent(gpu_pod("urgent", 4, &NVLINK_ONLY))).await?;
        let (pod, assignment) = bound(client, "urgent", PATIENCE).await?;
        ensure!(
            pods::node(&pod) == "dgx1",
            "it went to {}",
            pods::node(&pod)
        );
        let got = indices(&assignment);
        ensure!(got == [0, 1, 2, 3] || got == [4, 5, 6, 7], "it got {got:?}");
        let left = remaining(client, &["first", "second", "bystander"]).await?;
        ensure!(
            left == ["second", "bystander"],
            "these were left alone: {left:?}"
        );
        none_shares_a_gpu(client).await
    })
}

/// A pod that is gone when it is deleted: there is no kubelet to end it.
pub(crate) fn leaving_at_once(mut pod: Pod) -> Pod {
    if let Some(spec) = &mut pod.spec {
        spec.termination_grace_period_seconds = Some(0);
    }
    pod
}

/// The same pod, above all that say nothing.
pub(crate) fn urgent(mut pod: Pod) -> Pod {
    if let Some(spec) = &mut pod.spec {
        spec.priority_class_name = Some(URGENT.to_owned());
    }
    pod
}

pub(crate) async fn create_priority_class(client: &Client) -> Result<()> {
    let class: PriorityClass = serde_json::from_value(json!({
        "metadata": {"name": URGENT},
        "value": 1000,
    }))?;
    let classes: Api<PriorityClass> = Api::all(client.clone());
    classes.create(&PostParams::default(), &class).await?;
    Ok(())
}

/// Which of the pods are still there.
pub(crate) async fn remaining<'a>(client: &Client, names: &[&'a str]) -> Result<Vec<&'a str>> {
    let mut left = Vec::new();
    for name in names {
        if pods::api(client).get_opt(name).await?.is_some() {
            left.push(*name);
        }
    }
    Ok(left)
}
