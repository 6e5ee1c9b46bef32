//! Answers kube-scheduler: filter, prioritize, bind, preempt.
//!
//! ```text
//! API server ─watch─► index ─snapshot─► decide ─► answer ─► http ◄─► kube-scheduler
//!      ▲                ▲                            │
//!      └──── bind ◄─────┴─── reserve ◄───────────────┘
//! ```
//!
//! `wire` alone knows kube-scheduler's JSON; `watch`, `bind` and `poke` alone know the client. What is
//! decided, and from what, lies in `berth_extender_core`, which knows neither, nor any clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use berth_extender_core::index::Index;
use berth_extender_core::leader::Leader;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::task::JoinSet;

pub mod answer;
pub mod args;
pub mod bind;
pub mod http;
pub mod metrics;
pub mod poke;
pub mod tls;
pub mod watch;
pub mod wire;

#[cfg(test)]
mod fake_api;
#[cfg(test)]
mod pitfalls;

/// Watches the cluster and serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the configuration cannot be used or the address cannot be listened on. A cluster that does
/// not answer is no error: it is waited for, and readiness says so.
pub async fn run(args: &args::Args) -> anyhow::Result<()> {
    let listen = http::Listen {
        address: args.listen.clone(),
        tls: tls_config(args)?,
    };
    let client = client(args)
        .await
        .context("finding out how to reach the cluster")?;
    let mut index = Index::new(&args.resource, args.stale_after.0, Instant::now());
    index.rack_label.clone_from(&args.rack_label);
    let index = Arc::new(Mutex::new(index));
    let leader = Arc::new(Mutex::new(Leader::new(args.leader_identity()?)));
    let metrics: Arc<metrics::Metrics> = Arc::default();
    let service = Arc::new(answer::Service {
        index: index.clone(),
        binder: bind::Binder::new(index.clone(), client.clone(), metrics.clone()),
        waiting: Arc::default(),
        decisions: Mutex::default(),
        metrics,
        resource: args.resource.clone(),
        preference: args.preference(),
    });
    let leader_of = (&leader, args.leader_lease());
    let mut tasks = watch::spawn(&client, &index, leader_of, &service.metrics);
    spawn_poke(&mut tasks, client, service.clone(), leader.clone());
    let shared = http::Shared {
        service,
        leader,
        runtime: tokio::runtime::Handle::current(),
    };
    let server = http::serve(listen, shared).context("listening for kube-scheduler")?;
    tokio::select! {
        served = server => served.context("serving kube-scheduler"),
        Some(ended) = tasks.join_next() => ended.context("a background task ended"),
    }
}

fn tls_config(args: &args::Args) -> anyhow::Result<Option<rustls::ServerConfig>> {
    let files = args.tls()?;
    files
        .as_ref()
        .map(tls::server_config)
        .transpose()
        .context("preparing TLS")
}

async fn client(args: &args::Args) -> anyhow::Result<kube::Client> {
    let config = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None => kube::Config::infer().await?,
    };
    Ok(kube::Client::try_from(config)?)
}

fn spawn_poke(
    tasks: &mut JoinSet<()>,
    client: kube::Client,
    service: Arc<answer::Service>,
    leader: Arc<Mutex<Leader>>,
) {
    tasks.spawn(async move {
        let mut ticks = tokio::time::interval(poke::LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let leads = lock(&leader).leads(Instant::now());
            match poke::look(&client, &service.index, &service.waiting, leads).await {
                Ok(true) => service.metrics.poked("poked"),
                Ok(false) => {}
                Err(error) => {
                    service.metrics.poked("failed");
                    tracing::warn!(%error, "poking a node");
                }
            }
        }
    });
}

/// Nothing under our locks panics half-way through a change that matters; a lock that was held
/// during a panic elsewhere is as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
