//! The fields that chat and completions share, read and checked.

use berth_engine_core::batch::TokenId;
use berth_engine_core::policy::Terms;
use berth_engine_core::sampling::Sampling;
use berth_engine_core::schedule::Limits;
use berth_engine_text::StopStrings;
use serde_json::Value;

use super::error::ApiError;
use super::fields::Fields;
use super::reply::Endpoint;
use crate::model::Defaults;
use logprobs::Shown;
use rules::AskedRules;
use truncate::Truncate;

pub(crate) mod logprobs;
mod numbers;
pub(crate) mod rules;
mod sampling;
mod terms;
mod truncate;

#[cfg(test)]
mod tests;

/// OpenAI's bound.
const STOP_MAX: usize = 4;
/// OpenAI's bound on `n`; each choice is a sequence of its own.
const CHOICES_MAX: usize = 128;
/// Each is searched for at every token.
const STOP_TOKEN_IDS_MAX: usize = 256;

/// How answers are to be made.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Its seed is set for each sequence, its rules once the vocabulary is at hand.
    pub(crate) sampling: Sampling,
    pub(crate) rules: AskedRules,
    pub(crate) seed: Option<u64>,
    pub(crate) max_tokens: MaxTokens,
    pub(crate) min_tokens: usize,
    pub(crate) stop: StopStrings,
    pub(crate) stop_token_ids: Vec<TokenId>,
    pub(crate) ignore_eos: bool,
    /// Answers to each prompt.
    pub(crate) choice_count: usize,
    pub(crate) include_stop: bool,
    pub(crate) skip_special: bool,
    pub(crate) stream: bool,
    pub(crate) usage: StreamUsage,
    /// What is shown of tokens beside their text.
    pub(crate) shown: Shown,
    /// Whether the answer begins with what it continues.
    pub(crate) echo: bool,
    pub(crate) truncate: Truncate,
    pub(crate) terms: Terms,
}

/// How long an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MaxTokens {
    /// Absent: as many as there is room for.
    pub(crate) count: Option<usize>,
    /// Which of the two fields said it.
    pub(crate) field: &'static str,
}

/// When a stream tells what it used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamUsage {
    /// In a chunk of its own, at the end.
    pub(crate) at_end: bool,
    /// In every chunk.
    pub(crate) always: bool,
}

/// What prompts may keep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    truncate: Truncate,
    /// Tokens that leave room for the answer.
    room: usize,
}

// === impl Cut ===

impl Cut {
    pub(crate) fn apply(self, tokens: &mut Vec<TokenId>) {
        self.truncate.apply(tokens, self.room);
    }
}

// === impl Options ===

impl Options {
    /// # Errors
    /// Names the field that is wrong.
    pub(crate) fn take(
        fields: &mut Fields,
        endpoint: Endpoint,
        defaults: &Defaults,
    ) -> Result<Self, ApiError> {
        let max_tokens = MaxTokens::take(fields)?;
        let min_tokens = fields.take("min_tokens")?.unwrap_or(0);
        if max_tokens.count.is_some_and(|most| min_tokens > most) {
            return Err(ApiError::invalid(
                "min_tokens",
                "`min_tokens` is above `max_tokens`",
            ));
        }
        let stream = fields.take("stream")?.unwrap_or(false);
        let shown = Shown::take(fields, endpoint)?;
        Ok(Self {
            sampling: sampling::take(fields, defaults, shown.top_logprob_count)?,
            rules: AskedRules::take(fields)?,
            seed: fields.take::<i64>("seed")?.map(i64::cast_unsigned),
            max_tokens,
            min_tokens,
            stop: stop(fields)?,
            stop_token_ids: stop_token_ids(fields)?,
            ignore_eos: fields.take("ignore_eos")?.unwrap_or(false),
            choice_count: numbers::within(fields, "n", 1..=CHOICES_MAX)?.unwrap_or(1),
            include_stop: fields.take("include_stop_str_in_output")?.unwrap_or(false),
            skip_special: fields.take("skip_special_tokens")?.unwrap_or(true),
            stream,
            usage: StreamUsage::take(fields, stream)?,
            echo: echo(fields, &shown)?,
            truncate: Truncate::take(fields)?,
            shown,
            terms: terms::take(fields)?,
        })
    }

    pub(crate) fn cut(&self, limits: &Limits) -> Cut {
        let answer = self.max_tokens.count.unwrap_or(1);
        Cut {
            truncate: self.truncate,
            room: limits.max_model_len.saturating_sub(answer),
        }
    }
}

fn stop(fields: &mut Fields) -> Result<StopStrings, ApiError> {
    let strings = match fields.take::<Value>("stop")? {
        None => vec![],
        Some(Value::String(one)) => vec![one],
        Some(list) => serde_json::from_value::<Vec<String>>(list).map_err(|_| {
            ApiError::invalid("stop", "`stop` must be a string or a list of strings")
        })?,
    };
    if strings.len() > STOP_MAX {
        return Err(ApiError::invalid(
            "stop",
            format!("`stop` may have {STOP_MAX} strings"),
        ));
    }
    StopStrings::new(strings).map_err(|error| ApiError::invalid("stop", error.to_string()))
}

fn stop_token_ids(fields: &mut Fields) -> Result<Vec<TokenId>, ApiError> {
    let ids: Vec<TokenId> = fields.take("stop_token_ids")?.unwrap_or_default();
    if ids.len() > STOP_TOKEN_IDS_MAX {
        let message = format!("`stop_token_ids` may have {STOP_TOKEN_IDS_MAX} tokens");
        return Err(ApiError::invalid("stop_token_ids", message));
    }
    Ok(ids)
}

/// Log-probabilities of the prompt's tokens are not computed.
fn echo(fields: &mut Fields, shown: &Shown) -> Result<bool, ApiError> {
    let echo = fields.take("echo")?.unwrap_or(false);
    if echo && shown.logprobs {
        let message = "`echo` together with `logprobs` is not implemented yet";
        return Err(ApiError::invalid("echo", message));
    }
    Ok(echo)
}

// === impl MaxTokens ===

impl MaxTokens {
    fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let older = numbers::within(fields, "max_tokens", 1..=usize::MAX)?;
        let newer = numbers::within(fields, "max_completion_tokens", 1..=usize::MAX)?;
        let field = match newer {
            Some(_) => "max_completion_tokens",
            None => "max_tokens",
        };
        Ok(Self {
            count: newer.or(older),
            field,
        })
    }

    /// Where the request says nothing, the default, or less where there is less room.
    pub(crate) fn or_at_most(&mut self, default: Option<usize>, room: usize) {
        self.count = self
            .count
            .or(default.map(|default| default.min(room).max(1)));
    }
}

// === impl StreamUsage ===

impl StreamUsage {
    fn take(fields: &mut Fields, stream: bool) -> Result<Self, ApiError> {
        let Some(options) = fields.take("stream_options")? else {
            return Ok(Self::default());
        };
        if !stream {
            let message = "`stream_options` needs `stream` to be true";
            return Err(ApiError::invalid("stream_options", message));
        }
        let mut options = Fields(options);
        let mut flag = |name: &str| match options.take::<bool>(name) {
            Ok(flag) => Ok(flag.unwrap_or(false)),
            Err(error) => Err(ApiError::invalid("stream_options", error.to_string())),
        };
        let at_end = flag("include_usage")?;
        Ok(Self {
            at_end,
            // As in vLLM, only together with the first.
            always: flag("continuous_usage_stats")? && at_end,
        })
    }
}
