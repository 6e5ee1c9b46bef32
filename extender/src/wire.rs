//! kube-scheduler's extender JSON: the only file that knows it.
//!
//! Source: `k8s.io/kube-scheduler/extender/v1/types.go`. Those types have no JSON tags, so Go's
//! field names are the keys: PascalCase, with `PodUID` and `UID` in capitals, and nothing omitted
//! (`null` instead). Go reads keys in any case; so do we where older senders differ. Answers are
//! PascalCase always. Only HTTP 200 counts there, so a failure travels as `Error` in a 200.
//! What is decoded is bounded first (`bounds`).

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_extender_core::bind;
use berth_extender_core::preempt::{Eviction, Offer};
use berth_extender_core::simulate;
use berth_topology::ids::PodUid;
use k8s_openapi::api::core::v1::Pod;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

mod answer;
mod bounds;
mod names;
mod whole;

pub use names::Names;

/// Worst score of a node (`MinExtenderPriority`).
pub const SCORE_MIN: i64 = 0;
/// Best score of a node (`MaxExtenderPriority`). kube-scheduler does not clamp: we must not exceed it.
pub const SCORE_MAX: i64 = 10;

/// What filter and prioritize are asked (`ExtenderArgs`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "SentArgs<bounds::Counted<Pod>>")]
pub struct ExtenderArgs {
    /// The pod to place.
    pub pod: Option<Pod>,
    /// Whole nodes, where `nodeCacheCapable` is false. Passed through unread, but for the name.
    pub nodes: Option<NodeList>,
    /// Names, where it is true.
    pub node_names: Option<Names>,
}

/// The same as it is sent; `P` reads the pod.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SentArgs<P> {
    #[serde(alias = "pod")]
    pod: Option<P>,
    #[serde(default, alias = "nodes")]
    nodes: Option<NodeList>,
    #[serde(default, alias = "nodeNames", alias = "nodenames")]
    node_names: Option<Names>,
}

/// A `v1.NodeList`, of which only the names are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct NodeList {
    /// The nodes.
    #[serde(default, deserialize_with = "null_as_default")]
    pub items: Vec<Option<NodeItem>>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct NodeItem {
    #[serde(default, deserialize_with = "null_as_default")]
    metadata: ItemMetadata,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct ItemMetadata {
    name: Option<String>,
}

/// The answer of filter (`ExtenderFilterResult`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterResult<'a> {
    /// Feasible nodes by their place in the request, where nodes came whole: they go back as they came.
    pub nodes: Option<Vec<usize>>,
    /// Feasible nodes by name, where names came.
    pub node_names: Option<Vec<&'a str>>,
    /// Refused, but pods that leave could help: preemption looks here only.
    pub failed_nodes: Reasons<'a>,
    /// Refused whatever leaves.
    pub failed_and_unresolvable_nodes: Reasons<'a>,
    /// Why there is no answer; empty when there is one.
    pub error: String,
}

/// Why not, by node, in the order sent (`FailedNodesMap`). Thousands of nodes share a few sentences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reasons<'a>(pub Vec<(&'a str, Arc<str>)>);

/// One node's score (`HostPriority`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HostPriority<'a> {
    /// The node.
    pub host: &'a str,
    /// [`SCORE_MIN`] to [`SCORE_MAX`].
    pub score: i64,
}

/// What preempt is asked (`ExtenderPreemptionArgs`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PreemptionArgs {
    /// The pod that wants room.
    #[serde(default, alias = "pod", deserialize_with = "bounds::pod")]
    pub pod: Option<Pod>,
    /// Whole victims, where `nodeCacheCapable` is false.
    #[serde(
        default,
        alias = "nodeNameToVictims",
        deserialize_with = "bounds::victims"
    )]
    pub node_name_to_victims: Option<BTreeMap<String, Option<Victims>>>,
    /// Victims by uid, where it is true.
    #[serde(default, alias = "nodeNameToMetaVictims")]
    pub node_name_to_meta_victims: Option<BTreeMap<String, Option<MetaVictims>>>,
}

/// Pods that would be evicted from one node, whole (`Victims`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Victims {
    /// The pods.
    #[serde(default, alias = "pods", deserialize_with = "null_as_default")]
    pub pods: Vec<Pod>,
    /// Disruption budgets that would be violated.
    #[serde(default, rename = "NumPDBViolations", alias = "numPDBViolations")]
    pub pdb_violation_count: i64,
}

