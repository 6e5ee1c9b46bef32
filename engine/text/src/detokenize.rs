//! Token ids to text while they are being sampled.
//!
//! ```text
//! token ─► bytes ─► whole characters ─► text not yet sent ─► search ─► delta
//!          (half characters wait)       (a stop may begin in its last characters, which wait)
//! ```
//!
//! However the text is cut into tokens, the deltas joined together are what decoding all tokens
//! at once gives, up to the first stop string.

pub(crate) mod stop;
mod utf8;

use std::sync::Arc;

use crate::tokenizer::Tokenizer;
use stop::{StopMatch, StopStrings};
use utf8::Utf8Stream;

/// How one answer is turned into text.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Leave control tokens out of the text.
    pub skip_special: bool,
    /// Strings that end the answer.
    pub stop: StopStrings,
    /// Keep the stop string that was found at the end of the text.
    pub include_stop: bool,
    /// A stop string completed by one of the first so many tokens does not count.
    pub tokens_min: usize,
}

/// What one token added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Text to send now; often empty while characters are held back.
    pub text: String,
    /// The stop string that ended the answer. Tokens pushed after it add nothing.
    pub stopped: Option<StopMatch>,
}

/// The state of one answer. Do not push the token that ended it (`eos`, `stop_token_ids`).
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    options: Options,
    /// Characters at the end of the text in which a stop string may have begun.
    held_chars: usize,
    utf8: Utf8Stream,
    /// The end of the text so far: what was not sent, and before it what a search may still need.
    window: String,
    /// How much of `window` was sent, in bytes.
    sent: usize,
    token_count: usize,
    stopped: Option<StopMatch>,
}

// === impl Detokenizer ===

impl Detokenizer {
    /// Before the first token of an answer.
    pub fn new(tokenizer: Arc<Tokenizer>, options: Options) -> Self {
        Self {
            tokenizer,
            held_chars: options.stop.held_chars(),
            options,
            utf8: Utf8Stream::default(),
            window: String::new(),
            sent: 0,
            token_count: 0,
            stopped: None,
        }
    }

    /// Takes the next sampled token.
    pub fn push(&mut self, token: u32) -> Delta {
        if self.stopped.is_some() {
            return self.delta(self.sent);
        }
        self.token_count = self.token_count.saturating_add(1);
        let searched = self.window.len();
        if !(self.options.skip_special && self.tokenizer.is_special(token)) {
            let bytes = self.tokenizer.token_bytes(token).unwrap_or_default();
            self.utf8.push(bytes, &mut self.window);
        }
        self.search(searched);
        let end = if self.stopped.is_some() {
            self.window.len()
        } else {
            self.safe_end()
        };
        let delta = self.delta(end);
        self.forget();
        delta
    }

    /// The answer ended for another reason: what was held back is text after all.
    pub fn finish(&mut self) -> Delta {
        if self.stopped.is_some() {
            return self.delta(self.sent);
        }
        let searched = self.window.len();
        self.utf8.finish(&mut self.window);
        self.search(searched);
        self.delta(self.window.len())
    }

    /// Ends the text at the first stop string that completes after `searched`, in bytes.
    fn search(&mut self, searched: usize) {
        if self.token_count <= self.options.tokens_min && self.options.tokens_min > 0 {
            return;
        }
        if let Some(found) = self.options.stop.find(&self.window, searched) {
            let end = if self.options.include_stop {
                found.end
            } else {
                found.start
            };
            self.window.truncate(end);
            self.stopped = Some(found.stop);
        }
    }

    /// Where the text ends that no stop string to come can take back.
    fn safe_end(&self) -> usize {
        let held = if self.options.include_stop {
            0
        } else {
            self.held_chars
        };
        from_end(&self.window, held).max(self.sent)
    }

    fn delta(&mut self, end: usize) -> Delta {
        let text = self.window[self.sent..end].to_owned();
        self.sent = end;
        Delta {
            text,
            stopped: self.stopped.clone(),
        }
    }

    /// Drops the text that was sent and that no stop string can begin in.
    fn forget(&mut self) {
        let start = from_end(&self.window, self.held_chars).min(self.sent);
        self.window.drain(..start);
        self.sent -= start;
    }
}

/// Where the last `count` characters begin.
fn from_end(text: &str, count: usize) -> usize {
    if count == 0 {
        return text.len();
    }
    text.char_indices()
        .rev()
        .nth(count - 1)
        .map_or(0, |(start, _)| start)
}

#[cfg(test)]
mod tests;
