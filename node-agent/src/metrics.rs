//! The page for Prometheus. Pure: what was counted and what is published, as text 0.0.4.
//!
//! `docs/metrics.md` says what each means. GPUs are named by uuid and index, pairs by both indices.

mod exposition;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use berth_topology::gpu::{Gpu, GpuNvLink, HealthState, Pcie};
use berth_topology::ids::GpuUuid;
use berth_topology::link::PairNvLink;
use berth_topology::node::Status;
use tokio::time::Instant;

use crate::tally::{Counts, PROBE_SECONDS};
use exposition::{Kind, Page, Times};

const STATES: [HealthState; 4] = [
    HealthState::Healthy,
    HealthState::Degraded,
    HealthState::Failed,
    HealthState::Unknown,
];

/// The whole page.
#[must_use]
pub fn page(counts: &Counts, now: Instant) -> String {
    let mut page = Page::default();
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    let help = "Version of the agent";
    page.samples("build_info", Kind::Gauge, help, [(&version[..], 1.0)]);
    loops(&mut page, counts, now);
    plugin(&mut page, counts);
    let status = counts.status.as_deref();
    machine(&mut page, status.unwrap_or(&Status::default()));
    page.into_text()
}

/// How the agent itself does.
fn loops(page: &mut Page, counts: &Counts, now: Instant) {
    let help = "Time to read the machine";
    let times = Times {
        ends: &PROBE_SECONDS,
        counts: &counts.probes,
        sum: counts.probing,
    };
    page.histogram("probe_seconds", help, &times);
    let age = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at).as_secs_f64());
    let help = "Time since the last probe ended";
    page.optional(
        "probe_age_seconds",
        Kind::Gauge,
        help,
        age(counts.probed_at),
    );
    let help = "Probes that gave nothing";
    page.optional(
        "probe_failures_total",
        Kind::Counter,
        help,
        Some(number(counts.probe_failure_count)),
    );
    let help = "Rounds of publishing that failed";
    page.optional(
        "publish_errors_total",
        Kind::Counter,
        help,
        Some(number(counts.publish_error_count)),
    );
    let help = "Time since the Lease was renewed";
    page.optional(
        "lease_age_seconds",
        Kind::Gauge,
        help,
        age(counts.renewed_at),
    );
}

/// What the kubelet was given, against what was promised.
fn plugin(page: &mut Page, counts: &Counts) {
    let answers: Vec<_> = counts
        .answers
        .iter()
        .map(|((resource, outcome), count)| {
            (
                [
                    ("resource", resource.as_str()),
                    ("outcome", outcome.as_str()),
                ],
                number(*count),
            )
        })
        .collect();
    let help = "Answers of the device plugin to Allocate";
    page.samples("allocate_total", Kind::Counter, help, refer(&answers));
    let mismatches: Vec<_> = counts
        .mismatches
        .iter()
        .map(|(resource, count)| ([("resource", resource.as_str())], size(*count)))
        .collect();
    let help = "Containers with other devices than their pods were promised";
    page.samples("promise_mismatches", Kind::Gauge, help, refer(&mismatches));
}

/// What is published of the machine.
fn machine(page: &mut Page, status: &Status) {
    let plugins: Vec<_> = status
        .plugins
        .iter()
        .map(|plugin| {
            [
                ("resource", plugin.resource.as_str()),
                ("owner", plugin.owner.as_str()),
            ]
        })
        .collect();
    let of = |value: fn(&berth_topology::kubelet::Plugin) -> bool| {
        let values = status
            .plugins
            .iter()
            .map(move |plugin| f64::from(u8::from(value(plugin))));
        plugins.iter().map(|labels| &labels[..]).zip(values)
    };
    let help = "Whether a device plugin serves the resource";
    page.samples(
        "plugin_registered",
        Kind::Gauge,
        help,
        of(|plugin| plugin.registered),
    );
    let help = "Whether a pod gets exactly what it was promised";
    page.samples("plugin_exact", Kind::Gauge, help, of(|plugin| plugin.exact));
    let help = "Facts that the agent could not read";
    page.optional(
        "unknown_facts",
        Kind::Gauge,
        help,
        Some(size(status.unknowns.len())),
    );
    let help = "NUMA nodes, memory-only ones included";
    page.optional(
        "numa_nodes",
        Kind::Gauge,
        help,
        Some(size(status.numa.len())),
    );
    let help = "CPUs of all NUMA nodes";
    let cpus: usize = status.numa.iter().map(|node| node.cpus.len()).sum();
    page.optional("cpus", Kind::Gauge, help, Some(size(cpus)));
    let help = "Network cards";
    page.optional("nics", Kind::Gauge, help, Some(size(status.nics.len())));
    gpus(page, status);
    links(page, status);
}

