//! What the admission policies forbid is refused, and what the services need is not.

use anyhow::{Context as _, Result, ensure};
use berth_it::accounts;
use berth_it::cluster::{AGENT_ACCOUNT, Cluster, NAMESPACE, SCHEDULER_ACCOUNT, topologies};
use berth_it::kubelet::join_node;
use berth_it::pods;
use berth_it::story::story;
use berth_topology::claim::PodClaim;
use berth_topology::names;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

#[test]
fn an_agent_may_write_its_own_node_and_no_other() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        join_node(cluster.admin(), "own", 4).await?;
        join_node(cluster.admin(), "other", 4).await?;
        let agent = agent_client(&cluster, "own").await?;

        allowed(
            "create its NodeTopology",
            create_topology(&agent, "own").await,
        )?;
        allowed("write its status", write_status(&agent, "own").await)?;
        allowed("create its lease", create_lease(&agent, "own").await)?;
        allowed(
            "label its node",
            label(&agent, "own", "berth.dev/gpu-count").await,
        )?;
        allowed(
            "relabel its node",
            label(&agent, "own", "berth.dev/gpu-count").await,
        )?;

        let admin = cluster.admin();
        allowed(
            "(the administrator prepares)",
            create_topology(admin, "other").await,
        )?;
        forbidden(
            "only objects named own",
            create_topology(&agent, "third").await,
        )?;
        forbidden(
            "only objects named own",
            write_status(&agent, "other").await,
        )?;
        forbidden(
            "only objects named own",
            create_lease(&agent, "other").await,
        )?;
        forbidden(
            "may not change the Node other",
            label(&agent, "other", "berth.dev/x").await,
        )?;
        forbidden(
            "labels that begin with berth.dev/",
            label(&agent, "own", "zone").await,
        )?;
        let cordon = json!({"spec": {"unschedulable": true}});
        forbidden(
            "nothing of its Node but the labels",
            patch_node(&agent, "own", cordon).await,
        )?;
        let annotate = json!({"metadata": {"annotations": {names::FREED: "now"}}});
        forbidden(
            "nothing of its Node but the labels",
            patch_node(&agent, "own", annotate).await,
        )
    })
}

#[test]
fn an_agents_token_that_names_no_node_is_worth_nothing() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        join_node(cluster.admin(), "own", 4).await?;
        let loose = cluster.kubeconfig_of("loose", AGENT_ACCOUNT, None).await?;
        let loose = accounts::client(&loose).await?;
        forbidden("names no node", create_topology(&loose, "own").await)?;
        forbidden("names no node", create_lease(&loose, "own").await)?;
        forbidden(
            "may not change the Node own",
            label(&loose, "own", "berth.dev/x").await,
        )
    })
}

#[test]
fn only_the_extender_sets_an_assignment_however_it_is_written() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        // The administrator may do everything that RBAC knows of: what stops him is the policy.
        let user = cluster.admin();
        join_node(user, "node", 4).await?;
        let only = "only Berth's extender";
        let forged = json!({"metadata": {"annotations": {names::ASSIGNMENT: "{}"}}});

        let with_annotation = pods::gpu_pod("forged", 1, &[(names::ASSIGNMENT, "{}")]);
        forbidden(
            only,
            pods::api(user)
                .create(&PostParams::default(), &with_annotation)
                .await,
        )?;
        pods::create(user, &pods::gpu_pod("plain", 1, &[])).await?;
        forbidden(only, patch_pod(user, &forged).await)?;
        forbidden(only, patch_pod_status(user, &forged).await)?;
        forbidden(only, bind(user, "/pods/plain/binding", Some("{}")).await)?;
        forbidden(only, bind(user, "/bindings", Some("{}")).await)?;

        let extender = cluster
            .kubeconfig_of("extender", SCHEDULER_ACCOUNT, None)
            .await?;
        let extender = accounts::client(&extender).await?;
        allowed(
            "bind and assign",
            bind(&extender, "/pods/plain/binding", Some("{}")).await,
        )?;
        let pod = pods::api(user).get("plain").await?;
        ensure!(pods::node(&pod) == "node", "one write sets the node");
        let annotation = pod
            .metadata
            .annotations
            .unwrap_or_default()
            .remove(names::ASSIGNMENT);
        ensure!(
            annotation.as_deref() == Some("{}"),
            "and the annotation: {annotation:?}"
        );

        let changed = json!({"metadata": {"annotations": {names::ASSIGNMENT: "{\"a\":1}"}}});
        forbidden(only, patch_pod(user, &changed).await)?;
        let taken = json!({"metadata": {"annotations": {names::ASSIGNMENT: null}}});
        forbidden(only, patch_pod(user, &taken).await)?;
        let label = json!({"metadata": {"labels": {"a": "b"}}});
        allowed("label an assigned pod", patch_pod(user, &label).await)
    })
}

