//! The figures: many questions, the worst and the middle of their times.

use std::hint::black_box;
use std::time::{Duration, Instant};

use berth_placement::{GpuSet, Machine, place};
use berth_topology::claim::GpuClaim;
use berth_topology::node::Status;

use crate::graphs::{Seeded, graph};
use crate::machines::{degraded, of_count, worn};

/// Each question is timed so often on a machine of its own, and its least time counts: what other
/// work on the computer adds is not the decision's.
const REPEATS: usize = 4;

/// When a question is asked.
#[derive(Clone, Copy)]
enum When {
    /// Nothing was asked of the machine before; reading it is not counted.
    First,
    /// The same was asked before.
    Again,
}

/// One claim out of some free GPUs.
struct Question {
    free: GpuSet,
    claim: GpuClaim,
}

/// Prints all figures.
pub(crate) fn print() {
    let of_eight: Vec<Status> = of_count(8).into_iter().map(|(_, status)| status).collect();
    let all: Vec<GpuSet> = (1..256).map(GpuSet::from_bits).collect();
    let sizes = |count: usize| (1..=count).map(GpuClaim::of_count).collect::<Vec<_>>();
    figure(
        "8 GPUs, recorded, first",
        &of_eight,
        &all,
        &sizes(8),
        When::First,
    );
    figure(
        "8 GPUs, recorded, again",
        &of_eight,
        &all,
        &sizes(8),
        When::Again,
    );
    let random: Vec<Status> = (0..100).map(|seed| graph(seed, 8, 8)).collect();
    figure(
        "8 GPUs, random, first",
        &random,
        &some(8, 24),
        &sizes(8),
        When::First,
    );
    figure(
        "8 GPUs, in groups, first",
        &of_eight,
        &some(8, 24),
        &groups(8),
        When::First,
    );

    for (wear, of_sixteen) in [
        ("one degraded link", sixteens(with_degraded_link)),
        ("one worn GPU", sixteens(with_worn_gpu)),
    ] {
        let named = |name: &str| format!("16 GPUs, recorded, {wear}, {name}");
        let (free, some_free) = (some(16, 40), some(16, 4));
        let (first, again) = (When::First, When::Again);
        figure(&named("first"), &of_sixteen, &free, &sizes(16), first);
        figure(&named("again"), &of_sixteen, &free, &sizes(16), again);
        let groups = groups(16);
        figure(&named("in groups"), &of_sixteen, &some_free, &groups, first);
    }
    let random: Vec<Status> = (0..12).map(|seed| graph(seed, 16, 16)).collect();
    figure(
        "16 GPUs, random, first",
        &random,
        &some(16, 2),
        &sizes(16),
        When::First,
    );
    figure(
        "16 GPUs, random, in groups",
        &random[..2],
        &some(16, 0),
        &groups(16),
        When::First,
    );
    build("8 GPUs, read", &of_eight);
    build("16 GPUs, read", &sixteens(with_degraded_link));
}

/// Each recorded machine of sixteen, whole and worn.
fn sixteens(wear: impl Fn(&Status) -> Vec<Status>) -> Vec<Status> {
    let whole = of_count(16).into_iter().map(|(_, status)| status);
    whole
        .flat_map(|status| wear(&status).into_iter().chain([status]))
        .collect()
}

fn with_degraded_link(status: &Status) -> Vec<Status> {
    [0, 9, 100].map(|link| degraded(status, link)).to_vec()
}

fn with_worn_gpu(status: &Status) -> Vec<Status> {
    [0, 11].map(|gpu| worn(status, gpu)).to_vec()
}

/// All free, and some more free sets.
fn some(gpu_count: usize, sets: u64) -> Vec<GpuSet> {
    let all = GpuSet::first(gpu_count);
    let bits = u32::try_from(all.bits()).expect("up to 32 GPUs");
    let some = (0..sets).map(|seed| GpuSet::from_bits(Seeded(seed).bits(bits).into()));
    std::iter::once(all).chain(some).collect()
}

/// Every way to ask for several equal groups.
fn groups(gpu_count: usize) -> Vec<GpuClaim> {
    let ways = (2..gpu_count).flat_map(|size| (2..=gpu_count / size).map(move |m| (size, m)));
    ways.map(|(size, count)| GpuClaim {
        tensor_parallel_size: Some(size),
        ..GpuClaim::of_count(size * count)
    })
    .collect()
}

fn figure(name: &str, machines: &[Status], free: &[GpuSet], claims: &[GpuClaim], when: When) {
    let mut times = Vec::new();
    for status in machines {
        for free in free {
            for claim in claims.iter().filter(|claim| claim.gpu_count <= free.len()) {
                let question = Question {
                    free: *free,
                    claim: claim.clone(),
                };
                let asked = format!("{} of {free:?}", claim.gpu_count);
                times.push((least_time(status, &question, when), asked));
            }
        }
    }
    report(name, times);
}

fn least_time(status: &Status, question: &Question, when: When) -> Duration {
    let ask = |machine: &Machine| black_box(place(machine, question.free, &question.claim)).is_ok();
    let time = |_| {
        let machine = Machine::new(status);
        if matches!(when, When::Again) {
            ask(&machine);
        }
        let start = Instant::now();
        ask(&machine);
        start.elapsed()
    };
    (0..REPEATS).map(time).min().unwrap_or_default()
}

fn build(name: &str, machines: &[Status]) {
    let time = |status: &Status| {
        let times = (0..REPEATS).map(|_| {
            let start = Instant::now();
            black_box(Machine::new(status));
            start.elapsed()
        });
        times.min().unwrap_or_default()
    };
    let times = machines.iter().map(time);
    report(name, times.map(|time| (time, String::new())).collect());
}

#[expect(clippy::print_stdout, reason = "the figures are the output")]
fn report(name: &str, mut times: Vec<(Duration, String)>) {
    times.sort_unstable();
    let us =
        |time: Option<&(Duration, String)>| time.map_or(0.0, |(time, _)| time.as_secs_f64() * 1e6);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let line = serde_json::json!({
        "name": name,
        "worst_us": (us(times.last()) * 10.0).round() / 10.0,
        "p50_us": (us(times.get(times.len() / 2)) * 10.0).round() / 10.0,
        "cases": times.len(),
        "worst": times.last().map(|(_, asked)| asked),
        "load": load.split(' ').next(),
    });
    println!("{line}");
}
