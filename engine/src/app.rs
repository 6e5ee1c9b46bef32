//! What handlers share: the served model, and the way into the step loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::TrySendError;
use std::time::Instant;

use berth_engine_core::batch::{SequenceId, TokenId};
use berth_engine_core::schedule::{Limits, Rejected};
use berth_engine_core::sequence::Request;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::generation::{Choice, Generation};
use crate::http::error::ApiError;
use crate::http::options::Options;
use crate::lifecycle::{InFlight, Lifecycle, Phase};
use crate::metrics::Metrics;
use crate::model::ModelText;
use crate::step_loop::{Inbox, Submission, Token};

/// Sequences of one request: prompts times choices.
const SEQUENCES_MAX: usize = 1024;

/// One per process, shared by all handlers.
#[derive(Debug)]
pub(crate) struct App {
    /// What requests may call the model; the first is its own.
    pub(crate) names: Vec<String>,
    pub(crate) text: ModelText,
    pub(crate) vocab_size: usize,
    pub(crate) limits: Limits,
    /// When the process started, in seconds since 1970.
    pub(crate) created_s: u64,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) inbox: Inbox,
    /// The next sequence's id.
    pub(crate) next_id: AtomicU64,
}

// === impl App ===

impl App {
    pub(crate) fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// Lets a request in, or says why not now.
    pub(crate) fn admit(&self) -> Result<InFlight, ApiError> {
        let reason = match self.lifecycle.phase() {
            Phase::Ready => return Ok(self.lifecycle.enter()),
            Phase::Loading => "the model is loading".to_owned(),
            Phase::Draining => "the server is shutting down".to_owned(),
            Phase::Failed(reason) => format!("the engine failed: {reason}"),
        };
        Err(ApiError::Unavailable(reason))
    }

    /// A model that is not said is this one.
    pub(crate) fn check_model(&self, name: Option<String>) -> Result<(), ApiError> {
        match name {
            Some(name) if !self.names.contains(&name) => {
                Err(ApiError::UnknownModel(name.chars().take(200).collect()))
            }
            _ => Ok(()),
        }
    }

    /// Queues every choice of every prompt, or none.
    pub(crate) async fn generate(
        &self,
        in_flight: InFlight,
        prompts: Vec<Vec<TokenId>>,
        options: &Options,
    ) -> Result<Generation, ApiError> {
        let arrived = Instant::now();
        if prompts.len().saturating_mul(options.choice_count) > SEQUENCES_MAX {
            let message = format!("prompts times `n` may be {SEQUENCES_MAX} at most");
            return Err(ApiError::invalid("n", message));
        }
        let prompt_count = prompts.iter().map(Vec::len).sum();
        let (mut requests, mut choices) = (vec![], vec![]);
        for prompt in prompts {
            let limit = self.output_limit(prompt.len(), options)?;
            for choice in 0..options.choice_count {
                // Enough for every token: the loop never waits, and a full channel never happens.
                let (sender, receiver) = mpsc::channel(limit);
                choices.push(Choice::new(
                    &self.text,
                    options,
                    prompt.len(),
                    limit,
                    receiver,
                ));
                requests.push((self.request(prompt.clone(), limit, options, choice), sender));
            }
        }
        self.submit(requests).await?;
        let metrics = Arc::clone(&self.metrics);
        Ok(Generation::new(
            choices,
            prompt_count,
            arrived,
            metrics,
            in_flight,
        ))
    }

    /// How many tokens an answer to this prompt may have.
    fn output_limit(&self, prompt_count: usize, options: &Options) -> Result<usize, ApiError> {
        let max_model_len = self.limits.max_model_len;
        let room = max_model_len.saturating_sub(prompt_count);
        if room == 0 {
            return Err(Rejected::PromptTooLong {
                prompt_count,
                max_model_len,
            }
            .into());
        }
        match options.max_tokens {
            Some(asked) if asked > room => Err(ApiError::invalid(
                "max_tokens",
                format!(
                    "`max_tokens` is {asked}, but after a prompt of {prompt_count} tokens there \
                     is room for {room}"
                ),
            )),
            asked => {
                let limit = asked.unwrap_or(room);
                check_min_tokens(options.min_tokens, limit).map(|()| limit)
            }
        }
    }

    fn request(
        &self,
        prompt: Vec<TokenId>,
        max_tokens: usize,
        options: &Options,
        choice: usize,
    ) -> Request {
        let mut sampling = options.sampling.clone();
        // The choices of one prompt differ; the same seed gives the same choices again.
        sampling.seed = options
            .seed
            .map_or_else(random, |seed| seed.wrapping_add(choice as u64));
        let mut stop_token_ids = options.stop_token_ids.clone();
        if !options.ignore_eos {
            stop_token_ids.extend_from_slice(&self.text.eos);
        }
        Request {
            id: SequenceId(self.next_id.fetch_add(1, Ordering::Relaxed)),
            prompt,
            sampling,
            max_tokens,
            min_tokens: options.min_tokens,
            stop_token_ids,
        }
    }

    async fn submit(&self, requests: Vec<(Request, mpsc::Sender<Token>)>) -> Result<(), ApiError> {
        let (reply, answer) = oneshot::channel();
        let ended = || ApiError::Internal("the engine has ended".to_owned());
        let answer = match self.inbox.try_send(Submission { requests, reply }) {
            Ok(()) => answer.await.map_err(|_| ended())?.map_err(ApiError::from),
            Err(TrySendError::Full(_)) => Err(ApiError::Busy(
                "too many requests arrive at a time".to_owned(),
            )),
            Err(TrySendError::Disconnected(_)) => Err(ended()),
        };
        if matches!(answer, Err(ApiError::Busy(_))) {
            self.metrics.count_rejection("queue_full");
        }
        answer
    }
}

/// The limit may be a default, so that only here both are known.
fn check_min_tokens(min_tokens: usize, limit: usize) -> Result<(), ApiError> {
    if min_tokens <= limit {
        return Ok(());
    }
    let message = format!(
        "`min_tokens` is {min_tokens}, but the answer may have {limit} tokens: raise `max_tokens`"
    );
    Err(ApiError::invalid("min_tokens", message))
}

/// A seed nobody asked for.
fn random() -> u64 {
    Uuid::new_v4().as_u64_pair().0
}
