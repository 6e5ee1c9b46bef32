//! The recorded machines of `machines/`.

use std::fs;
use std::path::PathBuf;

use berth_placement::{GpuSet, Machine, Placement, place};
use berth_topology::claim::GpuClaim;
use berth_topology::node::{NodeTopology, Status};
use expect_test::{Expect, expect};

use crate::brute::Brute;
use crate::graphs::Seeded;

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "machines"]
        .iter()
        .collect()
}

fn recorded(name: &str) -> Status {
    let text = fs::read_to_string(folder().join(format!("{name}.json"))).unwrap();
    let topology: NodeTopology = serde_json::from_str(&text).unwrap();
    topology.status.unwrap()
}

fn names() -> Vec<String> {
    let entries = fs::read_dir(folder()).unwrap();
    let files = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let stems = files.filter_map(|name| Some(name.strip_suffix(".json")?.to_owned()));
    let mut names: Vec<String> = stems.filter(|name| !name.contains('.')).collect();
    names.sort();
    names
}

fn line(name: &str, placement: &Placement) -> String {
    let gpus: Vec<String> = placement
        .ranks
        .iter()
        .filter_map(|rank| rank.index)
        .map(|index| index.to_string())
        .collect();
    let link = placement.weakest_link.map_or("", |link| link.as_str());
    let speed = placement
        .gb_per_second
        .map_or(String::new(), |gb| format!(" {gb}"));
    format!("{name:<12} {:<24} {link}{speed}\n", gpus.join(" "))
}

#[track_caller]
fn check(gpu_count: usize, expected: Expect) {
    let mut text = String::new();
    for name in names() {
        let machine = Machine::new(&recorded(&name));
        if let Ok(placement) = place(&machine, machine.usable(), &GpuClaim::of_count(gpu_count)) {
            assert_eq!(
                placement.score, 10,
                "{name}: nothing is better than the best"
            );
            text.push_str(&line(&name, &placement));
        }
    }
    expected.assert_eq(&text);
}

#[test]
fn best_pair_of_every_machine() {
    check(
        2,
        expect![[r#"
        a100-pcie-01 0 1                      nvlink 309.372
        a100-pcie-02 0 2                      nvlink 309.372
        aws-p4d      0 1                      nvlink 309.372
        aws-p5       0 1                      nvlink 478.116
        b200-6numa   0 1                      nvlink 956.25
        dgx-a100     0 1                      nvlink 309.372
        dgx-h100     0 1                      nvlink 478.116
        dgx-h200     0 1                      nvlink 478.116
        dgx1-p100    0 1                      nvlink 20
        dgx1-v100    0 3                      nvlink 50
        dgx2         0 1                      nvlink 150
        gb200-tray   0 1                      nvlink 956.25
        h100-nps4    0 1                      nvlink 478.116
        hgx-a100-4   0 1                      nvlink 103.124
        hgx-b200     0 1                      nvlink 956.25
        l40s-4       0 1                      numa
        pix-8        0 1                      switch
    "#]],
    );
}

#[test]
fn best_quad_of_every_machine() {
    check(
        4,
        expect![[r#"
        a100-pcie-01 0 1 2 3                  numa
        a100-pcie-02 0 1 2 3                  numa
        aws-p4d      0 1 2 3                  nvlink 309.372
        aws-p5       0 1 2 3                  nvlink 478.116
        b200-6numa   0 1 2 3                  nvlink 956.25
        dgx-a100     0 1 2 3                  nvlink 309.372
        dgx-h100     0 1 2 3                  nvlink 478.116
        dgx-h200     0 1 2 3                  nvlink 478.116
        dgx1-p100    0 1 2 3                  nvlink 60
        dgx1-v100    0 1 2 3                  nvlink 100
        dgx2         0 1 2 3                  nvlink 150
        gb200-tray   0 1 2 3                  nvlink 956.25
        h100-nps4    0 1 2 3                  nvlink 478.116
        hgx-a100-4   0 1 2 3                  nvlink 309.372
        hgx-b200     0 1 2 3                  nvlink 956.25
        l40s-4       0 1 2 3                  any
        pix-8        0 1 2 3                  switch
    "#]],
    );
}

#[test]
fn best_eight_of_every_machine() {
    check(
        8,
        expect![[r#"
        a100-pcie-01 0 1 2 3 4 5 6 7          any
        a100-pcie-02 0 1 2 3 4 5 6 7          any
        aws-p4d      0 1 2 3 4 5 6 7          nvlink 309.372
        aws-p5       0 1 2 3 4 5 6 7          nvlink 478.116
        b200-6numa   0 1 2 3 4 5 6 7          nvlink 956.25
        dgx-a100     0 1 2 3 4 5 6 7          nvlink 309.372
        dgx-h100     0 1 2 3 4 5 6 7          nvlink 478.116
        dgx-h200     0 1 2 3 4 5 6 7          nvlink 478.116
        dgx1-p100    0 1 2 3 7 5 6 4          any 80
        dgx1-v100    0 3 2 1 5 6 7 4          any 150
        dgx2         0 1 2 3 4 5 6 7          nvlink 150
        h100-nps4    0 1 2 3 4 5 6 7          nvlink 478.116
        hgx-b200     0 1 2 3 4 5 6 7          nvlink 956.25
        pix-8        0 1 2 3 4 5 6 7          any
    "#]],
    );
}

/// Every machine, with every subset of its GPUs taken, for every size. Of sixteen GPUs, in two sockets
/// of eight that are alike, every number taken of each socket, and two hundred subsets more.
#[test]
fn whatever_is_taken_the_best_of_the_rest_is_found() {
    for name in names() {
        let status = recorded(&name);
        let (brute, machine) = (Brute::new(&status), Machine::new(&status));
        let count = status.gpus.len();
        for free in masks(&brute, count) {
            for claim in (1..=count).map(GpuClaim::of_count) {
                let expected = brute.best(free, &claim).map(|best| best.order);
                let found = place(&machine, GpuSet::from_bits(free.into()), &claim).ok();
                let order = |placement: Placement| -> Vec<usize> {
                    let gpus = placement.gpus.iter();
                    gpus.filter_map(|gpu| machine.position(gpu)).collect()
                };
                let what = format!("{name}, free {free:#b}, {} GPUs", claim.gpu_count);
                assert_eq!(found.map(order), expected, "{what}");
            }
        }
    }
}

fn masks(brute: &Brute, count: usize) -> Vec<u32> {
    if count <= 8 {
        return (0..=brute.all()).collect();
    }
    let low = |count: u32| (1_u32 << count) - 1;
    let counts = (0..=8).flat_map(|first| (0..=8).map(move |second| (first, second)));
    let of_sockets = counts.map(|(first, second)| low(first) | low(second) << 8);
    let mut seeded = Seeded(16);
    let some = (0..200).map(|_| seeded.bits(brute.all()));
    of_sockets.chain(some).collect()
}
