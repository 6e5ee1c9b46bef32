//! An agent asks a real kubelet for its configuration: it shows its token to no other, needs a right that is
//! not in what every agent may, and publishes what it is told.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use berth_it::agent::Agent;
use berth_it::cluster::{Cluster, topologies};
use berth_it::control_plane::REAL_NODE;
use berth_it::given::MACHINE;
use berth_it::manifests::apply_files;
use berth_it::patches::{CONFIGZ, ask_kubelet};
use berth_it::real_node::{Likeness, RealNode};
use berth_it::story::story;
use berth_it::wait::{PATIENCE, eventually};
use berth_test_machine::raw as recorded;
use kube::Client;
use serde_json::{Value, json};

/// Of a kubelet that nobody gave a certificate: its own, and the authority that it made for it.
const OWN_CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet.crt";

#[test]
fn an_agent_publishes_what_a_real_kubelet_tells_whom_it_trusts_and_who_lets_it() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        let client = cluster.admin();
        let likeness = Likeness {
            kubelet: kubelet(),
            ..Likeness::default()
        };
        let node = RealNode::start_like(&cluster.plane, stage.folder(), likeness).await?;
        // At first the API server's, which vouches for no kubelet here.
        let ca = stage.folder().join("kubelet-ca.crt");
        fs::copy(stage.folder().join("pki/apiserver.crt"), &ca).context("copying a CA")?;
        let patch = ask_kubelet(port(&node)?, &ca);
        let _agent = Agent::start_beside(&cluster, &node, &recorded(MACHINE), &[patch]).await?;
        unknown_because(client, "it was shown no token").await?;

        fs::copy(node.outside(OWN_CERTIFICATE)?, &ca).context("copying the kubelet's CA")?;
        unknown_because(client, "may not get nodes/configz (403)").await?;

        apply_files(client, &[CONFIGZ], &[]).await?;
        eventually("the policies to be published", PATIENCE, async || {
            let status = status(client).await?;
            let policies = &status["kubelet"];
            ensure!(
                policies["topologyManagerPolicy"] == "best-effort"
                    && policies["topologyManagerScope"] == "pod"
                    && policies["cpuManagerPolicy"] == "none",
                "{policies}, because {}",
                status["unknowns"]
            );
            Ok(())
        })
        .await?;
        node.end(client).await
    })
}

/// Asks the API server who calls and whether they may, as kubelets do by default, but remembers its answers
/// for a moment only.
fn kubelet() -> Value {
    json!({
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true, "cacheTTL": "1s"},
        },
        "authorization": {
            "mode": "Webhook",
            "webhook": {"cacheAuthorizedTTL": "1s", "cacheUnauthorizedTTL": "1s"},
        },
        "topologyManagerPolicy": "best-effort",
        "topologyManagerScope": "pod",
    })
}

fn port(node: &RealNode) -> Result<u16> {
    let config = fs::read_to_string(node.kubelet_config())?;
    let config: Value = serde_json::from_str(&config)?;
    let port = config["port"].as_u64().context("finding the port")?;
    Ok(u16::try_from(port)?)
}

async fn unknown_because(client: &Client, why: &str) -> Result<()> {
    let what = format!("the kubelet to be unknown because {why}");
    eventually(&what, PATIENCE, async || {
        let status = status(client).await?;
        let policy = &status["kubelet"]["topologyManagerPolicy"];
        ensure!(policy == "unknown", "it is {policy}");
        let unknowns = status["unknowns"].as_array();
        let told = unknowns.into_iter().flatten().any(|unknown| {
            unknown["what"] == "kubelet"
                && unknown["why"].as_str().is_some_and(|it| it.contains(why))
        });
        ensure!(told, "it says {unknowns:?}");
        Ok(())
    })
    .await
}

async fn status(client: &Client) -> Result<Value> {
    let topology = topologies(client).get(REAL_NODE).await?;
    Ok(topology.data["status"].clone())
}
