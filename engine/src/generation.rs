//! The answers to one request while they are being made: tokens in, text out.
//!
//! Dropping it, because the client left, is enough: the step loop finds its channels closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_engine_core::batch::TokenId;
use berth_engine_core::sampling::Choice as Chosen;
use berth_engine_core::sequence::FinishReason;
use berth_engine_text::{Delta, Detokenizer};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{StreamExt, StreamMap};

use crate::app::Prompt;
use crate::budget::Share;
use crate::http::options::Options;
use crate::lifecycle::InFlight;
use crate::metrics::{ERROR, Finished, Metrics, reason_label};
use crate::model::ModelText;
use crate::step_loop::Token;

/// All choices of all prompts of one request.
#[derive(Debug)]
pub(crate) struct Generation {
    tokens: StreamMap<usize, ReceiverStream<Token>>,
    /// By index: choice within prompt, prompt after prompt.
    choices: Vec<Choice>,
    asked: Asked,
    /// The engine ended before the answers did.
    is_broken: bool,
    metrics: Arc<Metrics>,
}

/// What a generation keeps of its request.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) prompts: Vec<Vec<TokenId>>,
    pub(crate) arrived: Instant,
    /// Its place among those in flight, and the memory of its prompts.
    pub(crate) _held: (InFlight, Share),
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Choice {
    detokenizer: Detokenizer,
    /// The request's own stop tokens: one that ended the answer is shown.
    stop_token_ids: Vec<TokenId>,
    prompt_count: usize,
    max_tokens: usize,
    output_count: usize,
    /// Prompt tokens that did not have to be computed.
    cached_count: usize,
    scheduled: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
    finished: bool,
    /// What the text begins with, until the first token.
    echo: Arc<str>,
    /// Taken when the generation starts.
    receiver: Option<mpsc::Receiver<Token>>,
}

/// What one token adds to one answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    pub(crate) index: usize,
    /// Often empty, while characters are held back.
    pub(crate) text: String,
    pub(crate) chosen: Chosen,
    /// The answer's first token.
    pub(crate) is_first: bool,
    pub(crate) end: Option<End>,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct End {
    reason: FinishReason,
    /// The stop string or stop token of the request that did it, as vLLM tells.
    pub(crate) stop: Value,
}

/// The step loop ended before the answers did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken;

// === impl Generation ===

impl Generation {
    pub(crate) fn new(mut choices: Vec<Choice>, asked: Asked, metrics: Arc<Metrics>) -> Self {
        let receivers = choices
            .iter_mut()
            .map(|choice| choice.receiver.take())
            .enumerate();
        let tokens = receivers
            .filter_map(|(index, receiver)| Some((index, ReceiverStream::new(receiver?))))
            .collect();
        Self {
            tokens,
            choices,
            asked,
            is_broken: false,
            metrics,
        }
    }

    /// The next token's text; none when every answer has ended.
    pub(crate) async fn next(&mut self) -> Option<Result<Piece, Broken>> {
        let Some((index, token)) = self.tokens.next().await else {
            self.is_broken = self.choices.iter().any(|choice| !choice.finished);
            return self.is_broken.then_some(Err(Broken));
        };
        let choice = &mut self.choices[index];
        let arrived = self.asked.arrived;
        choice.note_times(&token, arrived, &self.metrics);
        let (text, end) = choice.push(&token);
        let is_first = choice.output_count == 1;
        if let Some(end) = &end {
            choice.finished = true;
            self.tokens.remove(&index);
            self.metrics
                .count_finished(&self.choices[index].finished(end.reason(), arrived));
        }
        Some(Ok(Piece {
            index,
            text,
            chosen: token.chosen,
            is_first,
            end,
        }))
    }

    pub(crate) fn choice_count(&self) -> usize {
        self.choices.len()
    }

    /// Choices of each prompt, at least one.
    fn per_prompt(&self) -> usize {
        (self.choices.len() / self.asked.prompts.len().max(1)).max(1)
    }

    /// The prompt that this choice answers.
    pub(crate) fn prompt(&self, index: usize) -> &[TokenId] {
        let prompt = self.asked.prompts.get(index / self.per_prompt());
        prompt.map_or(&[], Vec::as_slice)
    }

