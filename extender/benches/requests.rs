//! How long filter and prioritize take over 500 nodes of 8 GPUs, body to answer, and in how much
//! memory. Prints JSON: `cargo bench --profile dev -p berth-extender`.
//!
//! `undisturbedMs` leaves out requests during which the kernel gave the core to another process.
//! Between two requests one pod comes or goes somewhere, so that no snapshot is the last one's.

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_extender::answer::Service;
use berth_extender::bind::Binder;
use berth_extender::wire;
use berth_extender_core::decide::Preference;
use berth_extender_core::index::Index;
use berth_topology::assignment::{Assignment, ContainerAssignment, Rank};
use berth_topology::lease;
use berth_topology::names;
use berth_topology::node::NodeTopology;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde_json::{Value, json};

const NODES: usize = 500;
const REQUESTS: usize = 4_000;
/// Not counted: the first requests fill placement's memory of answers.
const WARM_UP: usize = 200;

/// What one request took.
#[derive(Clone, Copy)]
struct Took {
    wall: Duration,
    /// Another process ran in between.
    is_preempted: bool,
}

/// When one began, and what had happened by then.
struct Start {
    wall: Instant,
    preempted_count: u64,
}

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the result is what a benchmark prints")]
async fn main() -> Outcome<()> {
    let mut random = Random(7);
    let service = service(cluster(&mut random)?)?;
    let mut wall_ms = Vec::with_capacity(REQUESTS);
    let mut undisturbed_ms = Vec::with_capacity(REQUESTS);
    for number in 0..WARM_UP + REQUESTS {
        disturb(&service, number, &mut random)?;
        let took = request(&service, number)?;
        if number >= WARM_UP {
            wall_ms.push(took.wall.as_secs_f64() * 1_000.0);
            if !took.is_preempted {
                undisturbed_ms.push(took.wall.as_secs_f64() * 1_000.0);
            }
        }
    }
    println!("{}", report(&mut wall_ms, &mut undisturbed_ms)?);
    Ok(())
}

/// Every node a recorded machine, some of its GPUs held.
fn cluster(random: &mut Random) -> Outcome<Index> {
    let now = Instant::now();
    let mut index = Index::new(names::DEFAULT_RESOURCE, Duration::from_secs(3_600), now);
    let machines = [
        machine("dgx1-v100")?,
        machine("dgx-h100")?,
        machine("pix-8")?,
    ];
    let mut leases = Vec::new();
    for number in 0..NODES {
        let name = node_name(number);
        let node = json!({"metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        index.apply_node(&serde_json::from_value::<Node>(node)?);
        let topology = renamed(&machines[number % machines.len()], &name)?;
        index.apply_topology(&topology);
        leases.push(lease::encode(
            &name,
            None,
            MicroTime(jiff::Timestamp::UNIX_EPOCH),
        ));
        let free: Vec<String> = topology
            .status
            .iter()
            .flat_map(|status| &status.gpus)
            .filter(|_| random.below(2) == 0)
            .map(|gpu| gpu.uuid.0.clone())
            .collect();
        if !free.is_empty() {
            index.apply_pod(&bound(&format!("resident-{number}"), &name, &free)?);
        }
    }
    index.reset_leases(&leases, now);
    Ok(index)
}

fn machine(name: &str) -> Outcome<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../machines/{name}.json"));
    Ok(std::fs::read_to_string(path)?)
}

/// The machine with identities of its own: its UUIDs and its name.
fn renamed(text: &str, node: &str) -> Outcome<NodeTopology> {
    let mut topology: NodeTopology =
        serde_json::from_str(&text.replace("GPU-", &format!("GPU-{node}-")))?;
    topology.metadata.name = Some(node.to_owned());
    Ok(topology)
}

fn service(index: Index) -> Outcome<Service> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Never connected to: nothing is bound here.
    let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse()?))?;
    let index = Arc::new(Mutex::new(index));
    let metrics = Arc::default();
    Ok(Service {
        binder: Binder::new(index.clone(), client, Arc::clone(&metrics)),
        index,
        waiting: Arc::default(),
        decisions: Mutex::default(),
        metrics,
        resource: names::DEFAULT_RESOURCE.to_owned(),
        preference: Preference::Pack,
    })
}

/// One pod of one node goes, or comes back.
fn disturb(service: &Service, number: usize, random: &mut Random) -> Outcome<()> {
    let node = random.below(NODES);
    let mut index = service.index.lock().map_err(|_| "the index is poisoned")?;
    index.delete_pod(&format!("u-resident-{node}"));
    let name = node_name(node);
    let topology = machine_of(node)?;
    let held: Vec<String> = topology
        .iter()
        .filter(|_| random.below(2) == 0)
        .map(|uuid| uuid.replace("GPU-", &format!("GPU-{name}-")))
        .collect();
    let pod = bound(&format!("resident-{node}"), &name, &held)?;
    index.apply_pod(&if held.is_empty() {
        pending(&format!("p-{number}"), 1)?
    } else {
        pod
    });
    Ok(())
}

