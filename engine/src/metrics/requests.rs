//! What is known of a sequence once it has ended.

use std::time::Duration;

use berth_engine_core::sequence::FinishReason;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Labels, bounds, by_label, histogram, observe, of_label, seconds};

/// The `finished_reason` of what the engine broke off.
pub(crate) const ERROR: &str = "error";

/// One finished sequence.
#[derive(Debug)]
pub(crate) struct Finished {
    /// `finished_reason`.
    pub(crate) reason: &'static str,
    pub(crate) prompt_count: usize,
    /// Of the prompt, found in the prefix cache.
    pub(crate) cached_count: usize,
    pub(crate) output_count: usize,
    /// How long the answer could have been.
    pub(crate) max_tokens: usize,
    /// From arrival to the last token.
    pub(crate) total: Duration,
    /// From the first step to the last token; absent when no step was reached.
    pub(crate) inference: Option<Duration>,
    /// From the first token to the last.
    pub(crate) decode: Option<Duration>,
}

/// `vllm:request_*` and the like.
#[derive(Debug)]
pub(super) struct RequestSeries {
    finished: Family<Labels, Counter>,
    decode: Histogram,
    inference: Histogram,
    end_to_end: Histogram,
    per_output_token: Histogram,
    prompt_tokens: Histogram,
    generation_tokens: Histogram,
    params_max_tokens: Histogram,
    params_n: Histogram,
    longest: Histogram,
    computed_tokens: Histogram,
}

// === impl RequestSeries ===

impl RequestSeries {
    pub(super) fn new(r: &mut Registry, max_model_len: usize) -> Self {
        let sizes = bounds::one_two_five(max_model_len);
        let tokens = |r: &mut Registry, name, help| histogram(r, name, help, sizes.iter().copied());
        Self {
            finished: finished(r),
            decode: seconds(r, "vllm:request_decode_time_seconds", bounds::REQUEST),
            inference: seconds(r, "vllm:request_inference_time_seconds", bounds::REQUEST),
            end_to_end: seconds(r, "vllm:e2e_request_latency_seconds", bounds::REQUEST),
            per_output_token: seconds(
                r,
                "vllm:request_time_per_output_token_seconds",
                bounds::INTER_TOKEN,
            ),
            prompt_tokens: tokens(r, "vllm:request_prompt_tokens", "Prompt tokens"),
            generation_tokens: tokens(r, "vllm:request_generation_tokens", "Output tokens"),
            params_max_tokens: tokens(
                r,
                "vllm:request_params_max_tokens",
                "Output tokens that were allowed",
            ),
            longest: tokens(
                r,
                "vllm:request_max_num_generation_tokens",
                "Output tokens of a request's longest answer",
            ),
            computed_tokens: tokens(
                r,
                "vllm:request_prefill_kv_computed_tokens",
                "Prompt tokens computed",
            ),
            params_n: histogram(
                r,
                "vllm:request_params_n",
                "Answers asked for",
                bounds::CHOICES.iter().copied(),
            ),
        }
    }

    /// A request of any number of answers ended, which asked for `choice_count` to each prompt; the
    /// longest had so many tokens.
    pub(super) fn count_request(&self, longest: usize, choice_count: usize) {
        observe(&self.longest, longest);
        observe(&self.params_n, choice_count);
    }

    pub(super) fn count(&self, finished: &Finished) {
        of_label(&self.finished, ("finished_reason", finished.reason)).inc();
        self.end_to_end.observe(finished.total.as_secs_f64());
        observe(&self.prompt_tokens, finished.prompt_count);
        if finished.inference.is_some() {
            let computed_count = finished.prompt_count.saturating_sub(finished.cached_count);
            observe(&self.computed_tokens, computed_count);
        }
        observe(&self.generation_tokens, finished.output_count);
        observe(&self.params_max_tokens, finished.max_tokens);
        if let Some(inference) = finished.inference {
            self.inference.observe(inference.as_secs_f64());
        }
        if let Some(decode) = finished.decode {
            self.decode.observe(decode.as_secs_f64());
            // The first token is prefill's.
            if let Some(later @ 1..) = u32::try_from(finished.output_count)
                .ok()
                .and_then(|count| count.checked_sub(1))
            {
                self.per_output_token
                    .observe(decode.as_secs_f64() / f64::from(later));
            }
        }
    }
}

fn finished(registry: &mut Registry) -> Family<Labels, Counter> {
    let named = ("vllm:request_success", "Sequences by how they ended");
    let reasons = ["stop", "length", "abort", ERROR, "repetition"];
    by_label(registry, named, ("finished_reason", &reasons))
}

pub(crate) fn reason_label(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Abort => "abort",
    }
}
