//! `./x bench extender`: how long the real binary takes to answer kube-scheduler, over HTTP, beside a
//! large cluster that changes meanwhile. Prints one JSON object; progress goes to stderr.
//!
//! The API server is one of our own ([`api`]): it serves lists and watches of a generated cluster
//! ([`cluster`]), so that the extender runs as it is shipped. Where `--peer` names another extender,
//! it is sent the same bodies in alternation.

use std::error::Error;
use std::thread;
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};

mod api;
mod cluster;
mod extender;
mod facts;
mod objects;
mod play;
mod random;
mod times;
mod waits;

use crate::api::Api;
use crate::cluster::Cluster;
use crate::extender::Extender;
use crate::play::{Form, Round, Target};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Times filter and prioritize of berth-extender, and of others, on the same requests.
///
/// Starts the real binary against an API server that serves a generated cluster: nodes and pods of
/// real size, NodeTopologies of recorded machines, leases that are renewed every 15 s. Then offers
/// pods of 1, 2, 4 and 8 GPUs to so many nodes at a time, while pods come and go.
///
/// `undisturbed` leaves out requests that waited longer than 100 µs for a core, and slices of the run in
/// which the hypervisor stole time: what is left says what the program does, whoever else runs here.
#[derive(Debug, Parser)]
#[command(name = "./x bench extender", version)]
struct Args {
    /// Nodes of 8 GPUs in the cluster.
    #[arg(long, default_value_t = 5_000)]
    nodes: usize,
    /// Pods with GPUs on them.
    #[arg(long, default_value_t = 20_000)]
    pods: usize,
    /// Node names in one request, one round for each number; none above --nodes.
    #[arg(long, value_delimiter = ',', default_value = "500,1000,5000")]
    offer: Vec<usize>,
    /// Whole Node objects in one request (nodeCacheCapable: false); 0 leaves this round out.
    #[arg(long, default_value_t = 500)]
    whole: usize,
    /// Let the cluster's pods work in groups of eight (berth.dev/group), and each pod that asks join one.
    #[arg(long)]
    grouped: bool,
    /// Pairs of filter and prioritize in one round.
    #[arg(long, default_value_t = 2_000)]
    requests: usize,
    /// Another extender, up to the verb: http://127.0.0.1:9001/scheduler. Played in alternation with ours.
    #[arg(long)]
    peer: Option<String>,
    /// Its process, so that what disturbs it is seen.
    #[arg(long, requires = "peer")]
    peer_pid: Option<u32>,
    /// Do not start ours.
    #[arg(long, requires = "peer")]
    only_peer: bool,
    /// Port of the API server, for a peer that is to see the same cluster; any free one unless given.
    #[arg(long, default_value_t = 0)]
    api_port: u16,
    /// Seed of the cluster and of the requests.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// The answer is JSON with or without this.
    #[arg(long)]
    json: bool,
    /// `cargo bench` gives it.
    #[arg(long, hide = true)]
    bench: bool,
}

#[expect(clippy::print_stdout, reason = "the result is what a benchmark prints")]
fn main() -> Outcome<()> {
    let args = Args::parse();
    let load_before = facts::load();
    say(&format!(
        "generating {} nodes and {} pods",
        args.nodes, args.pods
    ));
    let cluster = Cluster::generate(args.nodes, args.pods, args.seed, args.grouped)?;
    let api = Api::serve(cluster.objects(), args.api_port)?;
    say(&format!("its API server: {}", api.url));

    let mut report = facts::facts();
    report["nodes"] = json!(args.nodes);
    report["pods"] = json!(args.pods);
    report["grouped"] = json!(args.grouped);
    report["load_before"] = load_before;
    let mut ours = start(&args, &api, &mut report)?;
    play(&args, cluster, &api, ours.as_mut(), &mut report)?;
    report["load_after"] = facts::load();
    println!("{report}");
    Ok(())
}

/// Ours, started twice: the second time the machine's caches are warm, as at a restart.
fn start(args: &Args, api: &Api, report: &mut Value) -> Outcome<Option<Extender>> {
    if args.only_peer {
        return Ok(None);
    }
    let first = Extender::start(&api.url)?;
    let ready_first_s = first.ready_s;
    drop(first);
    let ours = Extender::start(&api.url)?;
    say(&format!(
        "ready after {ready_first_s:.2} s, restarted after {:.2} s, {} MiB",
        ours.ready_s,
        ours.rss_mib().0
    ));
    report["ready_s"] = json!({"first": ready_first_s, "restart": ours.ready_s});
    Ok(Some(ours))
}

fn play(
    args: &Args,
    mut cluster: Cluster,
    api: &Api,
    ours: Option<&mut Extender>,
    report: &mut Value,
) -> Outcome<()> {
    let mut targets = Vec::new();
    if let Some(ours) = &ours {
        targets.push(Target::new("ours", &ours.url, Some(ours.pid())));
    }
    if let Some(url) = &args.peer {
        targets.push(Target::new("peer", url, args.peer_pid));
    }
    for target in &targets {
        target.wait()?;
    }
    let names = args.offer.iter().map(|count| (Form::Names, *count));
    let whole = (args.whole > 0).then_some((Form::Whole, args.whole));
    let mut rounds = Vec::new();
    for (form, count) in names.chain(whole) {
        let count = count.min(args.nodes);
        say(&format!("{} requests with {count} {form}", args.requests));
        let round = Round {
            form,
            count,
            // A whole-node request is fifty times as long.
            requests: if form == Form::Whole {
                args.requests.div_ceil(10)
            } else {
                args.requests
            },
        };
        rounds.push(round.play(&targets, &mut cluster, api)?);
        // What a round leaves behind (freed memory, a full socket) settles before the next.
        thread::sleep(Duration::from_millis(200));
    }
    report["rounds"] = Value::Array(rounds);
    if let Some(ours) = ours {
        let (rss, peak) = ours.rss_mib();
        report["rss_mib"] = json!(rss);
        report["rss_peak_mib"] = json!(peak);
        report["still_running"] = json!(ours.is_running());
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "progress is for people")]
fn say(what: &str) {
    eprintln!("bench: {what}");
}
