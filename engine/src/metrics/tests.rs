//! The page of a fresh engine: every series, at zero; and the format against the real promtool.

use berth_engine_core::policy::Policy;
use berth_engine_core::schedule::Rules;

use super::*;

#[allow(
    dead_code,
    reason = "our own metrics are listed in docs/metrics.md, these in vLLM's"
)]
#[path = "../../../tests/promtool.rs"]
mod promtool;

const LIMITS: Limits = Limits {
    max_num_seqs: 4,
    max_num_batched_tokens: 64,
    max_model_len: 256,
    block_size: 8,
    block_count: 200,
    max_waiting: 8,
    rules: Rules {
        policy: Policy::Fcfs,
        prefix_caching: true,
        max_step: None,
    },
};

fn page(legacy: bool) -> String {
    let metrics = Metrics::new("m", &LIMITS, legacy);
    metrics.render_plain(Duration::ZERO).unwrap()
}

/// What must be there before the first request, with all its labels: `{}` are those of every series.
const ZERO: &[&str] = &[
    "vllm:num_requests_running{}",
    "vllm:num_requests_waiting{}",
    "vllm:num_requests_waiting_by_reason{reason=\"capacity\"}",
    "vllm:num_requests_waiting_by_reason{reason=\"deferred\"}",
    "vllm:kv_cache_usage_perc{}",
    "vllm:engine_sleep_state{sleep_state=\"weights_offloaded\"}",
    "vllm:engine_sleep_state{sleep_state=\"discard_all\"}",
    "vllm:prefix_cache_queries_total{}",
    "vllm:prefix_cache_hits_total{}",
    "vllm:num_preemptions_total{}",
    "vllm:prompt_tokens_total{}",
    "vllm:prompt_tokens_cached_total{}",
    "vllm:prompt_tokens_by_source_total{source=\"local_compute\"}",
    "vllm:prompt_tokens_by_source_total{source=\"local_cache_hit\"}",
    "vllm:generation_tokens_total{}",
    "vllm:request_success_total{finished_reason=\"stop\"}",
    "vllm:request_success_total{finished_reason=\"length\"}",
    "vllm:request_success_total{finished_reason=\"abort\"}",
    "vllm:request_success_total{finished_reason=\"error\"}",
    "vllm:request_success_total{finished_reason=\"repetition\"}",
    "vllm:admission_rejections_total{reason=\"queue_full\"}",
    "vllm:admission_rejections_total{reason=\"memory\"}",
    "vllm:time_to_first_token_seconds_count{}",
    "vllm:inter_token_latency_seconds_count{}",
    "vllm:request_time_per_output_token_seconds_count{}",
    "vllm:e2e_request_latency_seconds_count{}",
    "vllm:request_queue_time_seconds_count{}",
    "vllm:request_inference_time_seconds_count{}",
    "vllm:request_prefill_time_seconds_count{}",
    "vllm:request_decode_time_seconds_count{}",
    "vllm:iteration_tokens_total_count{}",
    "vllm:request_prompt_tokens_count{}",
    "vllm:request_generation_tokens_count{}",
    "vllm:request_max_num_generation_tokens_count{}",
    "vllm:request_params_max_tokens_count{}",
    "vllm:request_prefill_kv_computed_tokens_count{}",
    "vllm:request_params_n_count{}",
];

#[track_caller]
fn check(page: &str, series: &str, value: &str) {
    let (name, own) = series.split_once('{').unwrap();
    let own = own.trim_end_matches('}');
    let separator = if own.is_empty() { "" } else { "," };
    let labels = format!("model_name=\"m\",engine=\"0\"{separator}{own}");
    let start = format!("{name}{{{labels}}} ");
    let line = page.lines().find(|line| line.starts_with(&start));
    let found = line.and_then(|line| line.rsplit(' ').next());
    let number = |text: &str| text.parse::<f64>().unwrap();
    assert_eq!(
        found.map(number),
        Some(number(value)),
        "{series} of\n{page}"
    );
}

#[test]
fn a_fresh_engine_shows_every_series_at_zero() {
    let page = page(false);
    for series in ZERO {
        check(&page, series, "0");
    }
    check(&page, "vllm:engine_sleep_state{sleep_state=\"awake\"}", "1");
    assert!(page.contains("process_resident_memory_bytes "), "{page}");
}

#[test]
fn older_names_are_there_only_where_asked_for() {
    let older = [
        "vllm:gpu_cache_usage_perc{}",
        "vllm:gpu_prefix_cache_hits_total{}",
        "vllm:gpu_prefix_cache_queries_total{}",
        "vllm:time_per_output_token_seconds_count{}",
    ];
    let with = page(true);
    for series in older {
        check(&with, series, "0");
        let name = series.trim_end_matches("{}");
        assert!(!page(false).contains(name), "{series}");
    }
}

/// vLLM's names have colons and one histogram whose name ends in `_total`, which promtool's style does
/// not allow; nothing else may be said.
#[test]
fn promtool_finds_no_fault_but_vllms_names() {
    let Some(said) = promtool::complaints(&page(true)) else {
        return;
    };
    let is_vllms = |line: &&str| {
        line.starts_with("vllm:") && (line.contains("':'") || line.contains("_total"))
    };
    let other: Vec<&str> = said.lines().filter(|line| !is_vllms(line)).collect();
    assert!(other.is_empty(), "{other:#?}");
}
