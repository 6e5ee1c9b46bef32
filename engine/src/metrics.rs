//! What is counted and how it is called: vLLM's names where vLLM has the thing, so that its
//! dashboards and autoscalers work, and `berth_engine_*` for where ranks run.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use berth_engine_core::schedule::{Limits, Stats};
use berth_engine_core::sequence::FinishReason;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::assign::Origin;
use crate::rank::report::{self, RankReport};

mod bounds;

type Labels = Vec<(&'static str, String)>;
type FloatGauge = Gauge<f64, AtomicU64>;

/// Every series of `/metrics`.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    running: Gauge,
    waiting: Gauge,
    kv_cache_usage: FloatGauge,
    /// Kept by the scheduler; shown here.
    preemptions: Counter,
    pub(crate) prompt_tokens: Counter,
    pub(crate) generation_tokens: Counter,
    finished: Family<Labels, Counter>,
    rejected: Family<Labels, Counter>,
    step_tokens: Histogram,
    pub(crate) first_token: Histogram,
    pub(crate) inter_token: Histogram,
    pub(crate) queue: Histogram,
    pub(crate) prefill: Histogram,
    decode: Histogram,
    inference: Histogram,
    end_to_end: Histogram,
    request_prompt_tokens: Histogram,
    request_generation_tokens: Histogram,
    heartbeat_age: FloatGauge,
    rank_info: Family<Labels, Gauge>,
    rank_cpu_bind: Family<Labels, Gauge>,
    rank_memory_bind: Family<Labels, Gauge>,
    rank_cpu_count: Family<Labels, Gauge>,
    memory: Family<Labels, Gauge>,
}