/// Pods that would be evicted from one node, by uid (`MetaVictims`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MetaVictims {
    /// The pods.
    #[serde(default, alias = "pods", deserialize_with = "null_as_default")]
    pub pods: Vec<MetaPod>,
    /// Disruption budgets that would be violated.
    #[serde(default, rename = "NumPDBViolations", alias = "numPDBViolations")]
    pub pdb_violation_count: i64,
}

/// A pod by uid (`MetaPod`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaPod {
    /// Its uid.
    #[serde(default, rename = "UID", alias = "Uid", alias = "uid")]
    pub uid: String,
}

/// The answer of preempt, in meta form whatever came (`ExtenderPreemptionResult`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PreemptionResult {
    /// The nodes that remain, with their victims.
    pub node_name_to_meta_victims: BTreeMap<String, MetaVictims>,
}

/// What bind is asked (`ExtenderBindingArgs`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BindingArgs {
    /// The pod's name.
    #[serde(alias = "podName", alias = "podname")]
    pub pod_name: String,
    /// Its namespace.
    #[serde(alias = "podNamespace", alias = "podnamespace")]
    pub pod_namespace: String,
    /// Its uid.
    #[serde(
        rename = "PodUID",
        alias = "PodUid",
        alias = "podUID",
        alias = "podUid",
        alias = "poduid"
    )]
    pub pod_uid: String,
    /// The node that was chosen.
    #[serde(alias = "node")]
    pub node: String,
}

/// The answer of bind (`ExtenderBindingResult`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct BindingResult {
    /// Why the pod was not bound; empty when it was.
    pub error: String,
}

