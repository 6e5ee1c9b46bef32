//! How long a decision takes: `cargo bench -p berth-placement`.
//!
//! First figures, one JSON line each: the worst and the middle of many different questions. Then
//! criterion's statistics of a few of them.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot read its own fixture fails its bench"
)]

mod figures;
#[path = "../../tests/it/graphs.rs"]
mod graphs;
mod machines;
#[path = "../../tests/it/wiring.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod wiring;

use std::hint::black_box;

use berth_placement::{Machine, place};
use berth_topology::claim::GpuClaim;
use criterion::{BatchSize, Criterion};

fn main() {
    // Only `cargo bench` says so; whoever builds and runs every target wants no figures.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    figures::print();
    let mut criterion = Criterion::default().configure_from_args();
    for (name, gpu_count) in [("dgx1-v100", 4), ("dgx-h100", 4), ("dgx2", 8)] {
        decisions(&mut criterion, name, gpu_count);
    }
    criterion.final_summary();
}

/// One claim on one whole machine: asked first, and asked again.
fn decisions(criterion: &mut Criterion, name: &str, gpu_count: usize) {
    let status = machines::recorded(name);
    let claim = GpuClaim::of_count(gpu_count);
    let mut group = criterion.benchmark_group(format!("{name}/{gpu_count}"));
    group.bench_function("build", |bencher| {
        bencher.iter(|| black_box(Machine::new(&status)));
    });
    group.bench_function("first", |bencher| {
        bencher.iter_batched_ref(
            || Machine::new(&status),
            |machine| black_box(place(machine, machine.usable(), &claim)),
            BatchSize::SmallInput,
        );
    });
    let machine = Machine::new(&status);
    group.bench_function("again", |bencher| {
        bencher.iter(|| black_box(place(&machine, machine.usable(), &claim)));
    });
    group.finish();
}