/// UUIDs of the machine that node is, as recorded.
fn machine_of(node: usize) -> Outcome<Vec<String>> {
    static UUIDS: Mutex<Vec<Vec<String>>> = Mutex::new(Vec::new());
    let mut known = UUIDS.lock().map_err(|_| "poisoned")?;
    if known.is_empty() {
        for name in ["dgx1-v100", "dgx-h100", "pix-8"] {
            let topology: NodeTopology = serde_json::from_str(&machine(name)?)?;
            let gpus = topology.status.unwrap_or_default().gpus;
            known.push(gpus.into_iter().map(|gpu| gpu.uuid.0).collect());
        }
    }
    Ok(known[node % 3].clone())
}

/// Filter, then prioritize the survivors, each from body to body.
fn request(service: &Service, number: usize) -> Outcome<Took> {
    let count = [1, 2, 4, 8][number % 4];
    let names: Vec<String> = (0..NODES).map(node_name).collect();
    let pod = pending(&format!("p-{number}"), count)?;
    let body = json!({"Pod": pod, "Nodes": null, "NodeNames": names}).to_string();
    let before = Start::now()?;
    let args = wire::decode("filter", body.as_bytes())?;
    let filtered = serde_json::to_vec(&service.filter(args))?;
    let filter_took = before.elapsed()?;
    let survivors: Value = serde_json::from_slice(&filtered)?;
    let body = json!({"Pod": pod, "Nodes": null, "NodeNames": survivors["NodeNames"]}).to_string();
    let before = Start::now()?;
    let args = wire::decode("prioritize", body.as_bytes())?;
    let scores = serde_json::to_vec(&service.prioritize(&args))?;
    let took = before.elapsed()?;
    if scores.len() < 2 {
        return Err("no answer to prioritize".into());
    }
    Ok(Took {
        wall: filter_took.wall + took.wall,
        is_preempted: filter_took.is_preempted || took.is_preempted,
    })
}

fn node_name(number: usize) -> String {
    format!("node-{number:03}")
}

fn pending(name: &str, gpu_count: usize) -> Outcome<Pod> {
    let limits = json!({names::DEFAULT_RESOURCE: gpu_count.to_string()});
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "bench", "uid": format!("u-{name}")},
        "spec": {"containers": [{"name": "c", "resources": {"limits": limits}}]},
    }))?)
}

fn bound(name: &str, node: &str, gpus: &[String]) -> Outcome<Pod> {
    let mut pod = pending(name, gpus.len())?;
    let rank = |(rank, gpu): (usize, &String)| Rank {
        rank,
        gpu: Some(gpu.as_str().into()),
        ..Rank::default()
    };
    let ranks = gpus.iter().enumerate().map(rank).collect();
    let container = ContainerAssignment {
        ranks,
        ..ContainerAssignment::default()
    };
    let assignment = Assignment {
        schema: names::SCHEMA.to_owned(),
        pod_uid: pod.metadata.uid.as_deref().map(Into::into),
        node: Some(node.into()),
        topology_hash: None,
        containers: [("c".to_owned(), container)].into(),
    };
    pod.metadata.annotations = Some([(names::ASSIGNMENT.to_owned(), assignment.encode())].into());
    pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
    Ok(pod)
}

fn report(wall_ms: &mut [f64], undisturbed_ms: &mut [f64]) -> Outcome<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mib = |key: &str| -> Option<u64> {
        let line = status.lines().find(|line| line.starts_with(key))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1_024)
    };
    let report = json!({
        "nodes": NODES, "gpusPerNode": 8, "requests": REQUESTS,
        "allMs": spread(wall_ms), "undisturbedMs": spread(undisturbed_ms), "undisturbed": undisturbed_ms.len(),
        "rssMib": mib("VmRSS:"), "rssPeakMib": mib("VmHWM:"),
    });
    Ok(report.to_string())
}

fn spread(times_ms: &mut [f64]) -> Value {
    times_ms.sort_by(f64::total_cmp);
    let at = |per_thousand: usize| times_ms[(times_ms.len() - 1) * per_thousand / 1_000];
    json!({"p50": at(500), "p90": at(900), "p99": at(990), "max": at(1_000)})
}

// === impl Start ===

impl Start {
    fn now() -> Outcome<Self> {
        Ok(Self {
            preempted_count: preempted_count()?,
            wall: Instant::now(),
        })
    }

    fn elapsed(&self) -> Outcome<Took> {
        let wall = self.wall.elapsed();
        Ok(Took {
            wall,
            is_preempted: preempted_count()? != self.preempted_count,
        })
    }
}

/// How often the kernel has taken the core from this thread.
fn preempted_count() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("nonvoluntary_ctxt_switches"));
    let count = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(count
        .ok_or("the status has no count of context switches")?
        .parse()?)
}

/// xorshift64*: the same numbers in every run.
struct Random(u64);

// === impl Random ===

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(value).unwrap_or(0) % limit
    }
}
