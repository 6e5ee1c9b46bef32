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

use ranks::RankSeries;

mod bounds;
mod ranks;

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
    pub(crate) ranks: RankSeries,
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
            ranks: RankSeries::new(r),
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
