//! The fields that chat and completions share, read and checked.

use berth_engine_core::batch::TokenId;
use berth_engine_core::sampling::Sampling;
use berth_engine_text::StopStrings;
use serde_json::Value;

use super::error::ApiError;
use super::fields::Fields;

/// OpenAI's bound.
const STOP_MAX: usize = 4;
/// OpenAI's bound on `n`; each choice is a sequence of its own.
const CHOICES_MAX: usize = 128;
/// Each is searched for at every token.
const STOP_TOKEN_IDS_MAX: usize = 256;

/// How answers are to be made.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Its seed is set for each sequence.
    pub(crate) sampling: Sampling,
    pub(crate) seed: Option<u64>,
    /// Absent: as many as there is room for.
    pub(crate) max_tokens: Option<usize>,
    pub(crate) min_tokens: usize,
    pub(crate) stop: StopStrings,
    pub(crate) stop_token_ids: Vec<TokenId>,
    pub(crate) ignore_eos: bool,
    /// Answers to each prompt.
    pub(crate) choice_count: usize,
    pub(crate) include_stop: bool,
    pub(crate) skip_special: bool,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
}

// === impl Options ===

impl Options {
    pub(crate) fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let max_tokens = max_tokens(fields)?;
        let min_tokens = fields.take("min_tokens")?.unwrap_or(0);
        if max_tokens.is_some_and(|max_tokens| min_tokens > max_tokens) {
            return Err(ApiError::invalid(
                "min_tokens",
                "`min_tokens` is above `max_tokens`",
            ));
        }
        let stream = fields.take("stream")?.unwrap_or(false);
        Ok(Self {
            sampling: sampling(fields)?,
            seed: fields.take::<i64>("seed")?.map(i64::cast_unsigned),
            max_tokens,
            min_tokens,
            stop: stop(fields)?,
            stop_token_ids: stop_token_ids(fields)?,
            ignore_eos: fields.take("ignore_eos")?.unwrap_or(false),
            choice_count: within(fields, "n", 1..=CHOICES_MAX)?.unwrap_or(1),
            include_stop: fields.take("include_stop_str_in_output")?.unwrap_or(false),
            skip_special: fields.take("skip_special_tokens")?.unwrap_or(true),
            stream,
            include_usage: include_usage(fields, stream)?,
        })
    }
}

fn max_tokens(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let older = within(fields, "max_tokens", 1..=usize::MAX)?;
    Ok(within(fields, "max_completion_tokens", 1..=usize::MAX)?.or(older))
}

fn sampling(fields: &mut Fields) -> Result<Sampling, ApiError> {
    let temperature = fields.take("temperature")?.unwrap_or(1.0_f32);
    if !(temperature.is_finite() && temperature >= 0.0) {
        return Err(ApiError::invalid(
            "temperature",
            "`temperature` must be 0 or more",
        ));
    }
    let top_p = fields.take("top_p")?.unwrap_or(1.0_f32);
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(ApiError::invalid(
            "top_p",
            "`top_p` must be above 0 and at most 1",
        ));
    }
    // -1 keeps all, as 0 does.
    let top_k = match fields.take::<i64>("top_k")?.unwrap_or(0) {
        -1 => 0,
        top_k => u32::try_from(top_k).map_err(|_| {
            ApiError::invalid("top_k", "`top_k` must be -1, 0 or a number of tokens")
        })?,
    };
    Ok(Sampling {
        temperature,
        top_p,
        top_k,
        ..Sampling::default()
    })
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

fn include_usage(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(options) = fields.take("stream_options")? else {
        return Ok(false);
    };
    if !stream {
        let message = "`stream_options` needs `stream` to be true";
        return Err(ApiError::invalid("stream_options", message));
    }
    let mut options = Fields(options);
    if options.take("continuous_usage_stats")?.unwrap_or(false) {
        let message = "`stream_options.continuous_usage_stats` is not implemented yet";
        return Err(ApiError::invalid("stream_options", message));
    }
    Ok(options.take("include_usage")?.unwrap_or(false))
}

fn within(
    fields: &mut Fields,
    name: &str,
    range: std::ops::RangeInclusive<usize>,
) -> Result<Option<usize>, ApiError> {
    match fields.take::<usize>(name)? {
        Some(number) if !range.contains(&number) => {
            let (least, most) = (range.start(), range.end());
            let most = if *most == usize::MAX {
                String::new()
            } else {
                format!(" and at most {most}")
            };
            Err(ApiError::invalid(
                name,
                format!("`{name}` must be at least {least}{most}"),
            ))
        }
        number => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn take(body: Value) -> Result<Options, ApiError> {
        Options::take(&mut Fields(body.as_object().unwrap().clone()))
    }

    #[track_caller]
    fn check_refused(body: Value, param: &str, sentence: &str) {
        let error = take(body).unwrap_err();
        assert!(error.to_string().contains(sentence), "{error}");
        assert_eq!(error.body()["error"]["param"], param);
    }

    #[test]
    fn values_out_of_range_are_named() {
        check_refused(json!({"temperature": -0.5}), "temperature", "0 or more");
        check_refused(json!({"top_p": 0}), "top_p", "above 0");
        check_refused(json!({"top_k": -2}), "top_k", "-1, 0 or");
        check_refused(json!({"n": 0}), "n", "at least 1 and at most 128");
        check_refused(json!({"max_tokens": 0}), "max_tokens", "at least 1");
        check_refused(
            json!({"max_tokens": 2, "min_tokens": 3}),
            "min_tokens",
            "above",
        );
        check_refused(
            json!({"stop": ["a", "b", "c", "d", "e"]}),
            "stop",
            "4 strings",
        );
        check_refused(json!({"stop": ""}), "stop", "empty");
        check_refused(json!({"stop": [1]}), "stop", "list of strings");
        check_refused(
            json!({"stream_options": {}}),
            "stream_options",
            "needs `stream`",
        );
        check_refused(
            json!({"stop_token_ids": [-1]}),
            "stop_token_ids",
            "invalid value",
        );
    }

    #[test]
    fn defaults_are_vllms() {
        let options = take(json!({})).unwrap();
        assert_eq!(options.sampling, Sampling::default());
        assert_eq!(
            (options.max_tokens, options.min_tokens, options.choice_count),
            (None, 0, 1)
        );
        assert!(options.skip_special && !options.stream && !options.include_stop);
    }

    #[test]
    fn the_newer_name_of_max_tokens_wins_and_seeds_may_be_negative() {
        let body = json!({"max_tokens": 3, "max_completion_tokens": 5, "seed": -1, "top_k": -1});
        let options = take(body).unwrap();
        assert_eq!(options.max_tokens, Some(5));
        assert_eq!((options.seed, options.sampling.top_k), (Some(u64::MAX), 0));
    }
}
