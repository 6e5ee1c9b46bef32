//! What handlers share: the served model, and the way into the step loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::TrySendError;
use std::time::{Duration, Instant};

use berth_engine_core::batch::{SequenceId, TokenId};
use berth_engine_core::sampling::Sampling;
use berth_engine_core::schedule::{Limits, Rejected};
use berth_engine_core::sequence::Request;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::budget::{Budget, Share};
use crate::generation::{Asked, Choice, Generation};
use crate::http::error::ApiError;
use crate::http::options::{MaxTokens, Options};
use crate::lifecycle::{InFlight, Lifecycle, Phase};
use crate::metrics::{Metrics, Rejection};
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
    /// What bodies and prompts may take.
    pub(crate) memory: Arc<Budget>,
    /// How long a body may take to arrive.
    pub(crate) slow_client_timeout: Duration,
    /// The next sequence's id.
    pub(crate) next_id: AtomicU64,
}

/// A prompt as it is computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Prompt {
    pub(crate) tokens: Vec<TokenId>,
    /// What the answer's text begins with.
    pub(crate) echo: Arc<str>,
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
        prompts: Vec<Prompt>,
        options: &Options,
    ) -> Result<Generation, ApiError> {
        let arrived = Instant::now();
        if prompts.len().saturating_mul(options.choice_count) > SEQUENCES_MAX {
            let message = format!("prompts times `n` may be {SEQUENCES_MAX} at most");
            return Err(ApiError::invalid("n", message));
        }
        let share = self.take_memory(prompt_bytes(&prompts, options))?;
        let rules = options
            .rules
            .resolve(&self.text.tokenizer, self.vocab_size)?;
        let sampling = Sampling {
            rules,
            ..options.sampling.clone()
        };
        let (mut requests, mut choices) = (vec![], vec![]);
        for prompt in &prompts {
            let limit = self.output_limit(prompt.tokens.len(), options)?;
            for choice in 0..options.choice_count {
                // Enough for every token: the loop never waits, and a full channel never happens.
                let (sender, receiver) = mpsc::channel(limit);
                choices.push(Choice::new(&self.text, options, prompt, limit, receiver));
                let sampling = seeded(&sampling, options.seed, choice);
                requests.push((self.request(prompt, sampling, limit, options), sender));
            }
        }
        self.submit(requests).await?;
        let asked = Asked {
            prompts: prompts.into_iter().map(|prompt| prompt.tokens).collect(),
            arrived,
            _held: (in_flight, share),
        };
        Ok(Generation::new(choices, asked, Arc::clone(&self.metrics)))
    }

    /// # Errors
    /// When other requests have it; they end, so another try is worth it.
    pub(crate) fn take_memory(&self, bytes: usize) -> Result<Share, ApiError> {
        self.memory.take(bytes).ok_or_else(|| self.no_memory_left())
    }

    /// Takes nothing yet.
    pub(crate) fn check_memory(&self, bytes: usize) -> Result<(), ApiError> {
        match self.memory.has(bytes) {
            true => Ok(()),
            false => Err(self.no_memory_left()),
        }
    }

    fn no_memory_left(&self) -> ApiError {
        self.metrics.count_rejection(Rejection::Memory);
        let message = "the requests that wait or run take all memory set aside for them";
        ApiError::Busy(message.to_owned())
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
        let MaxTokens { count, field } = options.max_tokens;
        match count {
            Some(asked) if asked > room => Err(ApiError::invalid(
                field,
                format!(
                    "`{field}` is {asked}, but after a prompt of {prompt_count} tokens there \
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
        prompt: &Prompt,
        sampling: Sampling,
        max_tokens: usize,
        options: &Options,
    ) -> Request {
        let mut stop_token_ids = options.stop_token_ids.clone();
        if !options.ignore_eos {
            stop_token_ids.extend_from_slice(&self.text.eos);
        }
        Request {
            id: SequenceId(self.next_id.fetch_add(1, Ordering::Relaxed)),
            prompt: prompt.tokens.clone(),
            sampling,
            max_tokens,
            min_tokens: options.min_tokens,
            stop_token_ids,
            terms: options.terms.clone(),
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
            self.metrics.count_rejection(Rejection::QueueFull);
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

/// The choices of one prompt differ; the same seed gives the same choices again.
fn seeded(sampling: &Sampling, seed: Option<u64>, choice: usize) -> Sampling {
    Sampling {
        seed: seed.map_or_else(random, |seed| seed.wrapping_add(choice as u64)),
        ..sampling.clone()
    }
}

/// What the prompts of one request take while it waits and runs: for each choice once, for the
/// scheduler's own copy once more. Their echo is shared, but at last each answer has it.
fn prompt_bytes(prompts: &[Prompt], options: &Options) -> usize {
    let one = |prompt: &Prompt| prompt.tokens.len() * size_of::<TokenId>() + prompt.echo.len();
    let copies = options.choice_count.saturating_add(1);
    prompts
        .iter()
        .map(one)
        .sum::<usize>()
        .saturating_mul(copies)
}

/// A seed nobody asked for.
fn random() -> u64 {
    Uuid::new_v4().as_u64_pair().0
}
