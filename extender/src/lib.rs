//! Answers kube-scheduler: filter, prioritize, bind, preempt.
//!
//! ```text
//! API server ─watch─► index ─snapshot─► decide ─► answer ─► http ◄─► kube-scheduler
//!      ▲                ▲                            │
//!      └──── bind ◄─────┴─── reserve ◄───────────────┘
//! ```
//!
//! `wire` alone knows kube-scheduler's JSON; `watch`, `leadership`, `bind`, `confirm`, `evict` and
//! `poke` alone know the client. What is decided, and from what, lies in `berth_extender_core`, which
//! knows neither, nor any clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use berth_extender_core::index::Index;
use berth_extender_core::leader::Standing;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};

use crate::leadership::Leadership;

pub mod answer;
pub mod args;
pub mod bind;
pub mod confirm;
pub mod evict;
pub mod http;
pub mod leadership;
pub mod metrics;
pub mod poke;
pub mod tls;
pub mod watch;
pub mod wire;

#[cfg(test)]
mod fake_api;
#[cfg(test)]
mod pitfalls;

/// Longest that bindings under way are waited for at the end.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Longest that, told to end, it waits for its scheduler to give the lease back, to say then that all
/// bindings are over. Both are told at once; a scheduler that was not told gives nothing back.
const LAST_WORD_MAX: Duration = Duration::from_secs(2);

/// Watches the cluster and serves until SIGTERM or SIGINT. Then bindings under way are finished, and
/// none is started.
///
/// # Errors
/// When the configuration cannot be used or the address cannot be listened on. A cluster that does
/// not answer is no error: it is waited for, and readiness says so.
pub async fn run(args: &args::Args) -> anyhow::Result<()> {
    let identity = args.tls()?.map(tls::Identity::load).transpose();
    let identity = identity.context("preparing TLS")?;
    let listen = http::Listen {
        address: args.listen.clone(),
        tls: identity.as_ref().map(tls::Identity::server_config),
    };
    let config = cluster_config(args)
        .await
        .context("finding out how to reach the cluster")?;
    let client = kube::Client::try_from(config)?;
    let mut index = Index::new(&args.resource, args.stale_after.0, Instant::now());
    index.rack_label.clone_from(&args.rack_label);
    let leadership = Arc::new(Leadership::new(args.leader_identity()?, Instant::now()));
    let mut service = answer::Service::new(index, client.clone());
    service.binder = service.binder.while_leading(leadership.clone());
    service.stranded = args.preempt_for_topology.then(Arc::default);
    service.preference = args.preference();
    let service = Arc::new(service);
    let index = service.index.clone();
    let mut tasks = watch::spawn(&client, &index, &leadership, &service.metrics);
    leadership::spawn_look(&mut tasks, &leadership);
    if let Some(lease) = args.leader_lease() {
        leadership::spawn(&mut tasks, &client, lease, &leadership, &service.metrics);
        leadership::spawn_say(&mut tasks, &client, lease, &leadership, &service.binder);
    }
    if let Some(evictor) = evict::Evictor::new(client.clone(), &service, &leadership) {
        tasks.spawn(evictor.run());
    }
    confirm::spawn(&mut tasks, client.clone(), index.clone());
    spawn_poke(&mut tasks, client, service.clone(), leadership.clone());
    let shared = http::Shared {
        service: service.clone(),
        leadership: leadership.clone(),
        runtime: tokio::runtime::Handle::current(),
        bodies: http::Budget::default(),
        connections: Arc::default(),
        identity: identity.clone(),
    };
    tasks.spawn(shared.connections.clone().sweep());
    if let Some(identity) = identity {
        tasks.spawn(identity.follow());
    }
    let server = http::serve(listen, shared).context("listening for kube-scheduler")?;
    let handle = server.handle();
    tokio::pin!(server);
    tokio::select! {
        served = &mut server => return served.context("serving kube-scheduler"),
        Some(ended) = tasks.join_next() => return ended.context("a background task ended"),
        told = told_to_end() => told.context("listening for signals")?,
    }
    tracing::info!("ending: no binding is started any more");
    lock(&leadership.leader).retire();
    let last_word_by = tokio::time::Instant::now() + LAST_WORD_MAX;
    let (_, served) = tokio::join!(handle.stop(true), server);
    if timeout(DRAIN_MAX, service.binder.drain()).await.is_err() {
        tracing::warn!("ending while bindings are under way");
    }
    // Without it the next replica waits longer.
    let _ = timeout_at(last_word_by, leadership.owes_nothing()).await;
    served.context("serving kube-scheduler")
}

/// Resolves on SIGTERM or SIGINT.
async fn told_to_end() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn cluster_config(args: &args::Args) -> anyhow::Result<kube::Config> {
    let mut config = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None => kube::Config::infer().await?,
    };
    // The client would send again what was answered with 429, 503 or 504. A binding would get its time
    // anew, and could take effect when another replica serves. Whoever asks here tries again by himself.
    config.default_retry = false;
    Ok(config)
}

fn spawn_poke(
    tasks: &mut JoinSet<()>,
    client: kube::Client,
    service: Arc<answer::Service>,
    leadership: Arc<Leadership>,
) {
    tasks.spawn(async move {
        let mut ticks = tokio::time::interval(poke::LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let leads = leadership.standing() == Standing::Serves;
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
