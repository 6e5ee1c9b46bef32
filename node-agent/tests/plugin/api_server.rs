//! Plays the API server for the pods of one node: list, watch, and a watch that lags.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use k8s_openapi::api::core::v1::Pod;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

/// The server.
#[derive(Clone)]
pub(crate) struct ApiServer {
    state: Arc<Mutex<State>>,
    /// Counts events.
    events: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    pods: BTreeMap<String, Pod>,
    /// Each event a watch can be told, first first.
    log: Vec<Value>,
    lists: usize,
    watch_is_stuck: bool,
    is_silent: bool,
}

// === impl ApiServer ===

impl ApiServer {
    pub(crate) fn start() -> Self {
        let state = Arc::default();
        let events = watch::Sender::new(0);
        Self { state, events }
    }

    pub(crate) fn client(&self) -> kube::Client {
        let server = self.clone();
        let answer = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            let query = request.uri().query().unwrap_or_default().to_owned();
            async move { Ok::<_, Infallible>(server.answer(&query).await) }
        });
        kube::Client::new(answer, "default")
    }

    /// A pod was bound or has changed.
    pub(crate) fn apply(&self, pod: Pod) {
        self.change("MODIFIED", pod);
    }

    /// A pod is gone.
    pub(crate) fn delete(&self, pod: Pod) {
        self.change("DELETED", pod);
    }

    /// From now on the watch tells nothing.
    pub(crate) fn stall_watch(&self) {
        self.state.lock().unwrap().watch_is_stuck = true;
    }

    /// From now on nothing is answered.
    pub(crate) fn fall_silent(&self) {
        self.state.lock().unwrap().is_silent = true;
    }

    /// Lists that were asked for.
    pub(crate) fn lists(&self) -> usize {
        self.state.lock().unwrap().lists
    }

    fn change(&self, kind: &str, pod: Pod) {
        let mut state = self.state.lock().unwrap();
        let name = pod.metadata.name.clone().unwrap();
        let mut pod = pod;
        pod.metadata.resource_version = Some((state.log.len() + 1).to_string());
        state
            .log
            .push(json!({"type": kind, "object": object(&pod)}));
        if kind == "DELETED" {
            state.pods.remove(&name);
        } else {
            state.pods.insert(name, pod);
        }
        let count = state.log.len();
        drop(state);
        self.events.send_replace(count);
    }

    async fn answer(&self, query: &str) -> Response<Body> {
        assert!(
            query.contains("fieldSelector=spec.nodeName%3Dn1"),
            "{query}"
        );
        if self.state.lock().unwrap().is_silent {
            std::future::pending::<()>().await;
        }
        let text = if query.contains("watch=true") {
            self.watch(query).await
        } else {
            self.list()
        };
        Response::new(Body::from(text.into_bytes()))
    }

    fn list(&self) -> String {
        let mut state = self.state.lock().unwrap();
        state.lists += 1;
        let items: Vec<Value> = state.pods.values().map(object).collect();
        let version = state.log.len().to_string();
        json!({
            "apiVersion": "v1", "kind": "PodList",
            "metadata": {"resourceVersion": version}, "items": items,
        })
        .to_string()
    }

    /// What is new since that version; the client then asks again.
    async fn watch(&self, query: &str) -> String {
        let mut versions = query.split('&');
        let from = versions.find_map(|pair| pair.strip_prefix("resourceVersion="));
        let from: usize = from.and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut events = self.events.subscribe();
        let _ = events.wait_for(|count| *count > from).await;
        let is_stuck = self.state.lock().unwrap().watch_is_stuck;
        if is_stuck {
            std::future::pending::<()>().await;
        }
        let state = self.state.lock().unwrap();
        let lines = state.log[from..].iter().map(|event| format!("{event}\n"));
        lines.collect()
    }
}

fn object(pod: &Pod) -> Value {
    let mut value = serde_json::to_value(pod).unwrap();
    value["apiVersion"] = json!("v1");
    value["kind"] = json!("Pod");
    value
}
