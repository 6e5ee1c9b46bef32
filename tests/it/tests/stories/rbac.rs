//! What the extender's own account may do, asked of the API server with that account's token: all that it
//! needs, and nothing else.

use anyhow::{Context as _, Result, ensure};
use berth_it::accounts;
use berth_it::cluster::{Cluster, NAMESPACE};
use berth_it::kubelet::join_node;
use berth_it::manifests::apply_files;
use berth_it::patches::STANDALONE;
use berth_it::pods;
use berth_it::story::story;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

/// The account of an extender that stands alone; beside a scheduler it shares that one's account, which
/// has the same rules and what any kube-scheduler needs.
const ACCOUNT: &str = "berth-extender";

/// Verb, group, resource, subresource: in every namespace.
const ALLOWED: [(&str, &str, &str, &str); 9] = [
    ("list", "", "nodes", ""),
    ("watch", "", "nodes", ""),
    ("patch", "", "nodes", ""),
    ("get", "", "pods", ""),
    ("list", "", "pods", ""),
    ("watch", "", "pods", ""),
    ("create", "", "pods", "binding"),
    ("list", "berth.dev", "nodetopologies", ""),
    ("watch", "berth.dev", "nodetopologies", ""),
];

/// Of one that it has no business with.
const REFUSED: [(&str, &str, &str, &str); 18] = [
    ("list", "", "secrets", ""),
    ("get", "", "configmaps", ""),
    ("create", "", "pods", ""),
    ("patch", "", "pods", ""),
    ("update", "", "pods", ""),
    ("delete", "", "pods", ""),
    ("create", "", "pods", "exec"),
    ("create", "", "pods", "eviction"),
    ("patch", "", "pods", "status"),
    ("create", "", "bindings", ""),
    ("update", "", "nodes", ""),
    ("delete", "", "nodes", ""),
    ("patch", "", "nodes", "status"),
    ("get", "", "nodes", "proxy"),
    ("patch", "berth.dev", "nodetopologies", ""),
    ("create", "coordination.k8s.io", "leases", ""),
    ("update", "coordination.k8s.io", "leases", ""),
    ("create", "", "serviceaccounts", "token"),
];

#[test]
fn the_extenders_account_may_do_what_it_needs_and_nothing_else() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        apply_files(cluster.admin(), &[STANDALONE], &[]).await?;
        let kubeconfig = cluster.kubeconfig_of("alone", ACCOUNT, None).await?;
        let extender = accounts::client(&kubeconfig).await?;
        for ask in &ALLOWED {
            ensure!(may(&extender, ask, "").await?, "it needs {ask:?}");
        }
        for verb in ["get", "list", "watch"] {
            let ask = (verb, "coordination.k8s.io", "leases", "");
            ensure!(may(&extender, &ask, NAMESPACE).await?, "it needs {ask:?}");
            ensure!(!may(&extender, &ask, "kube-system").await?, "not elsewhere");
        }
        for ask in &REFUSED {
            for namespace in ["", NAMESPACE, pods::NAMESPACE] {
                let allowed = may(&extender, ask, namespace).await?;
                ensure!(!allowed, "it may {ask:?} in `{namespace}`");
            }
        }
        do_it(&cluster, &extender).await
    })
}

/// The same by doing.
async fn do_it(cluster: &Cluster, extender: &Client) -> Result<()> {
    join_node(cluster.admin(), "node", 4).await?;
    pods::create(cluster.admin(), &pods::gpu_pod("pod", 1, &[])).await?;
    let pods = pods::api(extender);
    pods.get("pod").await.context("reading a pod")?;
    let secrets: Api<Secret> = Api::namespaced(extender.clone(), NAMESPACE);
    forbidden(secrets.list(&ListParams::default()).await)?;
    let label = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    forbidden(pods.patch("pod", &PatchParams::default(), &label).await)?;
    forbidden(pods.delete("pod", &DeleteParams::default()).await)?;
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "pod"},
        "target": {"kind": "Node", "name": "node"},
    });
    bind(extender, "?timeout=30s", &binding).await?;
    Ok(())
}

async fn bind(client: &Client, query: &str, body: &serde_json::Value) -> kube::Result<()> {
    let path = format!(
        "/api/v1/namespaces/{}/pods/pod/binding{query}",
        pods::NAMESPACE
    );
    let request = http::Request::post(path)
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())
        .expect("this is a request");
    client.request::<serde_json::Value>(request).await.map(drop)
}

async fn may(client: &Client, ask: &(&str, &str, &str, &str), namespace: &str) -> Result<bool> {
    let (verb, group, resource, subresource) = *ask;
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                verb: text(verb),
                group: text(group),
                resource: text(resource),
                subresource: text(subresource),
                namespace: text(namespace),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await;
    let answer = answer.context("asking what is allowed")?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[track_caller]
fn forbidden<T>(answer: kube::Result<T>) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
        Err(other) => Err(other).context("expected a 403"),
        Ok(_) => anyhow::bail!("expected a 403"),
    }
}