/// Why a body is not a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON of that form.
    #[error("reading the body of {verb}: {source}")]
    Json {
        /// The verb that it was sent to.
        verb: &'static str,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// The request names no pod.
    #[error("the body of {0} holds no Pod")]
    NoPod(&'static str),
    /// It would take too much memory.
    #[error("the body of {0} holds more values than any request has")]
    TooMuch(&'static str),
    /// A pod, namespace or node whose name Kubernetes would not take.
    #[error("the body of {0} holds a name that is none")]
    NoName(&'static str),
}

/// A body that is a request only within bounds.
pub trait Bounded: DeserializeOwned {
    /// Objects that it may hold, in all.
    const OBJECTS_MAX: usize = usize::MAX;

    /// Reads a text that holds so many objects.
    ///
    /// # Errors
    /// When it is not JSON of that form.
    fn read(text: &[u8], _object_count: usize) -> serde_json::Result<Self> {
        serde_json::from_slice(text)
    }

    /// Whether what it holds is bounded.
    ///
    /// # Errors
    /// When it is not.
    fn check(&self, verb: &'static str) -> Result<(), Error>;
}

/// Reads a body. Unknown keys are ignored.
///
/// # Errors
/// When it is not the JSON that `verb` is sent, or holds more than any request.
pub fn decode<T: Bounded>(verb: &'static str, body: &[u8]) -> Result<T, Error> {
    let count = bounds::count(body);
    if count.values > bounds::VALUES_MAX || count.objects > T::OBJECTS_MAX {
        return Err(Error::TooMuch(verb));
    }
    let read = T::read(body, count.objects);
    let request = read.map_err(|source| Error::Json { verb, source })?;
    request.check(verb)?;
    Ok(request)
}

// === impl Bounded ===

impl Bounded for ExtenderArgs {
    /// Where all that was sent are no more objects than a pod may have, the pod has no more either.
    fn read(text: &[u8], object_count: usize) -> serde_json::Result<Self> {
        match object_count <= bounds::POD_OBJECTS_MAX {
            true => serde_json::from_slice::<SentArgs<Pod>>(text).map(Self::from),
            false => serde_json::from_slice(text),
        }
    }

    fn check(&self, verb: &'static str) -> Result<(), Error> {
        let names = self.names();
        match names.len() <= bounds::NODES_MAX {
            true if names.iter().all(|name| bounds::is_name(name)) => Ok(()),
            true => Err(Error::NoName(verb)),
            false => Err(Error::TooMuch(verb)),
        }
    }
}

impl Bounded for PreemptionArgs {
    fn check(&self, verb: &'static str) -> Result<(), Error> {
        let whole = self.node_name_to_victims.iter().flatten();
        let by_uid = self.node_name_to_meta_victims.iter().flatten();
        let mut names = whole
            .map(|(name, _)| name)
            .chain(by_uid.map(|(name, _)| name));
        match names.all(|name| bounds::is_name(name)) {
            true => Ok(()),
            false => Err(Error::NoName(verb)),
        }
    }
}

impl Bounded for BindingArgs {
    fn check(&self, verb: &'static str) -> Result<(), Error> {
        let names = [&self.pod_name, &self.pod_namespace, &self.node];
        match names.into_iter().all(|name| bounds::is_name(name)) {
            true => Ok(()),
            false => Err(Error::NoName(verb)),
        }
    }
}

impl Bounded for simulate::Request {
    const OBJECTS_MAX: usize = 300_000;

    /// It says itself how many pairs it takes.
    fn check(&self, _: &'static str) -> Result<(), Error> {
        Ok(())
    }
}

// === impl ExtenderArgs ===

impl<P: Into<Pod>> From<SentArgs<P>> for ExtenderArgs {
    fn from(sent: SentArgs<P>) -> Self {
        Self {
            pod: sent.pod.map(P::into),
            nodes: sent.nodes,
            node_names: sent.node_names,
        }
    }
}

impl ExtenderArgs {
    /// Names of the nodes that are offered, in the order sent. Names win, as kube-scheduler reads it.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        match (&self.node_names, &self.nodes) {
            (Some(names), _) => names.iter().collect(),
            (None, Some(nodes)) => nodes.names().map(|(_, name)| name).collect(),
            (None, None) => Vec::new(),
        }
    }
}

// === impl NodeList ===

impl NodeList {
    /// Places and names; a node without one is no node.
    fn names(&self) -> impl Iterator<Item = (usize, &str)> {
        let items = self.items.iter().enumerate();
        items.filter_map(|(place, item)| {
            let name = item.as_ref()?.metadata.name.as_deref()?;
            Some((place, name))
        })
    }
}

// === impl BindingArgs ===

impl BindingArgs {
    /// What is asked.
    #[must_use]
    pub fn request(self) -> bind::Request {
        bind::Request {
            namespace: self.pod_namespace,
            name: self.pod_name,
            uid: PodUid(self.pod_uid),
            node: self.node,
        }
    }
}

// === impl PreemptionArgs ===

impl PreemptionArgs {
    /// The nodes offered with their victims, in meta form. The form by uid wins where both came.
    #[must_use]
    pub fn victims(&self) -> BTreeMap<String, MetaVictims> {
        if let Some(by_uid) = &self.node_name_to_meta_victims {
            let all = by_uid.iter();
            return all
                .map(|(node, one)| (node.clone(), one.clone().unwrap_or_default()))
                .collect();
        }
        let whole = self.node_name_to_victims.iter().flatten();
        whole
            .map(|(node, one)| {
                (
                    node.clone(),
                    one.as_ref().map(Victims::by_uid).unwrap_or_default(),
                )
            })
            .collect()
    }
}

// === impl Victims ===

impl Victims {
    fn by_uid(&self) -> MetaVictims {
        let pods = self.pods.iter().map(|pod| MetaPod {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        });
        MetaVictims {
            pods: pods.collect(),
            pdb_violation_count: self.pdb_violation_count,
        }
    }
}

// === impl MetaVictims ===

impl MetaVictims {
    /// What is offered.
    #[must_use]
    pub fn offer(&self) -> Offer {
        let uids = self.pods.iter().map(|pod| PodUid::from(pod.uid.as_str()));
        Offer {
            victims: uids.collect(),
            violation_count: usize::try_from(self.pdb_violation_count).unwrap_or(0),
        }
    }
}

impl From<Eviction> for MetaVictims {
    fn from(eviction: Eviction) -> Self {
        let pods = eviction
            .victims
            .into_iter()
            .map(|uid| MetaPod { uid: uid.0 });
        Self {
            pods: pods.collect(),
            pdb_violation_count: i64::try_from(eviction.violation_count).unwrap_or(i64::MAX),
        }
    }
}

/// Go writes an empty slice as `null`.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
