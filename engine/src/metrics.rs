//! What is counted and how it is called: vLLM's names where vLLM has the thing, so that its
//! dashboards and autoscalers work, and `berth_engine_*` for where ranks run.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use berth_engine_core::schedule::{Limits, Stats};
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

pub(crate) use requests::{ERROR, Finished, reason_label};

use prefix_cache::PrefixCacheSeries;
use process::ProcessSeries;
use ranks::RankSeries;
use requests::RequestSeries;

mod bounds;
mod prefix_cache;
mod process;
mod ranks;
mod requests;
mod text;

#[cfg(test)]
mod tests;

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
    /// Of `process`: no labels of ours.
    process_registry: Registry,
    process: ProcessSeries,
    running: Gauge,
    waiting: Gauge,
    waiting_for_capacity: Gauge,
    kv_cache_usage: FloatGauge,
    /// Kept by the scheduler; shown here.
    preemptions: Counter,
    prefix_cache: PrefixCacheSeries,
    prompt_tokens: Counter,
    computed_tokens: Counter,
    found_tokens: Counter,
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
    /// With `legacy`, some series are there under their older names too.
    pub(crate) fn new(model_name: &str, limits: &Limits, legacy: bool) -> Self {
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
        sleep_state(r);
        let waiting = waiting_by_reason(r);
        let sources = prompt_tokens_by_source(r);
        let mut process_registry = Registry::default();
        let metrics = Self {
            process: ProcessSeries::new(&mut process_registry),
            process_registry,
            waiting_for_capacity: of_label(&waiting, ("reason", "capacity")),
            computed_tokens: of_label(&sources, ("source", "local_compute")),
            found_tokens: of_label(&sources, ("source", "local_cache_hit")),
            prefix_cache: PrefixCacheSeries::new(r),
            running: gauge(r, "vllm:num_requests_running", "Sequences in the batch"),
            waiting: gauge(
                r,
                "vllm:num_requests_waiting",
                "Sequences that wait for a place",
            ),
            kv_cache_usage: gauge(r, "vllm:kv_cache_usage_perc", "KV cache in use, 1 is full"),
            preemptions: counter(r, "vllm:num_preemptions", "Sequences that had to give way"),
            prompt_tokens: counter(r, "vllm:prompt_tokens", "Prompt tokens, computed or found"),
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
        };
        if legacy {
            metrics.with_older_names()
        } else {
            metrics
        }
    }

    /// What dashboards of vLLM before its version 1 ask for.
    fn with_older_names(mut self) -> Self {
        let r = &mut self.registry;
        let usage = self.kv_cache_usage.clone();
        add(
            r,
            "vllm:gpu_cache_usage_perc",
            "KV cache in use, 1 is full",
            usage,
        );
        self.prefix_cache.add_older_names(r);
        let between = self.inter_token.clone();
        add(
            r,
            "vllm:time_per_output_token_seconds",
            "In seconds",
            between,
        );
        self
    }

    /// Once an answer's first token is there: its prompt had `token_count`, of which `cached_count`
    /// were found in the prefix cache.
    pub(crate) fn count_prompt(&self, token_count: usize, cached_count: usize) {
        self.prompt_tokens.inc_by(token_count as u64);
        let computed_count = token_count.saturating_sub(cached_count);
        self.computed_tokens.inc_by(computed_count as u64);
        self.found_tokens.inc_by(cached_count as u64);
    }

    /// What Prometheus scrapes, in the older text format.
    pub(crate) fn render_plain(&self, heartbeat_age: Duration) -> Result<String, fmt::Error> {
        self.render(heartbeat_age).map(|text| text::plain(&text))
    }

    /// The same in the OpenMetrics text format.
    pub(crate) fn render(&self, heartbeat_age: Duration) -> Result<String, fmt::Error> {
        self.heartbeat_age.set(heartbeat_age.as_secs_f64());
        self.process.read();
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &self.process_registry)?;
        encode_eof(&mut text)?;
        Ok(text)
    }

    pub(crate) fn show_load(&self, stats: &Stats) {
        self.running.set(count(stats.running_count));
        self.waiting.set(count(stats.waiting_count));
        self.waiting_for_capacity.set(count(stats.waiting_count));
        self.kv_cache_usage.set(stats.kv_cache_usage());
        catch_up(&self.preemptions, stats.preemption_count);
        self.prefix_cache.show(&stats.prefix);
    }

    pub(crate) fn count_step(&self, token_count: usize) {
        observe(&self.step_tokens, token_count);
    }

    pub(crate) fn count_rejection(&self, reason: Rejection) {
        of_label(&self.rejected, ("reason", reason.label())).inc();
    }

    pub(crate) fn count_request(&self, longest: usize, choice_count: usize) {
        self.requests.count_request(longest, choice_count);
    }

    pub(crate) fn count_finished(&self, finished: &Finished) {
        self.requests.count(finished);
    }
}

fn rejected(registry: &mut Registry) -> Family<Labels, Counter> {
    let reasons = [Rejection::QueueFull, Rejection::Memory].map(Rejection::label);
    let named = ("vllm:admission_rejections", "Requests refused");
    by_label(registry, named, ("reason", &reasons))
}

fn waiting_by_reason(registry: &mut Registry) -> Family<Labels, Gauge> {
    let named = (
        "vllm:num_requests_waiting_by_reason",
        "Sequences that wait, by what for",
    );
    by_label(registry, named, ("reason", &["capacity", "deferred"]))
}

fn prompt_tokens_by_source(registry: &mut Registry) -> Family<Labels, Counter> {
    let named = (
        "vllm:prompt_tokens_by_source",
        "Prompt tokens by where they came from",
    );
    let sources = ["local_compute", "local_cache_hit", "external_kv_transfer"];
    by_label(registry, named, ("source", &sources))
}

/// This engine never sleeps.
fn sleep_state(registry: &mut Registry) {
    let named = ("vllm:engine_sleep_state", "1 is the state of the engine");
    let states = ["awake", "weights_offloaded", "discard_all"];
    let states: Family<Labels, Gauge> = by_label(registry, named, ("sleep_state", &states));
    of_label(&states, ("sleep_state", "awake")).set(1);
}

/// A family whose members are all there from the start: a rate over a series that appears with its
/// first 1 misses that 1.
fn by_label<M: Metric + Clone + Default>(
    registry: &mut Registry,
    (name, help): (&str, &str),
    (label, values): (&'static str, &[&str]),
) -> Family<Labels, M>
where
    Family<Labels, M>: Metric,
{
    let family = Family::<Labels, M>::default();
    for value in values {
        drop(family.get_or_create(&vec![(label, (*value).to_owned())]));
    }
    add(registry, name, help, family)
}

/// A member of such a family; metrics are handles, so a copy is the same metric.
fn of_label<M: Metric + Clone + Default>(
    family: &Family<Labels, M>,
    (label, value): (&'static str, &str),
) -> M {
    family
        .get_or_create(&vec![(label, value.to_owned())])
        .clone()
}

fn cache_labels(limits: &Limits) -> Labels {
    vec![
        ("block_size", limits.block_size.to_string()),
        ("num_gpu_blocks", limits.block_count.to_string()),
        (
            "enable_prefix_caching",
            if limits.rules.prefix_caching {
                "True"
            } else {
                "False"
            }
            .to_owned(),
        ),
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
    fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Memory => "memory",
        }
    }
}

/// Shows a count that the scheduler keeps.
fn catch_up(counter: &Counter, count: u64) {
    counter.inc_by(count.saturating_sub(counter.get()));
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
