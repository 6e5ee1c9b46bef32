//! Which tokens a request allows, and which it would rather have.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_engine_core::batch::TokenId;
use berth_engine_core::sampling::Rules;
use berth_engine_text::Tokenizer;

use super::super::error::{ApiError, describe};
use super::super::fields::Fields;

/// Each is compared with the end of the output at every token.
const BAD_WORDS_MAX: usize = 256;
const BAD_WORD_BYTES_MAX: usize = 1024;
/// OpenAI's bound.
const BIAS_MAX: f32 = 100.0;
/// Far above OpenAI's 300.
const BIASED_MAX: usize = 4096;

/// As the request says it: tokens not yet compared with the vocabulary, words not yet encoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AskedRules {
    allowed: Option<Vec<TokenId>>,
    bad_words: Vec<String>,
    bias: BTreeMap<TokenId, f32>,
}

// === impl AskedRules ===

impl AskedRules {
    pub(super) fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(Self {
            allowed: allowed(fields)?,
            bad_words: bad_words(fields)?,
            bias: bias(fields)?,
        })
    }

    /// The same in tokens of this vocabulary; none where nothing was asked for.
    ///
    /// # Errors
    /// Names the field whose token is none.
    pub(crate) fn resolve(
        &self,
        tokenizer: &Tokenizer,
        vocab_size: usize,
    ) -> Result<Option<Arc<Rules>>, ApiError> {
        if *self == Self::default() {
            return Ok(None);
        }
        check_tokens(
            "allowed_token_ids",
            self.allowed.iter().flatten(),
            vocab_size,
        )?;
        check_tokens("logit_bias", self.bias.keys(), vocab_size)?;
        let mut bad_words = vec![];
        for word in &self.bad_words {
            encode_bad_word(word, tokenizer, &mut bad_words)?;
        }
        Ok(Some(Arc::new(Rules {
            allowed: self.allowed.clone(),
            bad_words,
            bias: self
                .bias
                .iter()
                .map(|(token, bias)| (*token, *bias))
                .collect(),
        })))
    }
}

fn allowed(fields: &mut Fields) -> Result<Option<Vec<TokenId>>, ApiError> {
    let name = "allowed_token_ids";
    let mut allowed: Option<Vec<TokenId>> = fields.take(name)?;
    if let Some(allowed) = &mut allowed {
        allowed.sort_unstable();
        allowed.dedup();
        if allowed.is_empty() {
            let message = "`allowed_token_ids` is empty: then no token could be chosen";
            return Err(ApiError::invalid(name, message));
        }
    }
    Ok(allowed)
}

fn bad_words(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let words: Vec<String> = fields.take("bad_words")?.unwrap_or_default();
    let fault = if words.len() > BAD_WORDS_MAX {
        format!("`bad_words` may have {BAD_WORDS_MAX} words")
    } else if words.iter().any(|word| word.trim_start().is_empty()) {
        "`bad_words` has an empty word".to_owned()
    } else if words.iter().any(|word| word.len() > BAD_WORD_BYTES_MAX) {
        format!("a word of `bad_words` may have {BAD_WORD_BYTES_MAX} bytes")
    } else {
        return Ok(words);
    };
    Err(ApiError::invalid("bad_words", fault))
}

fn bias(fields: &mut Fields) -> Result<BTreeMap<TokenId, f32>, ApiError> {
    let name = "logit_bias";
    let bias: BTreeMap<TokenId, f32> = fields.take(name)?.unwrap_or_default();
    let fault = if bias.len() > BIASED_MAX {
        format!("`logit_bias` may have {BIASED_MAX} tokens")
    } else if bias.values().any(|bias| bias.abs() > BIAS_MAX) {
        format!("`logit_bias` must be -{BIAS_MAX} to {BIAS_MAX}")
    } else {
        return Ok(bias);
    };
    Err(ApiError::invalid(name, fault))
}

fn check_tokens<'a>(
    name: &str,
    mut tokens: impl Iterator<Item = &'a TokenId>,
    vocab_size: usize,
) -> Result<(), ApiError> {
    match tokens.find(|token| **token as usize >= vocab_size) {
        Some(token) => Err(ApiError::invalid(
            name,
            format!("`{name}`: token {token} is not among the {vocab_size} of the vocabulary"),
        )),
        None => Ok(()),
    }
}

/// A word at the start of a text and one after a space are often different tokens: both are bad, as
/// in vLLM (`SamplingParams.update_from_tokenizer`).
fn encode_bad_word(
    word: &str,
    tokenizer: &Tokenizer,
    bad_words: &mut Vec<Vec<TokenId>>,
) -> Result<(), ApiError> {
    let word = word.trim_start();
    let encode = |text: &str| {
        tokenizer
            .encode_plain(text, false)
            .map_err(|error| ApiError::invalid("bad_words", describe(&error)))
    };
    let (bare, spaced) = (encode(word)?, encode(&format!(" {word}"))?);
    let differs = spaced.len() == bare.len() && spaced.first() != bare.first();
    let both = [Some(bare), differs.then_some(spaced)];
    bad_words.extend(both.into_iter().flatten().filter(|word| !word.is_empty()));
    Ok(())
}
