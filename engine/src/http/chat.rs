//! `POST /v1/chat/completions`.

use std::time::SystemTime;

use actix_web::HttpResponse;
use actix_web::web::{self, Data};
use berth_engine_text::Conversation;
use serde_json::{Map, Value};

use super::RequestId;
use super::body::Body;
use super::error::{ApiError, describe};
use super::fields::Fields;
use super::options::{Cut, Options};
use super::reply::{Endpoint, Header};
use crate::app::{App, Prompt};
use crate::model::ModelText;

/// A conversation to be continued.
struct ChatRequest {
    messages: Vec<Value>,
    add_generation_prompt: bool,
    continue_final_message: bool,
    add_special_tokens: bool,
    variables: Option<Map<String, Value>>,
}

pub(super) async fn create(
    app: Data<App>,
    id: RequestId,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let in_flight = app.admit()?;
    // The first is dropped last.
    let Body { share, mut fields } = body;
    app.check_model(fields.take("model")?)?;
    fields.refuse_unimplemented_in_chat()?;
    let mut options = Options::take(&mut fields, Endpoint::Chat, &app.text.defaults)?;
    let header = Header::take(&mut fields, Endpoint::Chat, (&app, options.shown), id)?;
    let request = ChatRequest::take(&mut fields)?;
    let (text, cut) = (app.text.clone(), options.cut(&app.limits));
    let echo = options.echo;
    // Templates and tokenizers take milliseconds on long prompts: not on this thread.
    drop(fields);
    let encode = move || {
        let prompt = request.prompt(&text, cut, echo);
        // In this order, and here: a client that leaves does not end this.
        drop((request, share));
        prompt
    };
    let prompt = web::block(encode).await.map_err(interrupted)??;
    let room = app.limits.max_model_len.saturating_sub(prompt.tokens.len());
    options
        .max_tokens
        .or_at_most(app.text.defaults.max_tokens, room);
    let generation = app
        .generate(in_flight, vec![prompt], &options)
        .await
        .map_err(ApiError::of_chat)?;
    header.respond(generation, &options).await
}

pub(super) fn interrupted(error: impl std::fmt::Display) -> ApiError {
    ApiError::Internal(format!("encoding the prompt: {error}"))
}

// === impl ChatRequest ===

impl ChatRequest {
    fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let messages: Vec<Value> = fields.take("messages")?.unwrap_or_default();
        if messages.is_empty() {
            return Err(ApiError::invalid(
                "messages",
                "`messages` must have at least one message",
            ));
        }
        let add_generation_prompt = fields.take("add_generation_prompt")?.unwrap_or(true);
        let continue_final_message = fields.take("continue_final_message")?.unwrap_or(false);
        if add_generation_prompt && continue_final_message {
            let message = "`continue_final_message` needs `add_generation_prompt` to be false";
            return Err(ApiError::invalid("continue_final_message", message));
        }
        Ok(Self {
            messages,
            add_generation_prompt,
            continue_final_message,
            add_special_tokens: fields.take("add_special_tokens")?.unwrap_or(false),
            variables: fields.take("chat_template_kwargs")?,
        })
    }

    fn prompt(&self, text: &ModelText, cut: Cut, echo: bool) -> Result<Prompt, ApiError> {
        let rendered = self.rendered(text)?;
        let mut tokens = text
            .tokenizer
            .encode(&rendered, self.add_special_tokens)
            .map_err(|error| ApiError::invalid("messages", describe(&error)))?;
        cut.apply(&mut tokens);
        let echo = match self.messages.last() {
            Some(last) if echo && !self.add_generation_prompt => content(last),
            _ => String::new(),
        };
        Ok(Prompt {
            tokens,
            echo: echo.into(),
        })
    }

    fn rendered(&self, text: &ModelText) -> Result<String, ApiError> {
        let Some(template) = &text.template else {
            let message = "this model has no chat template: use /v1/completions";
            return Err(ApiError::invalid("messages", message));
        };
        let conversation = Conversation {
            messages: &self.messages,
            add_generation_prompt: self.add_generation_prompt,
            tools: None,
            variables: self.variables.as_ref(),
            now: SystemTime::now(),
        };
        let rendered = template
            .render(&conversation)
            .map_err(|error| ApiError::invalid("messages", describe(&error)))?;
        match self.messages.last() {
            Some(last) if self.continue_final_message => left_open(rendered, &content(last)),
            _ => Ok(rendered),
        }
    }
}

/// The text of a message, its parts as lines: as templates see it.
fn content(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let text = |part: &Value| {
                part.as_str()
                    .or_else(|| part["text"].as_str())
                    .map(str::to_owned)
            };
            parts.iter().filter_map(text).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// Ends the conversation with the last message's own end, so that the model goes on with it. As in
/// transformers (`apply_chat_template(continue_final_message=True)`).
fn left_open(mut rendered: String, last: &str) -> Result<String, ApiError> {
    let (kept, trimmed) = (last.trim_start(), last.trim());
    let Some(start) = rendered.rfind(trimmed) else {
        let message = "the chat template does not show the last message as it is";
        return Err(ApiError::invalid("continue_final_message", message));
    };
    let length = if rendered[start..].starts_with(kept) {
        kept.len()
    } else {
        trimmed.len()
    };
    rendered.truncate(start + length);
    Ok(rendered)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_conversation_that_is_left_open_ends_with_the_last_message() {
        let open = |rendered: &str, last| left_open(rendered.to_owned(), last).ok();
        let found = open("<u>hi<a>The answer <end>", "The answer ");
        assert_eq!(found.as_deref(), Some("<u>hi<a>The answer "));
        let trimmed = open("<u>hi<a>The answer<end>", " The answer ");
        assert_eq!(trimmed.as_deref(), Some("<u>hi<a>The answer"));
        assert_eq!(open("<u>hi<a>", "The answer"), None);
    }

    #[test]
    fn the_content_of_a_message_is_a_string_or_parts() {
        let parts = json!({"content": [{"type": "text", "text": "a"}, "b"]});
        assert_eq!(content(&parts), "a\nb");
        assert_eq!(content(&json!({"content": "a"})), "a");
        assert_eq!(content(&json!({"content": null})), "");
    }
}
