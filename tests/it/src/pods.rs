//! Pods that ask for GPUs, and what became of them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use berth_topology::assignment::Assignment;
use berth_topology::names;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::wait::{PATIENCE, eventually};

/// Where the stories' pods live.
pub const NAMESPACE: &str = "default";
/// The name of the one container of [`gpu_pod`].
pub const CONTAINER: &str = "engine";

/// A pod of one container that asks for so many GPUs as the ranks of one model.
///
/// # Panics
/// Never: the object is written here.
#[must_use]
pub fn gpu_pod(name: &str, gpu_count: usize, annotations: &[(&str, &str)]) -> Pod {
    let mut pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "schedulerName": names::SCHEDULER,
            "containers": [{
                "name": CONTAINER,
                "image": "berth/engine:0.1.0",
                "resources": {"limits": {"nvidia.com/gpu": gpu_count.to_string()}},
            }],
        },
    }))
    .expect("this is a pod");
    pod.annotations_mut().insert(
        names::TENSOR_PARALLEL_SIZE.to_owned(),
        gpu_count.to_string(),
    );
    let given = annotations
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    pod.annotations_mut().extend(given);
    pod
}

/// The stories' pods.
#[must_use]
pub fn api(client: &Client) -> Api<Pod> {
    Api::namespaced(client.clone(), NAMESPACE)
}

/// Posts a pod.
///
/// # Errors
/// When the API server refuses it.
pub async fn create(client: &Client, pod: &Pod) -> Result<Pod> {
    let created = api(client).create(&PostParams::default(), pod).await;
    created.with_context(|| format!("posting pod {}", pod.name_any()))
}

/// Waits until a pod has a node, and reads its assignment.
///
/// # Errors
/// When it gets none in time (with what the scheduler said), or one without an assignment for it.
pub async fn bound(client: &Client, name: &str, within: Duration) -> Result<(Pod, Assignment)> {
    let pod = eventually(&format!("pod {name} to be bound"), within, async || {
        let pod = api(client).get(name).await?;
        let has_node = pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.node_name.is_some());
        ensure!(
            has_node,
            "it has no node; {:?}",
            refusals(client, name).await?
        );
        Ok(pod)
    })
    .await?;
    let assignment = assignment(&pod)?;
    Ok((pod, assignment))
}

/// Waits until a pod is in that phase: a kubelet says so.
///
/// # Errors
/// When it is in another one at the end.
pub async fn reached(client: &Client, name: &str, phase: &str, within: Duration) -> Result<Pod> {
    eventually(&format!("pod {name} to be {phase}"), within, async || {
        let pod = api(client).get(name).await?;
        let status = pod.status.as_ref();
        let now = status.and_then(|status| status.phase.as_deref());
        ensure!(now == Some(phase), "it is {status:?}");
        Ok(pod)
    })
    .await
}

/// What one version of a pod shows of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// It is bound.
    pub has_node: bool,
    /// It carries an assignment.
    pub has_assignment: bool,
}

/// Watches a pod that is not there yet: every version of it until it is bound. Watching begins when this
/// is called, not when the result is awaited.
///
/// # Errors
/// When the watch ends, or nothing is bound, first.
pub fn states_until_bound(
    client: &Client,
    name: &str,
) -> impl Future<Output = Result<Vec<State>>> + use<> {
    let (api, name) = (api(client), name.to_owned());
    let watching = tokio::spawn(async move {
        let only = WatchParams::default().fields(&format!("metadata.name={name}"));
        let mut versions = Box::pin(api.watch(&only, "0").await?);
        let mut states = Vec::new();
        while let Some(version) = versions.try_next().await? {
            let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = version else {
                continue;
            };
            let has_assignment = pod.annotations().contains_key(names::ASSIGNMENT);
            let state = State {
                has_node: !node(&pod).is_empty(),
                has_assignment,
            };
            states.push(state);
            if state.has_node {
                break;
            }
        }
        ensure!(
            states.last().is_some_and(|last| last.has_node),
            "the watch ended at {states:?}"
        );
        Ok(states)
    });
    async {
        tokio::time::timeout(PATIENCE, watching)
            .await
            .context("waiting for the binding")??
    }
}

/// The assignment on a bound pod, checked to be for that very pod and node.
///
/// # Errors
/// When there is none, or one for another.
pub fn assignment(pod: &Pod) -> Result<Assignment> {
    let name = pod.name_any();
    let text = pod.annotations().get(names::ASSIGNMENT);
    let text = text.with_context(|| format!("finding the assignment on pod {name}"))?;
    let assignment = Assignment::decode(text)?;
    let json: serde_json::Value = serde_json::from_str(text)?;
    ensure!(
        json["podUid"] == json!(pod.uid()),
        "pod {name} has another's assignment: {text}"
    );
    ensure!(
        json["node"] == json!(node(pod)),
        "pod {name} was bound elsewhere: {text}"
    );
    Ok(assignment)
}

/// The node that a pod is on; empty when it has none.
#[must_use]
pub fn node(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

/// How many GPUs a pod asks for.
#[must_use]
pub fn gpu_count(pod: &Pod) -> usize {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let limits = containers.filter_map(|container| container.resources.as_ref()?.limits.as_ref());
    let counts = limits.filter_map(|limits| limits.get("nvidia.com/gpu")?.0.parse::<usize>().ok());
    counts.sum()
}

/// The GPUs' positions on their node, in order of position.
#[must_use]
pub fn indices(assignment: &Assignment) -> Vec<u64> {
    let ranks = assignment
        .containers
        .values()
        .flat_map(|container| &container.ranks);
    let json = ranks.map(|rank| serde_json::to_value(rank).unwrap_or_default());
    let indices: BTreeSet<u64> = json.filter_map(|rank| rank["index"].as_u64()).collect();
    indices.into_iter().collect()
}

/// What kube-scheduler's FailedScheduling events say of a pod, in the order in which they were first seen.
///
/// # Errors
/// When the events cannot be listed.
pub async fn refusals(client: &Client, name: &str) -> Result<Vec<String>> {
    let events: Api<Event> = Api::namespaced(client.clone(), NAMESPACE);
    let of_pod = format!("involvedObject.name={name},reason=FailedScheduling");
    let events = events.list(&ListParams::default().fields(&of_pod)).await?;
    Ok(events
        .items
        .into_iter()
        .filter_map(|event| event.message)
        .collect())
}

/// Waits until a pod is refused with a text that has all of these parts.
///
/// # Errors
/// When no such refusal is seen in time.
pub async fn refused(
    client: &Client,
    name: &str,
    parts: &[&str],
    within: Duration,
) -> Result<String> {
    eventually(
        &format!("pod {name} to be refused with {parts:?}"),
        within,
        async || {
            let texts = refusals(client, name).await?;
            let found = texts
                .iter()
                .find(|text| parts.iter().all(|part| text.contains(part)));
            found
                .cloned()
                .with_context(|| format!("it was refused with {texts:?}"))
        },
    )
    .await
}

/// Checks that no GPU is given to two pods.
///
/// # Errors
/// When the pods cannot be listed, or two hold one GPU.
pub async fn none_shares_a_gpu(client: &Client) -> Result<()> {
    let mut given = BTreeSet::new();
    for pod in api(client).list(&ListParams::default()).await? {
        if node(&pod).is_empty() {
            continue;
        }
        for gpu in assignment(&pod)?.gpus() {
            let first = given.insert(format!("{gpu:?}"));
            ensure!(
                first,
                "{gpu:?} is given to {} and to another pod",
                pod.name_any()
            );
        }
    }
    Ok(())
}