    /// The `usage` object. Of a prompt with several choices the first one's counts.
    pub(crate) fn usage(&self) -> Value {
        let prompt: usize = self.asked.prompts.iter().map(Vec::len).sum();
        let completion: usize = self.choices.iter().map(|choice| choice.output_count).sum();
        let firsts = self.choices.iter().step_by(self.per_prompt());
        let cached: usize = firsts.map(|choice| choice.cached_count).sum();
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        })
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        let reason = if self.is_broken {
            ERROR
        } else {
            reason_label(FinishReason::Abort)
        };
        for choice in self.choices.iter().filter(|choice| !choice.finished) {
            self.metrics
                .count_finished(&choice.finished(reason, self.asked.arrived));
        }
        let longest = self.choices.iter().map(|choice| choice.output_count).max();
        self.metrics
            .count_request(longest.unwrap_or(0), self.per_prompt());
    }
}

// === impl Choice ===

impl Choice {
    pub(crate) fn new(
        text: &ModelText,
        options: &Options,
        prompt: &Prompt,
        max_tokens: usize,
        receiver: mpsc::Receiver<Token>,
    ) -> Self {
        let detokenizer_options = berth_engine_text::Options {
            skip_special: options.skip_special,
            stop: options.stop.clone(),
            include_stop: options.include_stop,
            tokens_min: options.min_tokens,
        };
        Self {
            detokenizer: Detokenizer::new(Arc::clone(&text.tokenizer), detokenizer_options),
            stop_token_ids: options.stop_token_ids.clone(),
            prompt_count: prompt.tokens.len(),
            max_tokens,
            output_count: 0,
            cached_count: 0,
            scheduled: None,
            first: None,
            last: None,
            finished: false,
            echo: Arc::clone(&prompt.echo),
            receiver: Some(receiver),
        }
    }

    /// The token that ended the answer is not text, except where it only reached the limit.
    fn push(&mut self, token: &Token) -> (String, Option<End>) {
        self.output_count += 1;
        let (finish, token) = (token.finish, token.chosen.token);
        let mut delta = Delta::default();
        if finish != Some(FinishReason::Stop) {
            delta = self.detokenizer.push(token);
        }
        if finish.is_some() && delta.stopped.is_none() {
            let rest = self.detokenizer.finish();
            delta.text.push_str(&rest.text);
            delta.stopped = rest.stopped;
        }
        let end = match (delta.stopped, finish) {
            (Some(stopped), _) => Some((FinishReason::Stop, Value::from(stopped.string))),
            (None, Some(FinishReason::Stop)) if self.stop_token_ids.contains(&token) => {
                Some((FinishReason::Stop, Value::from(token)))
            }
            (None, Some(reason)) => Some((reason, Value::Null)),
            (None, None) => None,
        };
        let mut text = std::mem::take(&mut self.echo).to_string();
        text.push_str(&delta.text);
        (text, end.map(|(reason, stop)| End { reason, stop }))
    }

    fn note_times(&mut self, token: &Token, arrived: Instant, metrics: &Metrics) {
        let now = Instant::now();
        let since = |earlier: Instant| now.saturating_duration_since(earlier).as_secs_f64();
        match self.last {
            Some(last) => metrics.inter_token.observe(since(last)),
            None => {
                let queued = token.scheduled.saturating_duration_since(arrived);
                metrics.queue.observe(queued.as_secs_f64());
                metrics.prefill.observe(since(token.scheduled));
                metrics.first_token.observe(since(arrived));
                self.cached_count = token.cached_count;
                metrics.count_prompt(self.prompt_count, self.cached_count);
                (self.scheduled, self.first) = (Some(token.scheduled), Some(now));
            }
        }
        self.last = Some(now);
    }

    fn finished(&self, reason: &'static str, arrived: Instant) -> Finished {
        let until_last = |from: Option<Instant>| -> Option<Duration> {
            Some(self.last?.saturating_duration_since(from?))
        };
        Finished {
            reason,
            prompt_count: self.prompt_count,
            cached_count: self.cached_count,
            output_count: self.output_count,
            max_tokens: self.max_tokens,
            total: arrived.elapsed(),
            inference: until_last(self.scheduled),
            decode: until_last(self.first),
        }
    }
}

// === impl End ===

impl End {
    /// `finish_reason` of the API.
    pub(crate) fn reason(&self) -> &'static str {
        reason_label(self.reason)
    }
}
