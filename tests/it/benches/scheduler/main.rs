//! `./x bench scheduler`: pods per second on a thousand nodes with the extender, and with the same
//! kube-scheduler alone. Prints one JSON object as the last line; progress goes to stderr.
//!
//! etcd, API server and scheduler are real, and so are the shipped manifests; kwok plays the kubelets.
//! The pods are there before the scheduler starts, so that neither their creation nor its start is timed.

use std::collections::BTreeMap;

use anyhow::Result;
use berth_it::cluster::Cluster;
use berth_it::story::{Stage, story};
use clap::Parser;
use serde_json::{Value, json};

#[path = "../../../../extender/benches/requests/facts.rs"]
mod facts;
mod fleet;
mod metrics;
mod run;

use crate::fleet::Fleet;
use crate::run::{Outcome, Variant};

/// Pods per second with the extender and without it, in alternation.
///
/// Needs Go for the control plane and for kwok; the first run builds both, which takes minutes.
#[derive(Debug, Parser)]
#[command(name = "./x bench scheduler", version)]
struct Args {
    /// Nodes of 8 GPUs.
    #[arg(long, default_value_t = 1_000)]
    nodes: usize,
    /// Pods of one GPU in each run.
    #[arg(long, default_value_t = 500)]
    pods: usize,
    /// Runs of each kind; the median counts.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// `cargo bench` gives it.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    story(async |stage| bench(stage, &args).await)
}

#[expect(clippy::print_stdout, reason = "the result is what a benchmark prints")]
async fn bench(stage: &Stage, args: &Args) -> Result<()> {
    let load_before = facts::load();
    let kwok = fleet::kwok()?;
    say("starting the control plane");
    let cluster = Cluster::start(stage).await?;
    say(&format!("{} nodes join", args.nodes));
    let _fleet = Fleet::start(&cluster, &kwok, args.nodes).await?;
    let mut outcomes: BTreeMap<Variant, Vec<Outcome>> = BTreeMap::new();
    for number in 1..=args.runs {
        for variant in [Variant::With, Variant::Without] {
            let outcome = run::run(&cluster, variant, number, args.pods).await?;
            say(&format!(
                "run {number} of {}, {variant}: {:.1} pods/s",
                args.runs, outcome.pods_per_second
            ));
            outcomes.entry(variant).or_default().push(outcome);
        }
    }
    let mut report = facts::facts();
    report["nodes"] = json!(args.nodes);
    report["pods"] = json!(args.pods);
    report["load_before"] = load_before;
    report["load_after"] = facts::load();
    compare(&outcomes, &mut report);
    println!("{report}");
    Ok(())
}

fn compare(outcomes: &BTreeMap<Variant, Vec<Outcome>>, report: &mut Value) {
    let mut medians = BTreeMap::new();
    for (variant, outcomes) in outcomes {
        let mut rates: Vec<f64> = outcomes.iter().map(|one| one.pods_per_second).collect();
        rates.sort_by(f64::total_cmp);
        let median = rates[rates.len() / 2];
        medians.insert(*variant, median);
        report[variant.to_string()] = json!({
            "pods_per_second_median": median,
            "runs": outcomes.iter().map(Outcome::report).collect::<Vec<_>>(),
        });
    }
    if let (Some(with), Some(without)) =
        (medians.get(&Variant::With), medians.get(&Variant::Without))
    {
        report["with_over_without"] = json!(with / without);
    }
}

#[expect(clippy::print_stderr, reason = "progress is for people")]
fn say(what: &str) {
    eprintln!("bench: {what}");
}
