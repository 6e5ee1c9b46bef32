//! The agent's threads: one probes, one waits for NVML's events, one publishes.
//!
//! The first two may hang in a driver for minutes; the publisher then notices the age of what it has.

use std::io::Write;
use std::thread;

use anyhow::Context;
use berth_topology::matrix;
use berth_topology::node::{NodeTopology, Status};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::args::{Args, Print};
use crate::assemble::assemble;
use crate::history::{History, SharedHistory};
use crate::plugin;
use crate::probe::Probe;
use crate::prober::Prober;
use crate::publish::{Cluster, Given, Observation, Publisher};

/// Does what the command line says.
///
/// # Errors
///
/// When a record cannot be read, no cluster is configured, or with `--once` the one try failed.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    match (args.print, args.once) {
        (Some(print), _) => print_topology(args, print),
        (None, true) => publish_once(args).await,
        (None, false) => publish(args).await,
    }
}

/// Prints once, or each time that something changed.
fn print_topology(args: &Args, print: Print) -> anyhow::Result<()> {
    let (mut probe, mut history) = (Probe::new(args.source()), History::default());
    let mut printed: Option<Status> = None;
    loop {
        let raw = probe.read()?;
        let status = history.complete(assemble(&raw), jiff::Timestamp::now());
        if printed.as_ref().map(Status::without_volatile) != Some(status.without_volatile()) {
            let text = match print {
                Print::Raw => serde_json::to_string_pretty(&raw)? + "\n",
                Print::Matrix => matrix::draw(&status),
                Print::Json => {
                    let object = NodeTopology::new(args.node_name().as_str(), status.clone());
                    serde_json::to_string_pretty(&object)? + "\n"
                }
            };
            std::io::stdout()
                .write_all(text.as_bytes())
                .context("cannot print the topology")?;
            printed = Some(status);
        }
        if args.once {
            return Ok(());
        }
        thread::sleep(args.poll_every());
    }
}

async fn publish_once(args: &Args) -> anyhow::Result<()> {
    let status = assemble(&Probe::new(args.source()).read()?);
    let mut publisher = publisher(args).await?;
    publisher.observe(Observation {
        status,
        at: Instant::now(),
    });
    Ok(publisher.publish().await?)
}

/// Until a signal ends it.
async fn publish(args: &Args) -> anyhow::Result<()> {
    let cluster = Cluster::connect(args.kubeconfig.as_deref()).await?;
    let (sender, observations) = watch::channel(None);
    let (giver, given) = watch::channel(None);
    let history = SharedHistory::default();
    let serving = serve(args, &cluster, &observations, (giver, history.clone()));
    let publisher = Publisher::new(cluster, args.node_name(), history.clone());
    Prober::new(Probe::new(args.source()), args.poll_every(), sender)
        .start(history)
        .context("cannot start the probing threads")?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        () = serving => anyhow::bail!("the device plugin ended"),
        () = publisher.run(observations, given) => anyhow::bail!("the probing thread ended"),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// Never ends where the command line does not ask for it.
fn serve(
    args: &Args,
    cluster: &Cluster,
    observations: &watch::Receiver<Option<Observation>>,
    giving: (watch::Sender<Option<Given>>, SharedHistory),
) -> impl Future<Output = ()> + use<> {
    let settings = args.plugin.settings();
    let (client, node) = (cluster.client(), args.node_name());
    let observations = observations.clone();
    async move {
        match settings {
            Some(settings) => plugin::run(settings, client, node, observations, giving).await,
            None => {
                let _held: (watch::Sender<_>, _) = giving;
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn publisher(args: &Args) -> anyhow::Result<Publisher> {
    let cluster = Cluster::connect(args.kubeconfig.as_deref()).await?;
    Ok(Publisher::new(
        cluster,
        args.node_name(),
        SharedHistory::default(),
    ))
}
