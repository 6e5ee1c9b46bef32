//! A DGX-1 whose kubelet is real: what its pods were promised, and what they were given.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use berth_test_machine::raw as recorded;
use berth_topology::assignment::{ALLOCATION_ENV, ContainerAssignment};
use berth_topology::ids::GpuUuid;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use serde_json::Value;

use crate::agent::Agent;
use crate::cluster::{Cluster, topologies};
use crate::control_plane::REAL_NODE;
use crate::pair::Pair;
use crate::patches::{self, Patch};
use crate::plugin_relay::PluginRelay;
use crate::pods::{self, CONTAINER, bound, reached};
use crate::real_node::{Likeness, RealNode};
use crate::story::Stage;
use crate::wait::{PATIENCE, SOON, eventually};

/// What the pods ask for.
pub const RESOURCE: &str = "nvidia.com/gpu";
/// The recorded machine.
pub const MACHINE: &str = "dgx1-v100";
/// How many GPUs it has.
pub const GPUS: usize = 8;
/// What NVIDIA's container runtime reads.
const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";

/// The whole loop. Drops the kubelet last but for the API server.
#[derive(Debug)]
pub struct Dgx {
    /// kube-scheduler and extender.
    pub pair: Pair,
    /// The agent with its device plugin.
    pub agent: Agent,
    /// Between the agent and the kubelet, where asked for.
    pub relay: Option<PluginRelay>,
    /// kubelet and containerd.
    pub node: RealNode,
    /// etcd and API server.
    pub cluster: Cluster,
}

/// Whether a promise was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// To the letter: these GPUs, in this order, with these CPUs.
    AsPromised,
    /// As many others, in rank order.
    Swapped {
        /// By the extender.
        promised: Vec<String>,
        /// By the kubelet.
        given: Vec<String>,
    },
}

// === impl Dgx ===

impl Dgx {
    /// With these patches of the agent's manifest. Waits until pods may have its GPUs.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(stage: &Stage, patches: &[Patch]) -> Result<Self> {
        let (cluster, pair, node) = start_all_but_the_agent(stage).await?;
        Self::start_agent(cluster, pair, node, None, patches).await
    }

    /// With a relay between kubelet and plugin.
    ///
    /// # Errors
    /// As [`Dgx::start`].
    pub async fn start_with_relay(stage: &Stage) -> Result<Self> {
        let (cluster, pair, node) = start_all_but_the_agent(stage).await?;
        let relay = PluginRelay::start(&node, &stage.folder().join("plugins"))?;
        let patch = patches::plugin_folder(relay.folder());
        Self::start_agent(cluster, pair, node, Some(relay), &[patch]).await
    }

    /// On a kubelet that sees the recorded machine's CPUs and NUMA nodes, and is configured so. The agent
    /// reads that configuration.
    ///
    /// # Errors
    /// As [`Dgx::start`].
    pub async fn start_aligned(stage: &Stage, kubelet: Value, numa_hints: bool) -> Result<Self> {
        let cluster = Cluster::start(stage).await?;
        let pair = Pair::start(&cluster, "pair", &[]).await?;
        let likeness = Likeness {
            machine: Some(recorded(MACHINE)),
            kubelet,
        };
        let node = RealNode::start_like(&cluster.plane, stage.folder(), likeness).await?;
        let patch = patches::foresee_kubelet(&node.kubelet_config(), numa_hints);
        Self::start_agent(cluster, pair, node, None, &[patch]).await
    }

    async fn start_agent(
        cluster: Cluster,
        pair: Pair,
        node: RealNode,
        relay: Option<PluginRelay>,
        patches: &[Patch],
    ) -> Result<Self> {
        let machine = recorded(MACHINE);
        let agent = Agent::start_beside(&cluster, &node, &machine, patches).await?;
        node.wait_until_allocatable(cluster.admin(), RESOURCE, GPUS)
            .await?;
        Ok(Self {
            pair,
            agent,
            relay,
            node,
            cluster,
        })
    }

    /// May do everything.
    #[must_use]
    pub fn client(&self) -> &Client {
        self.cluster.admin()
    }

    /// Checks of a pod that was posted that container, kubelet and extender agree on its GPUs.
    ///
    /// # Errors
    /// When they do not.
    pub async fn has_what_was_promised(&self, name: &str) -> Result<()> {
        has_what_was_promised(self.client(), &self.node, name).await
    }

    /// What the container of a pod that has started found, beside its promise.
    ///
    /// # Errors
    /// When it finds something that contradicts itself, or a GPU that another one uses.
    pub async fn given(&self, pod: &Pod) -> Result<Given> {
        given(&self.node, pod).await
    }

    /// Checks that the agent publishes what the kubelet gave.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn says_what_was_given(&self, name: &str) -> Result<()> {
        let client = self.client();
        let pod = pods::api(client).get(name).await?;
        let held = self.node.devices(RESOURCE)?.remove(name);
        let topologies = topologies(client);
        eventually("what was given to be published", SOON, async || {
            let topology = topologies.get(REAL_NODE).await?;
            let allocations = topology.data["status"]["allocations"].as_array();
            let mut of_pod = allocations.into_iter().flatten();
            let of_pod = of_pod.find(|it| it["podUid"].as_str() == pod.metadata.uid.as_deref());
            let of_pod = of_pod.with_context(|| format!("there is {allocations:?}"))?;
            let devices: BTreeSet<String> = serde_json::from_value(of_pod["devices"].clone())?;
            ensure!(Some(&devices) == held.as_ref(), "{devices:?}, not {held:?}");
            Ok(())
        })
        .await
    }
}

