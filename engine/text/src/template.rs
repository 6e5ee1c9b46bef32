//! Chat templates: messages to the one text that the model was trained on.
//!
//! Jinja as Hugging Face runs it: blocks trimmed, loop controls, methods of Python strings, lists
//! and dictionaries, and the functions that templates rely on. A template comes with the model;
//! it has no way to files or the network, and its steps and its output are bounded.

mod features;
mod functions;
mod json;
mod messages;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::SystemTime;

use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value as Json};

use crate::tokenizer::{SpecialTokens, TEXT_BYTES_MAX};

const NAME: &str = "chat_template";
/// The largest in use have about 20 kB.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// A long conversation takes some tens of thousands of steps; all of these take about a second.
const STEPS_MAX: u64 = 5_000_000;

/// A compiled chat template. Immutable; share it behind an `Arc`.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

/// What one rendering is given.
#[derive(Clone, Copy, Debug)]
pub struct Conversation<'a> {
    /// Messages of the chat API. `content` may be a string, null, or a list of text parts, which
    /// become lines of one string.
    pub messages: &'a [Json],
    /// End with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Tools of the chat API; undefined in the template where `None`.
    pub tools: Option<&'a Json>,
    /// Further variables (`chat_template_kwargs`); they cannot replace the ones above.
    pub variables: Option<&'a Map<String, Json>>,
    /// The time that `strftime_now` tells, in UTC.
    pub now: SystemTime,
}

/// Why a template cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// Larger than any real template.
    #[error("chat template of {bytes} bytes is too long: {bytes_max} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// Longest allowed.
        bytes_max: usize,
    },
    /// It uses something by a name that is not known, in whatever branch.
    #[error("the chat template uses the {kind} {name:?}, which is not known")]
    Unknown {
        /// `filter`, `test` or `function`.
        kind: String,
        /// Its name.
        name: String,
    },
    /// Not Jinja, or of a dialect we do not speak.
    #[error("compiling the chat template")]
    Compile(#[source] minijinja::Error),
}

/// Why a conversation could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A message is not one of the chat API.
    #[error("message {index} {problem}")]
    Message {
        /// Position in the list.
        index: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The template itself refuses the conversation; its sentence is meant for the caller.
    #[error("{0}")]
    Refused(String),
    /// The template does not end.
    #[error("the chat template ran for more than {STEPS_MAX} steps")]
    TooManySteps,
    /// The text is longer than any context.
    #[error("the rendered conversation has more than {TEXT_BYTES_MAX} bytes")]
    TooLong,
    /// The template fails on this conversation.
    #[error("rendering the chat template")]
    Render(#[source] minijinja::Error),
}

/// Takes text up to a limit.
struct BoundedText {
    bytes: Vec<u8>,
    is_full: bool,
}

// === impl ChatTemplate ===

impl ChatTemplate {
    /// Compiles `source`; the special tokens become `bos_token`, `eos_token` and so on.
    ///
    /// # Errors
    ///
    /// Where the source is too long, does not compile, or uses what is not known.
    pub fn new(source: &str, special: &SpecialTokens) -> Result<Self, TemplateError> {
        let bytes = source.len();
        if bytes > SOURCE_BYTES_MAX {
            return Err(TemplateError::TooLong {
                bytes,
                bytes_max: SOURCE_BYTES_MAX,
            });
        }
        let mut environment = functions::environment();
        environment.set_fuel(Some(STEPS_MAX));
        let named = [
            ("bos_token", &special.bos),
            ("eos_token", &special.eos),
            ("pad_token", &special.pad),
            ("unk_token", &special.unk),
        ];
        for (name, token) in named {
            if let Some(token) = token {
                environment.add_global(name, token.as_str());
            }
        }
        environment
            .add_template_owned(NAME, features::without_generation_marks(source))
            .map_err(TemplateError::Compile)?;
        if let Some(unknown) = features::unknown(source, &environment, &["strftime_now"]) {
            return Err(TemplateError::Unknown {
                kind: unknown.kind.to_string(),
                name: unknown.name,
            });
        }
        Ok(Self { environment })
    }

    /// The text of a conversation, special tokens by their names: encode it with special tokens
    /// read, and without adding any.
    ///
    /// # Errors
    ///
    /// Where a message is malformed, the template refuses or fails, or a bound is reached.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<String, RenderError> {
        let context = context(conversation)?;
        let template = self
            .environment
            .get_template(NAME)
            .expect("the template was added when compiled");
        let mut text = BoundedText {
            bytes: Vec::new(),
            is_full: false,
        };
        match template.render_captured_to(context, &mut text) {
            Ok(_) => Ok(String::from_utf8_lossy(&text.bytes).into_owned()),
            Err(_) if text.is_full => Err(RenderError::TooLong),
            Err(error) => Err(explain(error)),
        }
    }
}

fn context(conversation: &Conversation<'_>) -> Result<Value, RenderError> {
    let messages = messages::plain(conversation.messages)?;
    let mut all: BTreeMap<&str, Value> = BTreeMap::new();
    for (name, value) in conversation.variables.into_iter().flatten() {
        all.insert(name, Value::from(Serde(value)));
    }
    if let Some(tools) = conversation.tools {
        all.insert("tools", Value::from(Serde(tools)));
    }
    all.insert("messages", Value::from(Serde(&messages)));
    all.insert(
        "add_generation_prompt",
        conversation.add_generation_prompt.into(),
    );
    let now = conversation.now;
    let strftime = move |format: String| functions::strftime(now, &format);
    all.insert("strftime_now", Value::from_function(strftime));
    Ok(Value::from(all))
}

fn explain(error: minijinja::Error) -> RenderError {
    if let Some(sentence) = functions::refusal(&error) {
        return RenderError::Refused(sentence.to_owned());
    }
    match error.kind() {
        ErrorKind::OutOfFuel => RenderError::TooManySteps,
        _ => RenderError::Render(error),
    }
}

// === impl BoundedText ===

impl Write for BoundedText {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > TEXT_BYTES_MAX {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
