//! Which tokens a request allows, and which it would rather have.

use crate::batch::TokenId;

/// Tokens outside the vocabulary change nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Only these may be chosen; absent: all.
    pub allowed: Option<Vec<TokenId>>,
    /// Sequences of tokens that the output may not have; none is empty.
    pub bad_words: Vec<Vec<TokenId>>,
    /// Added to the logits of these tokens.
    pub bias: Vec<(TokenId, f32)>,
}

// === impl Rules ===

impl Rules {
    pub(super) fn looks_back(&self) -> bool {
        self.bad_words.iter().any(|word| word.len() > 1)
    }

    /// Leaves what is allowed and completes no bad word.
    pub(super) fn mask(&self, logits: &mut [f32], output: &[TokenId]) {
        if let Some(allowed) = &self.allowed {
            keep_only(logits, allowed);
        }
        for word in &self.bad_words {
            if let Some((last, before)) = word.split_last()
                && output.ends_with(before)
            {
                forbid(logits, &[*last]);
            }
        }
    }

    pub(super) fn add_bias(&self, logits: &mut [f32]) {
        for (token, bias) in &self.bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
    }
}

pub(super) fn forbid(logits: &mut [f32], tokens: &[TokenId]) {
    for token in tokens {
        if let Some(logit) = logits.get_mut(*token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

fn keep_only(logits: &mut [f32], allowed: &[TokenId]) {
    let get = |token: &TokenId| Some((*token as usize, *logits.get(*token as usize)?));
    let kept: Vec<(usize, f32)> = allowed.iter().filter_map(get).collect();
    logits.fill(f32::NEG_INFINITY);
    for (index, logit) in kept {
        logits[index] = logit;
    }
}