#[test]
fn the_extender_may_poke_a_node_and_do_nothing_else_to_it() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        join_node(cluster.admin(), "node", 4).await?;
        let extender = cluster
            .kubeconfig_of("extender", SCHEDULER_ACCOUNT, None)
            .await?;
        let extender = accounts::client(&extender).await?;
        for poke in ["1", "2"] {
            let poke = json!({"metadata": {"annotations": {names::FREED: poke}}});
            allowed("poke", patch_node(&extender, "node", poke).await)?;
        }
        let other = json!({"metadata": {"annotations": {"other": "1"}}});
        forbidden(
            "no annotation of a Node but",
            patch_node(&extender, "node", other).await,
        )?;
        let cordon = json!({"spec": {"unschedulable": true}});
        forbidden(
            "nothing of a Node but",
            patch_node(&extender, "node", cordon).await,
        )?;
        forbidden(
            "nothing of a Node but",
            label(&extender, "node", "berth.dev/x").await,
        )
    })
}

/// The example has never run on a GPU; what it asks is at least a Pod, and reads as four ranks.
#[test]
fn the_example_that_runs_vllm_is_a_pod_and_asks_for_four_linked_gpus() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        let file = "scheduler-config/optional/vllm-pod.yaml";
        for mut object in berth_it::manifests::read(file, &[])? {
            object["metadata"]["namespace"] = json!(pods::NAMESPACE);
            berth_it::manifests::apply(cluster.admin(), &object).await?;
        }
        let pod = pods::api(cluster.admin()).get("vllm").await?;
        let claim = PodClaim::of_pod(&pod, names::DEFAULT_RESOURCE)?;
        let asked: Vec<_> = claim.containers.iter().map(|one| &one.claim).collect();
        ensure!(claim.gpu_count() == 4 && asked.len() == 1, "{claim:?}");
        ensure!(asked[0].tensor_parallel_size == Some(4), "{claim:?}");
        Ok(())
    })
}

#[test]
fn the_optional_policy_sends_gpu_pods_to_our_scheduler_and_leaves_others_alone() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        let admin = cluster.admin();
        let file = "scheduler-config/optional/mutate-scheduler-name.yaml";
        berth_it::manifests::apply_files(admin, &[file], &[]).await?;
        let rehearse = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let scheduler_of = async |pod: &Pod| -> Result<String> {
            let made = pods::api(admin).create(&rehearse, pod).await?;
            made.spec
                .and_then(|spec| spec.scheduler_name)
                .context("reading the scheduler's name")
        };
        let with_scheduler = |name: Option<&str>, gpu_count| {
            let mut pod = pods::gpu_pod("pod", gpu_count, &[]);
            let spec = pod.spec.get_or_insert_default();
            spec.scheduler_name = name.map(ToOwned::to_owned);
            if gpu_count == 0 {
                spec.containers[0].resources = None;
            }
            pod
        };
        berth_it::wait::eventually("the policy", berth_it::wait::PATIENCE, async || {
            let name = scheduler_of(&with_scheduler(None, 1)).await?;
            ensure!(name == names::SCHEDULER, "a GPU pod goes to {name}");
            Ok(())
        })
        .await?;
        ensure!(scheduler_of(&with_scheduler(None, 0)).await? == "default-scheduler");
        ensure!(scheduler_of(&with_scheduler(Some("mine"), 1)).await? == "mine");
        Ok(())
    })
}