/// One finished sequence.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) reason: FinishReason,
    pub(crate) prompt_count: usize,
    pub(crate) output_count: usize,
    /// From arrival to the last token.
    pub(crate) total: Duration,
    /// From the first step to the last token; absent when no step was reached.
    pub(crate) inference: Option<Duration>,
    /// From the first token to the last.
    pub(crate) decode: Option<Duration>,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new(model_name: &str, limits: &Limits) -> Self {
        let labels = [
            ("model_name", model_name.to_owned()),
            ("engine", "0".to_owned()),
        ];
        let labels = labels.map(|(name, value)| (name.into(), value.into()));
        let mut registry = Registry::with_labels(labels.into_iter());
        let r = &mut registry;
        let cache_info = Family::<Labels, Gauge>::default();
        add(
            r,
            "vllm:cache_config_info",
            "Configuration of the KV cache",
            cache_info.clone(),
        );
        cache_info.get_or_create(&cache_labels(limits)).set(1);
        Self {
            running: gauge(r, "vllm:num_requests_running", "Sequences in the batch"),
            waiting: gauge(
                r,
                "vllm:num_requests_waiting",
                "Sequences that wait for a place",
            ),
            kv_cache_usage: gauge(r, "vllm:kv_cache_usage_perc", "KV cache in use, 1 is full"),
            preemptions: counter(r, "vllm:num_preemptions", "Sequences that had to give way"),
            prompt_tokens: counter(r, "vllm:prompt_tokens", "Prompt tokens computed"),
            generation_tokens: counter(r, "vllm:generation_tokens", "Tokens generated"),
            finished: add(
                r,
                "vllm:request_success",
                "Sequences by how they ended",
                Family::default(),
            ),
            rejected: add(
                r,
                "vllm:admission_rejections",
                "Requests refused",
                Family::default(),
            ),
            step_tokens: tokens(r, "vllm:iteration_tokens_total", "Tokens in a step"),
            first_token: seconds(r, "vllm:time_to_first_token_seconds", bounds::FIRST_TOKEN),
            inter_token: seconds(r, "vllm:inter_token_latency_seconds", bounds::INTER_TOKEN),
            queue: seconds(r, "vllm:request_queue_time_seconds", bounds::REQUEST),
            prefill: seconds(r, "vllm:request_prefill_time_seconds", bounds::REQUEST),
            decode: seconds(r, "vllm:request_decode_time_seconds", bounds::REQUEST),
            inference: seconds(r, "vllm:request_inference_time_seconds", bounds::REQUEST),
            end_to_end: seconds(r, "vllm:e2e_request_latency_seconds", bounds::REQUEST),
            request_prompt_tokens: tokens(r, "vllm:request_prompt_tokens", "Prompt tokens"),
            request_generation_tokens: tokens(r, "vllm:request_generation_tokens", "Output tokens"),
            heartbeat_age: gauge(
                r,
                "berth_engine_heartbeat_age_seconds",
                "Since the last turn",
            ),
            rank_info: add(
                r,
                "berth_engine_rank_info",
                "Where a rank was put",
                Family::default(),
            ),
            rank_cpu_bind: add(
                r,
                "berth_engine_rank_cpu_bind",
                "Is it there",
                Family::default(),
            ),
            rank_memory_bind: add(
                r,
                "berth_engine_rank_memory_bind",
                "Is its memory policy set",
                Family::default(),
            ),
            rank_cpu_count: add(
                r,
                "berth_engine_rank_cpus",
                "CPUs of a rank",
                Family::default(),
            ),
            memory: add(
                r,
                "berth_engine_memory_bytes",
                "This process's memory by NUMA node, after loading",
                Family::default(),
            ),
            registry,
        }
    }

    /// What Prometheus scrapes, in the OpenMetrics text format.
    pub(crate) fn render(&self, heartbeat_age: Duration) -> Result<String, fmt::Error> {
        self.heartbeat_age.set(heartbeat_age.as_secs_f64());
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    pub(crate) fn show_load(&self, stats: &Stats) {
        self.running.set(count(stats.running_count));
        self.waiting.set(count(stats.waiting_count));
        self.kv_cache_usage.set(stats.kv_cache_usage());
        self.preemptions.inc_by(
            stats
                .preemption_count
                .saturating_sub(self.preemptions.get()),
        );
    }

    pub(crate) fn count_step(&self, token_count: usize) {
        observe(&self.step_tokens, token_count);
    }

    pub(crate) fn count_rejection(&self, reason: &'static str) {
        self.rejected
            .get_or_create(&vec![("reason", reason.to_owned())])
            .inc();
    }

    pub(crate) fn count_finished(&self, finished: &Finished) {
        let reason = reason_label(finished.reason).to_owned();
        self.finished
            .get_or_create(&vec![("finished_reason", reason)])
            .inc();
        self.end_to_end.observe(finished.total.as_secs_f64());
        observe(&self.request_prompt_tokens, finished.prompt_count);
        observe(&self.request_generation_tokens, finished.output_count);
        if let Some(inference) = finished.inference {
            self.inference.observe(inference.as_secs_f64());
        }
        if let Some(decode) = finished.decode {
            self.decode.observe(decode.as_secs_f64());
        }
    }

    /// Exports and logs what each rank got.
    pub(crate) fn show_ranks(&self, origin: &Origin, ranks: &[RankReport]) {
        for rank in ranks {
            let number = rank.place.rank.to_string();
            let bind = |state: report::Bind| {
                vec![
                    ("rank", number.clone()),
                    ("state", state.label().to_owned()),
                ]
            };
            self.rank_info
                .get_or_create(&rank_labels(origin, rank))
                .set(1);
            self.rank_cpu_bind
                .get_or_create(&bind(rank.cpu_bind))
                .set(1);
            self.rank_memory_bind
                .get_or_create(&bind(rank.memory_bind))
                .set(1);
            let cpu_count = rank.cpus_seen.as_ref().map_or(0, |cpus| cpus.len());
            self.rank_cpu_count
                .get_or_create(&vec![("rank", number)])
                .set(count(cpu_count));
            log_rank(origin, rank);
        }
        for (node, bytes) in report::memory_by_node() {
            let labels = vec![("numa_node", node.to_string())];
            self.memory
                .get_or_create(&labels)
                .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }
}

fn log_rank(origin: &Origin, rank: &RankReport) {
    let (cpus, memory) = (rank.cpu_bind.label(), rank.memory_bind.label());
    let place = &rank.place;
    let seen = shown(rank.cpus_seen.as_ref());
    tracing::info!(
        rank = place.rank,
        origin = origin.label(),
        gpu = place.gpu,
        cpus = seen,
        numa_node = place.numa_node,
        cpu_bind = cpus,
        memory_bind = memory,
        "rank is ready"
    );
}

fn rank_labels(origin: &Origin, rank: &RankReport) -> Labels {
    let place = &rank.place;
    vec![
        ("rank", place.rank.to_string()),
        ("gpu", place.gpu.clone().unwrap_or_default()),
        ("cpus", shown(rank.cpus_seen.as_ref())),
        ("cpus_assigned", shown(place.cpus_assigned.as_ref())),
        (
            "numa_node",
            place
                .numa_node
                .map(|node| node.to_string())
                .unwrap_or_default(),
        ),
        ("thread_id", rank.thread_id.to_string()),
        ("origin", origin.label().to_owned()),
    ]
}

fn shown(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

fn cache_labels(limits: &Limits) -> Labels {
    vec![
        ("block_size", limits.block_size.to_string()),
        ("num_gpu_blocks", limits.block_count.to_string()),
        ("enable_prefix_caching", "False".to_owned()),
    ]
}

pub(crate) fn reason_label(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Abort => "abort",
    }
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn gauge<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    add(registry, name, help, M::default())
}

/// The wire name gets `_total` from the format.
fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    add(registry, name, help, Counter::default())
}

fn seconds(registry: &mut Registry, name: &str, bounds: &[f64]) -> Histogram {
    add(
        registry,
        name,
        "In seconds",
        Histogram::new(bounds.iter().copied()),
    )
}

fn tokens(registry: &mut Registry, name: &str, help: &str) -> Histogram {
    add(
        registry,
        name,
        help,
        Histogram::new(bounds::TOKENS.iter().copied()),
    )
}

#[expect(
    clippy::cast_precision_loss,
    reason = "token counts are far below 2^52"
)]
fn observe(histogram: &Histogram, count: usize) {
    histogram.observe(count as f64);
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