fn gpus(page: &mut Page, status: &Status) {
    let indices: Vec<String> = status
        .gpus
        .iter()
        .map(|gpu| gpu.index.to_string())
        .collect();
    let named: Vec<[(&str, &str); 2]> = status
        .gpus
        .iter()
        .zip(&indices)
        .map(|(gpu, index)| [("gpu", gpu.uuid.as_str()), ("index", index.as_str())])
        .collect();
    info(page, status, &indices);
    health(page, status, &named);
    let mut each = |name: &str, help: &str, value: &dyn Fn(&Gpu) -> Option<f64>| {
        let values = status.gpus.iter().map(value);
        let samples = named.iter().zip(values);
        let known = samples.filter_map(|(labels, value)| Some((&labels[..], value?)));
        page.samples(name, Kind::Gauge, help, known);
    };
    let held = held(status);
    each(
        "gpu_allocated",
        "Containers that hold the GPU, or an instance of it",
        &|gpu| {
            status
                .plugins
                .iter()
                .any(|plugin| plugin.registered)
                .then(|| size(held_of(&held, gpu)))
        },
    );
    each("gpu_memory_bytes", "Whole memory of the GPU", &|gpu| {
        gpu.memory_bytes.map(number)
    });
    let nvlink = |value: fn(&GpuNvLink) -> u32| {
        move |gpu: &Gpu| gpu.nvlink.as_ref().map(|nvlink| f64::from(value(nvlink)))
    };
    each(
        "gpu_nvlink_lanes",
        "Active NVLink lanes of the GPU",
        &nvlink(|nvlink| nvlink.lanes),
    );
    each(
        "gpu_nvlink_lanes_expected",
        "NVLink lanes that its model has",
        &nvlink(|nvlink| nvlink.lanes_expected),
    );
    let pcie = |value: fn(&Pcie) -> Option<u32>| {
        move |gpu: &Gpu| gpu.pcie.as_ref().and_then(value).map(f64::from)
    };
    each(
        "gpu_pcie_width",
        "Most PCIe lanes seen since boot",
        &pcie(|pcie| pcie.width),
    );
    each(
        "gpu_pcie_width_expected",
        "PCIe lanes that device and slot allow",
        &pcie(|pcie| pcie.max_width),
    );
    each(
        "gpu_pcie_generation",
        "Highest PCIe generation seen since boot",
        &pcie(|pcie| pcie.generation),
    );
    each(
        "gpu_pcie_generation_expected",
        "PCIe generation that device and slot allow",
        &pcie(|pcie| pcie.max_generation),
    );
}

fn info(page: &mut Page, status: &Status, indices: &[String]) {
    let numa: Vec<String> = status
        .gpus
        .iter()
        .map(|gpu| {
            gpu.numa_node
                .map(|node| node.to_string())
                .unwrap_or_default()
        })
        .collect();
    let rows: Vec<_> = status
        .gpus
        .iter()
        .zip(indices.iter().zip(&numa))
        .map(|(gpu, (index, numa))| {
            let bus_id = gpu.bus_id.as_ref().map_or("", |bus_id| bus_id.as_str());
            let labels = [
                ("gpu", gpu.uuid.as_str()),
                ("index", index.as_str()),
                ("model", gpu.model.as_str()),
                ("bus_id", bus_id),
                ("numa_node", numa.as_str()),
            ];
            (labels, 1.0)
        })
        .collect();
    page.samples("gpu_info", Kind::Gauge, "The GPU", refer(&rows));
}

fn health(page: &mut Page, status: &Status, named: &[[(&str, &str); 2]]) {
    let mut rows = Vec::new();
    for (gpu, [uuid, index]) in status.gpus.iter().zip(named) {
        for state in STATES {
            let is_it = f64::from(u8::from(gpu.health.state == state));
            rows.push(([*uuid, *index, ("state", state.as_str())], is_it));
        }
    }
    let help = "1 for the state that the GPU is in";
    page.samples("gpu_health", Kind::Gauge, help, refer(&rows));
}

/// How many containers hold each device.
fn held(status: &Status) -> BTreeMap<&GpuUuid, usize> {
    let mut held = BTreeMap::new();
    for device in status
        .allocations
        .iter()
        .flat_map(|allocation| &allocation.devices)
    {
        *held.entry(device).or_default() += 1;
    }
    held
}

fn held_of(held: &BTreeMap<&GpuUuid, usize>, gpu: &Gpu) -> usize {
    let instances = gpu.mig.iter().flat_map(|mig| &mig.instances);
    let devices = instances.map(|instance| &instance.uuid).chain([&gpu.uuid]);
    devices.filter_map(|uuid| held.get(uuid)).sum()
}

fn links(page: &mut Page, status: &Status) {
    let index = |uuid: &GpuUuid| {
        let gpu = status.gpu(uuid);
        gpu.map(|gpu| gpu.index.to_string()).unwrap_or_default()
    };
    let pairs: Vec<([String; 2], &PairNvLink)> = status
        .links
        .iter()
        .filter_map(|link| Some(([index(&link.a), index(&link.b)], link.nvlink.as_ref()?)))
        .collect();
    let mut each = |name: &str, help: &str, value: fn(&PairNvLink) -> f64| {
        let rows: Vec<_> = pairs
            .iter()
            .map(|([a, b], nvlink)| ([("a", a.as_str()), ("b", b.as_str())], value(nvlink)))
            .collect();
        page.samples(name, Kind::Gauge, help, refer(&rows));
    };
    each(
        "link_lanes",
        "Active NVLink lanes between two GPUs",
        |nvlink| f64::from(nvlink.lanes),
    );
    let help = "NVLink lanes that such a pair has";
    each("link_lanes_expected", help, |nvlink| {
        f64::from(nvlink.lanes_expected)
    });
}

fn refer<'a, const N: usize>(
    rows: &'a [([(&'a str, &'a str); N], f64)],
) -> impl Iterator<Item = (&'a [(&'a str, &'a str)], f64)> {
    rows.iter().map(|(labels, value)| (&labels[..], *value))
}

/// Exact up to 2⁵³.
#[expect(
    clippy::cast_precision_loss,
    reason = "a count past 2^53 may lose its last digit"
)]
fn number(count: u64) -> f64 {
    count as f64
}

fn size(count: usize) -> f64 {
    number(count as u64)
}