/// As [`Dgx::has_what_was_promised`], on any real node.
///
/// # Errors
/// As there.
pub async fn has_what_was_promised(client: &Client, node: &RealNode, name: &str) -> Result<()> {
    bound(client, name, PATIENCE).await?;
    let pod = reached(client, name, "Running", PATIENCE).await?;
    let given = given(node, &pod).await?;
    ensure!(given == Given::AsPromised, "{name}: {given:?}");
    let held = node.devices(RESOURCE)?.remove(name);
    let promised = uuids(&promised(&pod)?).into_iter().collect();
    ensure!(
        held.as_ref() == Some(&promised),
        "the kubelet says {held:?}, promised {promised:?}"
    );
    Ok(())
}

async fn given(node: &RealNode, pod: &Pod) -> Result<Given> {
    let promised = promised(pod)?;
    let environment = node.environment(pod).await?;
    let allocation = environment.get(ALLOCATION_ENV);
    let allocation = allocation.with_context(|| format!("finding {ALLOCATION_ENV}"))?;
    let allocation: ContainerAssignment = serde_json::from_str(allocation)?;
    let visible = environment.get(VISIBLE).map(String::as_str);
    let in_order = uuids(&allocation).join(",");
    ensure!(
        visible == Some(&in_order),
        "{VISIBLE} is {visible:?}, {ALLOCATION_ENV} says {in_order}"
    );
    if allocation == promised {
        return Ok(Given::AsPromised);
    }
    let [promised, given] = [promised, allocation].map(|container| uuids(&container));
    ensure!(
        given.len() == promised.len(),
        "{given:?} were given, {promised:?} promised"
    );
    Ok(Given::Swapped { promised, given })
}

async fn start_all_but_the_agent(stage: &Stage) -> Result<(Cluster, Pair, RealNode)> {
    let cluster = Cluster::start(stage).await?;
    // Says 503 for its first seconds, in which the others start.
    let pair = Pair::start(&cluster, "pair", &[]).await?;
    let node = RealNode::start(&cluster.plane, stage.folder()).await?;
    Ok((cluster, pair, node))
}

fn promised(pod: &Pod) -> Result<ContainerAssignment> {
    let mut containers = pods::assignment(pod)?.containers;
    let promised = containers.remove(CONTAINER);
    promised.context("finding the promise to a container")
}

/// In rank order.
fn uuids(container: &ContainerAssignment) -> Vec<String> {
    container
        .gpus()
        .map(GpuUuid::as_str)
        .map(str::to_owned)
        .collect()
}