async fn agent_client(cluster: &Cluster, node: &str) -> Result<Client> {
    let objects = berth_it::manifests::read(berth_it::patches::DAEMONSET, &[])?;
    let template = berth_it::cluster::pod_template(&objects, "DaemonSet")?;
    let pod = cluster.agent_pod(node, &template).await?;
    accounts::client(
        &cluster
            .kubeconfig_of(node, AGENT_ACCOUNT, Some(&pod))
            .await?,
    )
    .await
}

async fn create_topology(client: &Client, node: &str) -> kube::Result<DynamicObject> {
    let kind = GroupVersionKind::gvk(names::GROUP, names::VERSION, "NodeTopology");
    let resource = ApiResource::from_gvk_with_plural(&kind, "nodetopologies");
    let object = DynamicObject::new(node, &resource);
    topologies(client)
        .create(&PostParams::default(), &object)
        .await
}

async fn write_status(client: &Client, node: &str) -> kube::Result<DynamicObject> {
    let status = Patch::Merge(json!({"status": {"gpus": [], "numa": []}}));
    topologies(client)
        .patch_status(node, &PatchParams::default(), &status)
        .await
}

async fn create_lease(client: &Client, node: &str) -> kube::Result<Lease> {
    let mut lease = Lease::default();
    lease.metadata.name = Some(node.to_owned());
    Api::namespaced(client.clone(), NAMESPACE)
        .create(&PostParams::default(), &lease)
        .await
}

async fn label(client: &Client, node: &str, key: &str) -> kube::Result<Node> {
    patch_node(client, node, json!({"metadata": {"labels": {key: "1"}}})).await
}

async fn patch_node(client: &Client, node: &str, patch: Value) -> kube::Result<Node> {
    let nodes: Api<Node> = Api::all(client.clone());
    nodes
        .patch(node, &PatchParams::default(), &Patch::Merge(patch))
        .await
}

async fn patch_pod(client: &Client, patch: &Value) -> kube::Result<Pod> {
    pods::api(client)
        .patch("plain", &PatchParams::default(), &Patch::Merge(patch))
        .await
}

async fn patch_pod_status(client: &Client, patch: &Value) -> kube::Result<Pod> {
    pods::api(client)
        .patch_status("plain", &PatchParams::default(), &Patch::Merge(patch))
        .await
}

/// Both ways to bind: the pod's subresource, and the older collection.
async fn bind(client: &Client, path: &str, assignment: Option<&str>) -> kube::Result<Value> {
    let annotations = assignment.map(|text| json!({names::ASSIGNMENT: text}));
    let body = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": "plain", "annotations": annotations},
        "target": {"kind": "Node", "name": "node"},
    });
    let path = format!("/api/v1/namespaces/{}{path}", pods::NAMESPACE);
    let request = http::Request::post(path)
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())
        .expect("this is a request");
    client.request(request).await
}

#[track_caller]
fn allowed<T>(what: &str, answer: kube::Result<T>) -> Result<()> {
    answer
        .map(drop)
        .with_context(|| format!("it should be allowed to {what}"))
}

/// Refused by that policy's sentence, not by RBAC, not by a conflict.
#[track_caller]
fn forbidden<T>(sentence: &str, answer: kube::Result<T>) -> Result<()> {
    let Err(error) = answer else {
        anyhow::bail!("expected a refusal with `{sentence}`")
    };
    let text = error.to_string();
    ensure!(
        text.contains(sentence),
        "expected a refusal with `{sentence}`, got: {text}"
    );
    Ok(())
}
