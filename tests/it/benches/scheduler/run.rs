//! One run: so many pods wait, the scheduler starts, and the time from its first binding to its last.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use berth_it::cluster::{
    Cluster, NAMESPACE, SCHEDULER_ACCOUNT, container_args, mount_file, pod_template,
};
use berth_it::patches::{self, DEPLOYMENT, PairPlace, SCHEDULER_CONFIG, SchedulerPlace};
use berth_it::pods::{self, gpu_pod};
use berth_it::ports::free_port;
use berth_it::process::{OnExit, Process, Program};
use berth_it::wait::{PATIENCE, eventually};
use berth_it::{http1, manifests, programs};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::{facts, metrics};

/// Until every pod is bound, on a loaded machine.
const RUN_WITHIN: Duration = Duration::from_secs(120);
/// So long an extender that has started lets pass what a process before it may have sent.
const FORMER_WITHIN: Duration = Duration::from_secs(4);
/// Requests under way at once.
const AT_ONCE: usize = 8;

/// What schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Variant {
    /// kube-scheduler and the extender, as shipped.
    With,
    /// The same kube-scheduler, its configuration without the extender.
    Without,
}

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) pods_per_second: f64,
    /// The extender's own figures.
    extender: Option<Value>,
    stolen_ticks: u64,
    load: Value,
}

/// The programs of one run.
#[derive(Debug)]
struct Schedulers {
    _scheduler: Process,
    extender: Option<(Process, u16)>,
}

pub(crate) async fn run(
    cluster: &Cluster,
    variant: Variant,
    number: usize,
    count: usize,
) -> Result<Outcome> {
    let admin = cluster.admin();
    let names = (0..count).map(|pod| format!("{variant}-{number}-{pod}"));
    let posted = stream::iter(names)
        .map(|name| async move { pods::create(admin, &gpu_pod(&name, 1, &[])).await.map(drop) });
    posted
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    release_lease(admin).await?;

    let stolen = facts::stolen_ticks();
    let watching = tokio::spawn(bindings(pods::api(admin), count));
    let schedulers = Schedulers::start(cluster, variant).await?;
    let bound = tokio::time::timeout(RUN_WITHIN, watching).await;
    let took =
        bound.with_context(|| format!("{variant}: not every pod was bound in time"))???;
    let extender = match &schedulers.extender {
        Some((_, port)) => Some(metrics::read(*port).await?),
        None => None,
    };
    drop(schedulers);
    remove_pods(admin).await?;
    let intervals = u32::try_from(count.saturating_sub(1))?;
    Ok(Outcome {
        pods_per_second: f64::from(intervals) / took.as_secs_f64(),
        extender,
        stolen_ticks: facts::stolen_ticks() - stolen,
        load: facts::load(),
    })
}

/// From the first binding seen to the last of `count`.
async fn bindings(api: Api<Pod>, count: usize) -> Result<Duration> {
    let mut versions = Box::pin(api.watch(&WatchParams::default(), "0").await?);
    let mut bound = BTreeSet::new();
    let mut first = None;
    while let Some(version) = versions.try_next().await? {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = version else {
            continue;
        };
        if pods::node(&pod).is_empty() || !bound.insert(pod.name_any()) {
            continue;
        }
        let first = *first.get_or_insert_with(Instant::now);
        if bound.len() == count {
            return Ok(first.elapsed());
        }
    }
    bail!("the watch ended with {} of {count} pods bound", bound.len())
}

/// The last run's scheduler was killed; the next one must not wait until its lease is over.
async fn release_lease(admin: &Client) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(admin.clone(), NAMESPACE);
    if leases.get_opt(SCHEDULER_ACCOUNT).await?.is_some() {
        leases
            .delete(SCHEDULER_ACCOUNT, &DeleteParams::default())
            .await?;
    }
    Ok(())
}

async fn remove_pods(admin: &Client) -> Result<()> {
    let api = pods::api(admin);
    let now = DeleteParams::default().grace_period(0);
    api.delete_collection(&now, &ListParams::default()).await?;
    eventually("the pods to be gone", PATIENCE, async || {
        let left = api.list_metadata(&ListParams::default()).await?.items.len();
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await
}

// === impl Schedulers ===

impl Schedulers {
    /// As the manifests start them; the extender first, so that the scheduler never waits for it.
    async fn start(cluster: &Cluster, variant: Variant) -> Result<Self> {
        let name = "bench";
        let kubeconfig = cluster.kubeconfig_of(name, SCHEDULER_ACCOUNT, None).await?;
        let extender_port = free_port()?;
        let config = cluster.folder.join("bench-scheduler.yaml");
        let patches = patches::of_pair(&PairPlace {
            extender_port,
            scheduler: SchedulerPlace {
                extender_url: &format!("http://127.0.0.1:{extender_port}"),
                port: free_port()?,
                kubeconfig: &kubeconfig,
                config: &config,
            },
        });
        let map = manifests::read(SCHEDULER_CONFIG, &patches)?;
        let text = manifests::find(&map, "ConfigMap")?["data"]["scheduler.yaml"].as_str();
        mount_file(
            &config,
            &variant.config(text.context("reading the scheduler's configuration")?)?,
        )?;
        let template = pod_template(&manifests::read(DEPLOYMENT, &patches)?, "Deployment")?;

        let extender = match variant {
            Variant::Without => None,
            Variant::With => {
                let program = Program::new("bench-extender", &programs::ours("berth-extender")?)
                    .args(container_args(&template, "extender", &[])?)
                    .env("KUBECONFIG", &kubeconfig.to_string_lossy())
                    .env("RUST_LOG", "warn")
                    .host_name(name);
                let process = Process::start(program, OnExit::Stay, &cluster.folder)?;
                wait_until_ready(extender_port).await?;
                tokio::time::sleep(FORMER_WITHIN).await;
                Some((process, extender_port))
            }
        };
        let program = Program::new(
            "bench-kube-scheduler",
            &programs::control_plane()?.join("kube-scheduler"),
        )
        .args(container_args(&template, "kube-scheduler", &[])?)
        .host_name(name);
        Ok(Self {
            _scheduler: Process::start(program, OnExit::Stay, &cluster.folder)?,
            extender,
        })
    }
}

async fn wait_until_ready(port: u16) -> Result<()> {
    eventually("the extender to be ready", PATIENCE, async || {
        let answer = http1::get(port, "/readyz").await?;
        ensure!(answer.status == 200, "/readyz answers {}", answer.status);
        Ok(())
    })
    .await
}

// === impl Variant ===

impl Variant {
    fn config(self, shipped: &str) -> Result<String> {
        let mut config: Value = serde_yaml_ng::from_str(shipped)?;
        if self == Self::Without {
            let map = config
                .as_object_mut()
                .context("the configuration is no map")?;
            map.remove("extenders")
                .context("the shipped configuration names no extender")?;
        }
        Ok(serde_yaml_ng::to_string(&config)?)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::With => "with",
            Self::Without => "without",
        })
    }
}

// === impl Outcome ===

impl Outcome {
    pub(crate) fn report(&self) -> Value {
        json!({"pods_per_second": self.pods_per_second, "extender": self.extender,
            "stolen_ticks": self.stolen_ticks, "load": self.load})
    }
}
