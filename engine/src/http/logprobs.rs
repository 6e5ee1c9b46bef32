//! How likely tokens were, in the two shapes of the API.

use std::sync::Arc;

use berth_engine_core::batch::TokenId;
use berth_engine_core::sampling::{Choice as Chosen, TokenLogprob};
use berth_engine_text::Tokenizer;
use serde_json::{Map, Value, json};

use super::options::logprobs::Shown;
use super::reply::Endpoint;

/// JSON has no infinity; vLLM writes this.
const LEAST: f32 = -9999.0;

/// Tells what was asked for about each token.
#[derive(Clone, Debug)]
pub(super) struct Teller {
    tokenizer: Arc<Tokenizer>,
    endpoint: Endpoint,
    pub(super) shown: Shown,
    /// Where the next token's text begins, in characters, by choice; completions tell it.
    offsets: Vec<usize>,
}

// === impl Teller ===

impl Teller {
    pub(super) fn new(tokenizer: Arc<Tokenizer>, endpoint: Endpoint, shown: Shown) -> Self {
        Self {
            tokenizer,
            endpoint,
            shown,
            offsets: vec![],
        }
    }

    /// The `logprobs` of the next tokens of a choice; null where they were not asked for.
    pub(super) fn logprobs(&mut self, index: usize, tokens: &[Chosen]) -> Value {
        match self.endpoint {
            _ if !self.shown.logprobs => Value::Null,
            Endpoint::Chat => {
                let content: Vec<Value> = tokens.iter().map(|it| self.in_chat(it)).collect();
                json!({"content": content, "refusal": null})
            }
            Endpoint::Completions => self.in_completions(index, tokens),
        }
    }

    fn in_chat(&self, chosen: &Chosen) -> Value {
        let one = |token, logprob| {
            json!({
                "token": self.text(token),
                "logprob": finite(logprob),
                "bytes": self.tokenizer.token_bytes(token),
            })
        };
        let top = chosen.top_logprobs.iter();
        let top: Vec<Value> = top.map(|it| one(it.token, it.logprob)).collect();
        let mut told = one(chosen.token, chosen.logprob);
        told["top_logprobs"] = top.into();
        told
    }

    fn in_completions(&mut self, index: usize, tokens: &[Chosen]) -> Value {
        if self.offsets.len() <= index {
            self.offsets.resize(index + 1, 0);
        }
        let (mut texts, mut offsets) = (vec![], vec![]);
        for chosen in tokens {
            let text = self.text(chosen.token);
            offsets.push(self.offsets[index]);
            self.offsets[index] += text.chars().count();
            texts.push(text);
        }
        let logprobs: Vec<f32> = tokens.iter().map(|it| finite(it.logprob)).collect();
        let top: Vec<Value> = tokens.iter().map(|it| self.by_text(it)).collect();
        json!({
            "tokens": texts,
            "token_logprobs": logprobs,
            "top_logprobs": top,
            "text_offset": offsets,
        })
    }

    /// The most likely tokens, and the chosen one where it is not among them. Of tokens with the
    /// same text the most likely is told.
    fn by_text(&self, chosen: &Chosen) -> Value {
        let own = TokenLogprob {
            token: chosen.token,
            logprob: chosen.logprob,
        };
        let mut told = Map::new();
        for TokenLogprob { token, logprob } in chosen.top_logprobs.iter().chain([&own]) {
            told.entry(self.text(*token))
                .or_insert(finite(*logprob).into());
        }
        told.into()
    }

    fn text(&self, token: TokenId) -> String {
        if self.shown.as_ids {
            return format!("token_id:{token}");
        }
        let bytes = self.tokenizer.token_bytes(token).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }
}

fn finite(logprob: f32) -> f32 {
    logprob.max(LEAST)
}
