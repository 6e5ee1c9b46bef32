//! Agents write NodeResourceTopologies as the API server takes them with the CRD of those who read them.

use anyhow::{Context as _, Result, ensure};
use berth_it::accounts;
use berth_it::agent::Agent;
use berth_it::cluster::{AGENT_ACCOUNT, Cluster, pod_template};
use berth_it::kubelet::join_node;
use berth_it::manifests::{self, apply, apply_files};
use berth_it::patches::{DAEMONSET, ZONES, write_zones};
use berth_it::story::story;
use berth_it::wait::{PATIENCE, eventually};
use berth_test_machine::raw as recorded;
use kube::api::{DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

const NODE: &str = "dgx";
const MACHINE: &str = "dgx1-v100";

#[test]
fn an_agent_writes_the_zones_of_its_node_and_of_no_other() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        let admin = cluster.admin();
        apply(admin, &crd()).await?;
        apply_files(admin, &[ZONES], &[]).await?;
        let _agent =
            Agent::start_patched(&cluster, NODE, &recorded(MACHINE), &[write_zones()]).await?;

        let zones = api(admin);
        let found = eventually("the zones to be written", PATIENCE, async || {
            Ok(zones.get(NODE).await?)
        })
        .await?;
        ensure!(found.data["topologyPolicies"] == json!(["None"]));
        let attribute = json!({"name": "topologyManagerPolicy", "value": "unknown"});
        let attributes = found.data["attributes"].as_array();
        ensure!(attributes.is_some_and(|all| all.contains(&attribute)));
        let expected: Vec<Value> = (0..2).map(zone).collect();
        ensure!(found.data["zones"] == json!(expected), "{:?}", found.data);

        join_node(admin, "other", 1).await?;
        let thief = agent_of(&cluster, "other").await?;
        eventually("the policy to be in force", PATIENCE, async || {
            let mut another = found.clone();
            another.metadata = kube::api::ObjectMeta::default();
            another.metadata.name = Some("third".to_owned());
            let answer = api(&thief).create(&rehearsal(), &another).await;
            let error = answer.err().context("it may write any node's")?;
            ensure!(
                error.to_string().contains("only objects named other"),
                "{error}"
            );
            Ok(())
        })
        .await
    })
}

fn rehearsal() -> PostParams {
    PostParams {
        dry_run: true,
        ..PostParams::default()
    }
}

/// Each socket has 40 CPUs, of which none is known to be reserved or held, and four GPUs.
fn zone(id: usize) -> Value {
    let all = |name: &str, count: &str| {
        json!({
            "name": name, "capacity": count, "allocatable": count, "available": count,
        })
    };
    let cost = |to: usize| {
        let value = if to == id { 10 } else { 21 };
        json!({"name": format!("node-{to}"), "value": value})
    };
    json!({
        "name": format!("node-{id}"), "type": "Node", "costs": [cost(0), cost(1)],
        "resources": [all("cpu", "40"), all("nvidia.com/gpu", "4")],
    })
}

async fn agent_of(cluster: &Cluster, node: &str) -> Result<Client> {
    let template = pod_template(&manifests::read(DAEMONSET, &[])?, "DaemonSet")?;
    let pod = cluster.agent_pod(node, &template).await?;
    let kubeconfig = cluster.kubeconfig_of(node, AGENT_ACCOUNT, Some(&pod));
    accounts::client(&kubeconfig.await?).await
}

fn api(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("topology.node.k8s.io", "v1alpha2", "NodeResourceTopology");
    let resource = ApiResource::from_gvk_with_plural(&kind, "noderesourcetopologies");
    Api::all_with(client.clone(), &resource)
}

/// The version that is stored, of `manifests/crd.yaml` in k8stopologyawareschedwg/noderesourcetopology-api
/// v0.1.2, which scheduler-plugins and Node Feature Discovery install: what it requires and allows. What it
/// does not name is dropped, as there.
fn crd() -> Value {
    let text = json!({"type": "string"});
    let list = |required: &[&str], properties: Value| {
        json!({"type": "array", "items": {
            "type": "object", "required": required, "properties": properties,
        }})
    };
    let quantity = json!({
        "anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": true,
        "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
    });
    let attributes = list(&["name", "value"], json!({"name": text, "value": text}));
    let costs = list(
        &["name", "value"],
        json!({"name": text, "value": {"type": "integer", "format": "int64"}}),
    );
    let resources = list(
        &["allocatable", "available", "capacity", "name"],
        json!({"allocatable": quantity, "available": quantity, "capacity": quantity, "name": text}),
    );
    let zones = list(
        &["name", "type"],
        json!({
            "name": text, "type": text, "parent": text,
            "attributes": attributes, "costs": costs, "resources": resources,
        }),
    );
    let schema = json!({"type": "object", "required": ["zones"], "properties": {
        "topologyPolicies": {"type": "array", "items": text},
        "attributes": attributes,
        "zones": zones,
    }});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "noderesourcetopologies.topology.node.k8s.io",
            "annotations": {
                "api-approved.kubernetes.io": "https://github.com/kubernetes/enhancements/pull/1870",
            },
        },
        "spec": {
            "group": "topology.node.k8s.io",
            "scope": "Cluster",
            "names": {
                "kind": "NodeResourceTopology", "listKind": "NodeResourceTopologyList",
                "plural": "noderesourcetopologies", "singular": "noderesourcetopology",
                "shortNames": ["node-res-topo"],
            },
            "versions": [{
                "name": "v1alpha2", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    })
}
