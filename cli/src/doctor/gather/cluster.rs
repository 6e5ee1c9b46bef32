//! A node as the API server has it. The one file that knows the Kubernetes client.
//!
//! It reads with the rights of the kubeconfig, and writes nothing. What may not be read is unknown;
//! only a cluster that cannot be reached, or a node that is not there, is an error.

use std::time::{Duration, Instant};

use anyhow::Context;
use berth_topology::kubelet::Kubelet;
use berth_topology::node::NodeTopology;
use berth_topology::{lease, names};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::{objects, usage};
use crate::args::doctor::DoctorArgs;
use crate::doctor::facts::{
    Fact, InCluster, SeenAgent, SeenCrd, SeenLease, SeenPod, SeenScheduler,
};
use crate::say;

/// An answer that takes longer is as good as none.
const CALL_WAIT_MAX: Duration = Duration::from_secs(15);
/// Between two looks at the Lease.
const LEASE_LOOK_EVERY: Duration = Duration::from_secs(1);
/// A node runs at most some hundred pods.
const PODS_MAX: u32 = 2000;
const CRD: &str = "nodetopologies.berth.dev";
const AGENT_LABEL: &str = "app.kubernetes.io/name=berth-node-agent";

/// What was read.
pub(super) struct Seen {
    pub(super) topology: Fact<Option<NodeTopology>>,
    pub(super) configz: Fact<Kubelet>,
    pub(super) cluster: InCluster,
}

/// Reads all about a node.
///
/// # Errors
/// Without a kubeconfig, when the API server does not answer, or there is no such Node.
pub(super) fn read(node: &str, args: &DoctorArgs) -> anyhow::Result<Seen> {
    // fails only where one is installed already
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(read_all(node, args))
}

async fn read_all(name: &str, args: &DoctorArgs) -> anyhow::Result<Seen> {
    let client = connect(args).await?;
    let nodes: Api<Node> = Api::all(client.clone());
    let node = match call(nodes.get_opt(name)).await {
        Ok(Some(node)) => objects::node(node),
        Ok(None) => return usage(format!("--node: the cluster has no Node {name:?}")),
        Err(why) => anyhow::bail!("reading Node {name}: {why}"),
    };
    let topologies: Api<NodeTopology> = Api::all(client.clone());
    // The Lease first: it is watched, and the rest is read before it is looked at again.
    let first = call(leases(&client).get_opt(name)).await;
    let first_at = Instant::now();
    let topology = call(topologies.get_opt(name)).await;
    let (crd, agents) = (crd(&client).await, agents(&client, name).await);
    let (pods, scheduler) = (pods(&client, name).await, scheduler(&client).await);
    let configz = configz(&client, name).await;
    let lease = match first {
        Ok(Some(first)) => Ok(Some(
            watched(&client, name, first, first_at, args.lease_wait).await,
        )),
        Ok(None) => Ok(None),
        Err(why) => Err(why),
    };
    Ok(Seen {
        topology,
        configz,
        cluster: InCluster {
            node,
            lease,
            crd,
            agents,
            pods,
            scheduler,
        },
    })
}

async fn connect(args: &DoctorArgs) -> anyhow::Result<Client> {
    let config = match &args.kubeconfig {
        None => Config::infer()
            .await
            .context("finding a cluster: give --kubeconfig")?,
        Some(path) => {
            let context = || format!("reading the kubeconfig {}", path.display());
            let file = Kubeconfig::read_from(path).with_context(context)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options)
                .await
                .with_context(context)?
        }
    };
    Client::try_from(config).context("building a client for the API server")
}

async fn call<T>(answer: impl Future<Output = kube::Result<T>>) -> Fact<T> {
    match tokio::time::timeout(CALL_WAIT_MAX, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(format!("{:#}", anyhow::Error::from(error))),
        Err(_) => Err(format!("no answer within {} s", CALL_WAIT_MAX.as_secs())),
    }
}

fn leases(client: &Client) -> Api<Lease> {
    Api::namespaced(client.clone(), names::NAMESPACE)
}

/// Clocks of two machines are never compared: a renewal is one that happens while we look.
async fn watched(
    client: &Client,
    name: &str,
    first: Lease,
    since: Instant,
    wait_seconds: u64,
) -> SeenLease {
    let renewal = |lease: &Lease| lease::decode(lease).map(|(_, renewal)| renewal);
    let before = renewal(&first);
    let deadline = since + Duration::from_secs(wait_seconds);
    let mut was_renewed = None;
    if wait_seconds > 0 {
        say(&format!(
            "watching the Lease of {name} for up to {wait_seconds} s"
        ));
    }
    while was_renewed != Some(true) && wait_seconds > 0 {
        if let Ok(Some(now)) = call(leases(client).get_opt(name)).await {
            was_renewed = Some(renewal(&now) != before);
        }
        if Instant::now() >= deadline {
            break;
        }
        if was_renewed != Some(true) {
            tokio::time::sleep(LEASE_LOOK_EVERY).await;
        }
    }
    // An agent renews every 15 s: who looked for less cannot tell that it does not.
    let is_long_enough = wait_seconds > u64::from(lease::RENEW_EVERY_SECONDS);
    SeenLease {
        renew_time: objects::renew_time(&first),
        was_renewed: was_renewed.filter(|renewed| *renewed || is_long_enough),
        watched_seconds: since.elapsed().as_secs(),
    }
}

async fn crd(client: &Client) -> Fact<Option<SeenCrd>> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let found = call(api.get_opt(CRD)).await?;
    Ok(found.as_ref().map(objects::crd))
}

async fn agents(client: &Client, node: &str) -> Fact<Vec<SeenAgent>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), names::NAMESPACE);
    let params = on(node).labels(AGENT_LABEL);
    let found = call(api.list(&params)).await?;
    Ok(found.items.into_iter().map(objects::agent).collect())
}

async fn pods(client: &Client, node: &str) -> Fact<Vec<SeenPod>> {
    let api: Api<Pod> = Api::all(client.clone());
    let found = call(api.list(&on(node))).await?;
    Ok(found.items.into_iter().filter_map(objects::pod).collect())
}

fn on(node: &str) -> ListParams {
    let selector = format!("spec.nodeName={node}");
    ListParams::default().fields(&selector).limit(PODS_MAX)
}

async fn scheduler(client: &Client) -> Fact<Option<SeenScheduler>> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), names::NAMESPACE);
    let found = call(api.get_opt(names::SCHEDULER)).await?;
    Ok(found.as_ref().map(objects::scheduler))
}

/// What the kubelet really runs with, through the API server (needs get on nodes/proxy).
async fn configz(client: &Client, node: &str) -> Fact<Kubelet> {
    let path = format!("/api/v1/nodes/{node}/proxy/configz");
    let request = http::Request::get(&path).body(Vec::new());
    let request = request.map_err(|error| error.to_string())?;
    let text = call(client.request_text(request)).await?;
    objects::configz(&text)
}
