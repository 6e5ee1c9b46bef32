//! The agent's two threads: one probes, one publishes.
//!
//! A probe may hang in a driver for minutes; the publisher then notices the age of what it has.

use std::io::Write;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use berth_topology::matrix;
use berth_topology::node::{NodeTopology, Status};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::error;

use crate::args::{Args, Print};
use crate::assemble::assemble;
use crate::history::History;
use crate::plugin;
use crate::probe::Probe;
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
        let status = history.complete(assemble(&raw), &jiff::Timestamp::now().to_string());
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
    let serving = serve(args, &cluster, &observations, giver);
    let publisher = Publisher::new(cluster, args.node_name());
    let probe = Probe::new(args.source());
    let every = args.poll_every();
    // not joined: a probe that hangs in a driver must not keep the process from ending
    let _probing = thread::Builder::new()
        .name("probe".to_owned())
        .spawn(move || keep_probing(probe, every, &sender))
        .context("cannot start the probing thread")?;
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
    given: watch::Sender<Option<Given>>,
) -> impl Future<Output = ()> + use<> {
    let settings = args.plugin.settings();
    let (client, node) = (cluster.client(), args.node_name());
    let observations = observations.clone();
    async move {
        match settings {
            Some(settings) => plugin::run(settings, client, node, observations, given).await,
            None => {
                let _held: watch::Sender<_> = given;
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn publisher(args: &Args) -> anyhow::Result<Publisher> {
    let cluster = Cluster::connect(args.kubeconfig.as_deref()).await?;
    Ok(Publisher::new(cluster, args.node_name()))
}

/// Until nobody listens.
fn keep_probing(
    mut probe: Probe,
    every: Duration,
    observations: &watch::Sender<Option<Observation>>,
) {
    while !observations.is_closed() {
        match probe.read() {
            Ok(raw) => {
                let (status, at) = (assemble(&raw), Instant::now());
                observations.send_replace(Some(Observation { status, at }));
            }
            Err(error) => error!(error = %anyhow::Error::from(error), "no probe"),
        }
        thread::sleep(every);
    }
}
