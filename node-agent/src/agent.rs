//! The agent's threads: one probes, one waits for NVML's events, one publishes.
//!
//! The first two may hang in a driver for minutes; the publisher then notices the age of what it has.

use std::io::Write;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use berth_topology::matrix;
use berth_topology::node::{NodeTopology, Status};
use futures::future::OptionFuture;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::args::{Args, Listen, Print};
use crate::assemble::assemble;
use crate::configz::Told;
use crate::history::{History, SharedHistory};
use crate::listen::Endpoint;
use crate::plugin;
use crate::probe::Probe;
use crate::prober::Prober;
use crate::publish::{Cluster, Given, Observation, Publisher};
use crate::tally::Tally;
use crate::{configz, feature_file, zones};

/// Does what the command line says.
///
/// # Errors
///
/// When a record cannot be read, no cluster is configured, or with `--once` the one try failed.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    match (args.print, args.once) {
        (Some(print), _) => print_topology(args, print).await,
        (None, true) => publish_once(args).await,
        (None, false) => Box::pin(publish(args)).await,
    }
}

/// Prints once, or each time that something changed. The kubelet is asked once.
async fn print_topology(args: &Args, print: Print) -> anyhow::Result<()> {
    let (told, _asking) = ask_kubelet(args).await;
    let mut probe = Probe::new(args.source()).told(told);
    let mut history = History::default();
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
    let (told, _asking) = ask_kubelet(args).await;
    let status = assemble(&Probe::new(args.source()).told(told).read()?);
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
    let tally = Arc::new(Tally::default());
    let listening = listen(args, &tally);
    let sharing = share(args, &cluster, &tally);
    let giving = (giver, history.clone());
    let serving = serve(args, &cluster, &observations, giving, &tally);
    let publisher = Publisher::new(cluster, args.node_name(), history.clone());
    let publisher = publisher.counted(tally.clone());
    let (told, asking) = ask_kubelet(args).await;
    let probe = Probe::new(args.source()).told(told);
    Prober::new(probe, args.poll_every(), sender)
        .counted(tally)
        .start(history)
        .context("cannot start the probing threads")?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        Some(()) = OptionFuture::from(asking) => anyhow::bail!("nobody asks the kubelet"),
        () = sharing => anyhow::bail!("nobody tells what is published"),
        () = listening => anyhow::bail!("the endpoint of metrics ended"),
        () = serving => anyhow::bail!("the device plugin ended"),
        () = publisher.run(observations, given) => anyhow::bail!("the probing thread ended"),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// What the kubelet tells, where it is to be asked, and who asks it again and again. Asked once before the
/// machine is: so an agent that starts anew does not publish for a moment that nothing is known.
async fn ask_kubelet(args: &Args) -> (Option<Told>, Option<impl Future<Output = ()> + use<>>) {
    let Some(kubelet) = args.kubelet() else {
        return (None, None);
    };
    let first = kubelet.told().await;
    configz::log(&first);
    let (sender, told) = watch::channel(first);
    (Some(told), Some(kubelet.keep(sender)))
}

/// The feature file and the zones, where they are asked for; never ends.
fn share(args: &Args, cluster: &Cluster, tally: &Tally) -> impl Future<Output = ()> + use<> {
    let file = args.feature_file.clone();
    let file = file.map(|path| feature_file::keep(path, tally.follow()));
    let resource = args.plugin.plugin_resource.clone();
    let zones = args
        .node_resource_topology
        .then(|| zones::keep(cluster.client(), args.node_name(), resource, tally.follow()));
    async move {
        tokio::join!(OptionFuture::from(file), OptionFuture::from(zones));
        std::future::pending::<()>().await;
    }
}

/// Metrics and health; never ends.
fn listen(args: &Args, tally: &Arc<Tally>) -> impl Future<Output = ()> + use<> {
    let (at, poll_every, tally) = (args.listen, args.poll_every(), tally.clone());
    async move {
        match at {
            Listen::Off => std::future::pending().await,
            Listen::At(address) => {
                let endpoint = Endpoint {
                    address,
                    tally,
                    poll_every,
                };
                endpoint.run().await;
            }
        }
    }
}

/// Never ends where the command line does not ask for it.
fn serve(
    args: &Args,
    cluster: &Cluster,
    observations: &watch::Receiver<Option<Observation>>,
    giving: (watch::Sender<Option<Given>>, SharedHistory),
    tally: &Arc<Tally>,
) -> impl Future<Output = ()> + use<> {
    let settings = args.plugin.settings(tally);
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
