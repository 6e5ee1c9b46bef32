//! What is counted and how it is called: vLLM's names where vLLM has the thing, so that its
//! dashboards and autoscalers work, and `berth_engine_*` for where ranks run.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use berth_engine_core::schedule::{Limits, Stats};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

pub(crate) use requests::{Finished, reason_label};

use ranks::RankSeries;
use requests::RequestSeries;

mod bounds;
mod ranks;
mod requests;
mod text;

type Labels = Vec<(&'static str, String)>;
type FloatGauge = Gauge<f64, AtomicU64>;

/// Why a request was refused that a later one may not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// As many wait as may.
    QueueFull,
    /// Bodies and prompts take what is set aside for them.
    Memory,
}

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
    rejected: Family<Labels, Counter>,
    step_tokens: Histogram,
    pub(crate) first_token: Histogram,
    pub(crate) inter_token: Histogram,
    pub(crate) queue: Histogram,
    pub(crate) prefill: Histogram,
    requests: RequestSeries,
    heartbeat_age: FloatGauge,
    pub(crate) ranks: RankSeries,
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
            rejected: rejected(r),
            step_tokens: histogram(
                r,
                "vllm:iteration_tokens_total",
                "Tokens in a step",
                bounds::STEP_TOKENS.iter().copied(),
            ),
            first_token: seconds(r, "vllm:time_to_first_token_seconds", bounds::FIRST_TOKEN),
            inter_token: seconds(r, "vllm:inter_token_latency_seconds", bounds::INTER_TOKEN),
            queue: seconds(r, "vllm:request_queue_time_seconds", bounds::REQUEST),
            prefill: seconds(r, "vllm:request_prefill_time_seconds", bounds::REQUEST),
            requests: RequestSeries::new(r, limits.max_model_len),
            heartbeat_age: gauge(
                r,
                "berth_engine_heartbeat_age_seconds",
                "Since the last turn",
            ),
            ranks: RankSeries::new(r),
            registry,
        }
    }

    /// What Prometheus scrapes, in the older text format.
    pub(crate) fn render_plain(&self, heartbeat_age: Duration) -> Result<String, fmt::Error> {
        self.render(heartbeat_age).map(|text| text::plain(&text))
    }

    /// The same in the OpenMetrics text format.
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

    pub(crate) fn count_rejection(&self, reason: Rejection) {
        self.rejected.get_or_create(&reason.labels()).inc();
    }

    pub(crate) fn count_finished(&self, finished: &Finished) {
        self.requests.count(finished);
    }
}

/// Each reason is there from the start.
fn rejected(registry: &mut Registry) -> Family<Labels, Counter> {
    let family = Family::<Labels, Counter>::default();
    for reason in [Rejection::QueueFull, Rejection::Memory] {
        drop(family.get_or_create(&reason.labels()));
    }
    add(
        registry,
        "vllm:admission_rejections",
        "Requests refused",
        family,
    )
}

fn cache_labels(limits: &Limits) -> Labels {
    vec![
        ("block_size", limits.block_size.to_string()),
        ("num_gpu_blocks", limits.block_count.to_string()),
        ("enable_prefix_caching", "False".to_owned()),
    ]
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
    histogram(registry, name, "In seconds", bounds.iter().copied())
}

fn histogram(
    registry: &mut Registry,
    name: &str,
    help: &str,
    bounds: impl Iterator<Item = f64>,
) -> Histogram {
    add(registry, name, help, Histogram::new(bounds))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "token counts are far below 2^52"
)]
fn observe(histogram: &Histogram, count: usize) {
    histogram.observe(count as f64);
}

// === impl Rejection ===

impl Rejection {
    fn labels(self) -> Labels {
        let reason = match self {
            Self::QueueFull => "queue_full",
            Self::Memory => "memory",
        };
        vec![("reason", reason.to_owned())]
    }
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
