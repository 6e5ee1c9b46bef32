//! The generated cluster: what stands where, and which pod comes or goes next.

use k8s_openapi::api::core::v1::Pod;

use crate::Outcome;
use crate::api::{Change, Objects};
use crate::objects::{self, MachineTemplate, NodeTemplate};
use crate::random::Random;

/// Recorded machines of 8 GPUs: NVLink mesh, NVSwitch of two generations, PCIe alone.
const MACHINES: [&str; 4] = ["dgx-h100", "dgx1-v100", "dgx-a100", "pix-8"];
/// Every fifth node is empty; the others share the pods.
const EMPTY_EVERY: usize = 5;
/// GPUs that a resident pod holds: one or two.
const GPUS_OF_POD: [usize; 2] = [1, 2];
/// Pods of one group, where there are groups.
const GROUP_SIZE: usize = 8;

/// Names are `gpu-node-00000` and on.
#[derive(Debug)]
pub(crate) struct Cluster {
    random: Random,
    machines: Vec<MachineTemplate>,
    nodes: Vec<Node>,
    node_template: NodeTemplate,
    /// Grows with every pod.
    pod_count: usize,
    /// Whether each [`GROUP_SIZE`] pods that came one after the other work together.
    is_grouped: bool,
}

/// One node.
#[derive(Debug)]
struct Node {
    name: String,
    machine: usize,
    /// Who holds each GPU.
    holders: Vec<Option<String>>,
}

// === impl Cluster ===

impl Cluster {
    pub(crate) fn generate(
        nodes: usize,
        pods: usize,
        seed: u64,
        is_grouped: bool,
    ) -> Outcome<Self> {
        let machines: Vec<MachineTemplate> = MACHINES
            .iter()
            .map(|name| MachineTemplate::read(name))
            .collect::<Outcome<_>>()?;
        let node = |number: usize| Node {
            name: format!("gpu-node-{number:05}"),
            machine: number % machines.len(),
            holders: vec![None; 8],
        };
        let mut cluster = Self {
            nodes: (0..nodes).map(node).collect(),
            random: Random::new(seed),
            machines,
            node_template: NodeTemplate::new(),
            pod_count: 0,
            is_grouped,
        };
        let crowded: Vec<usize> = (0..nodes)
            .filter(|number| number % EMPTY_EVERY != 0)
            .collect();
        for number in 0..pods {
            cluster.settle(crowded[number % crowded.len()]);
        }
        Ok(cluster)
    }

    /// Everything that the API server lists.
    pub(crate) fn objects(&self) -> Outcome<Objects> {
        let lease = |node: &Node| objects::lease(&node.name, 0, 1);
        let topology = |node: &Node| self.machines[node.machine].of(&node.name);
        let pods = self
            .nodes
            .iter()
            .flat_map(|node| node.pods().map(move |pod| (node, pod)));
        Ok(Objects {
            nodes: self
                .nodes
                .iter()
                .map(|node| self.node_template.of(&node.name))
                .collect(),
            topologies: self.nodes.iter().map(topology).collect(),
            leases: self.nodes.iter().map(lease).collect::<Outcome<_>>()?,
            pods: pods
                .map(|(node, pod)| self.pod_text(node, &pod, 1))
                .collect::<Outcome<_>>()?,
            names: self.nodes.iter().map(|node| node.name.clone()).collect(),
        })
    }

    /// So many nodes of the whole cluster, in no order.
    pub(crate) fn offered(&self, count: usize) -> Vec<&str> {
        let mut random = Random::new(1);
        let mut places: Vec<usize> = (0..self.nodes.len()).collect();
        for place in 0..count {
            let other = place + random.below(places.len() - place);
            places.swap(place, other);
        }
        let chosen = places[..count].iter();
        chosen
            .map(|place| self.nodes[*place].name.as_str())
            .collect()
    }

    /// The pod as one that joins a group of those that run, where there are groups.
    pub(crate) fn joining(&self, pod: Pod, number: usize) -> Pod {
        match self.is_grouped {
            true => objects::grouped(pod, number % (self.pod_count / GROUP_SIZE).max(1)),
            false => pod,
        }
    }

    /// Those nodes whole.
    pub(crate) fn whole(&self, count: usize) -> Vec<String> {
        self.offered(count)
            .into_iter()
            .map(|name| self.node_template.of(name))
            .collect()
    }

    /// On one node a pod goes, or one comes, in turn.
    pub(crate) fn next_change(&mut self, version: u64) -> Outcome<Change> {
        let number = self.random.below(self.nodes.len());
        let leaving = self.nodes[number].pods().next();
        let is_leaving = version.is_multiple_of(2);
        match leaving.filter(|_| is_leaving) {
            Some(name) => {
                let pod = self.pod_text(&self.nodes[number], &name, version)?;
                let mine = |holder: &&mut Option<String>| holder.as_ref() == Some(&name);
                self.nodes[number]
                    .holders
                    .iter_mut()
                    .filter(mine)
                    .for_each(|holder| *holder = None);
                Ok(Change {
                    kind: "DELETED",
                    pod,
                })
            }
            None => {
                let pod = match self.settle(number) {
                    Some(name) => self.pod_text(&self.nodes[number], &name, version)?,
                    None => pending_text(version)?,
                };
                Ok(Change { kind: "ADDED", pod })
            }
        }
    }

    /// A new pod on that node; `None` where it is full.
    fn settle(&mut self, number: usize) -> Option<String> {
        let wanted = GPUS_OF_POD[self.random.below(GPUS_OF_POD.len())];
        let free: Vec<usize> = (0..8)
            .filter(|gpu| self.nodes[number].holders[*gpu].is_none())
            .collect();
        if free.is_empty() {
            return None;
        }
        self.pod_count += 1;
        let name = format!("engine-{:06}", self.pod_count);
        let first = self.random.below(free.len());
        for step in 0..wanted.min(free.len()) {
            self.nodes[number].holders[free[(first + step) % free.len()]] = Some(name.clone());
        }
        Some(name)
    }

    fn pod_text(&self, node: &Node, name: &str, version: u64) -> Outcome<String> {
        let uuids = self.machines[node.machine].uuids(&node.name);
        let held = uuids.into_iter().zip(&node.holders);
        let held: Vec<String> = held
            .filter(|(_, holder)| holder.as_deref() == Some(name))
            .map(|(uuid, _)| uuid)
            .collect();
        let mut pod = objects::bound(objects::pod(name, held.len())?, &node.name, &held);
        if let (true, Some(number)) = (self.is_grouped, number_of(name)) {
            pod = objects::grouped(pod, number / GROUP_SIZE);
        }
        pod.metadata.resource_version = Some(version.to_string());
        Ok(serde_json::to_string(&pod)?)
    }
}

// === impl Node ===

impl Node {
    /// Each once: the GPUs of one pod are not always neighbours.
    fn pods(&self) -> impl Iterator<Item = String> + use<> {
        let mut names: Vec<String> = self.holders.iter().flatten().cloned().collect();
        names.sort();
        names.dedup();
        names.into_iter()
    }
}

/// Which pod of that name came: pods are numbered.
fn number_of(name: &str) -> Option<usize> {
    name.rsplit('-').next()?.parse().ok()
}

/// Where a node was full, a pod comes that has no node yet.
fn pending_text(version: u64) -> Outcome<String> {
    let mut pod = objects::pod(&format!("pending-{version}"), 1)?;
    pod.metadata.resource_version = Some(version.to_string());
    Ok(serde_json::to_string(&pod)?)
}
