//! `POST /v1/chat/completions`.

use std::time::SystemTime;

use actix_web::HttpResponse;
use actix_web::web::{self, Data, Json};
use berth_engine_core::batch::TokenId;
use berth_engine_text::Conversation;
use serde_json::{Map, Value};

use super::RequestId;
use super::error::{ApiError, describe};
use super::fields::Fields;
use super::options::Options;
use super::reply::{Endpoint, Header};
use crate::app::App;
use crate::model::ModelText;

/// A conversation to be continued.
struct ChatRequest {
    messages: Vec<Value>,
    add_generation_prompt: bool,
    add_special_tokens: bool,
    variables: Option<Map<String, Value>>,
}

pub(super) async fn create(
    app: Data<App>,
    id: RequestId,
    body: Json<Map<String, Value>>,
) -> Result<HttpResponse, ApiError> {
    let in_flight = app.admit()?;
    let mut fields = Fields(body.into_inner());
    app.check_model(fields.take("model")?)?;
    fields.refuse_unimplemented_in_chat()?;
    let header = Header::take(&mut fields, Endpoint::Chat, &app, id)?;
    let options = Options::take(&mut fields)?;
    let request = ChatRequest::take(&mut fields)?;
    let text = app.text.clone();
    // Templates and tokenizers take milliseconds on long prompts: not on this thread.
    let prompt = web::block(move || request.tokens(&text))
        .await
        .map_err(interrupted)??;
    let generation = app.generate(in_flight, vec![prompt], &options).await?;
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
        Ok(Self {
            messages,
            add_generation_prompt: fields.take("add_generation_prompt")?.unwrap_or(true),
            add_special_tokens: fields.take("add_special_tokens")?.unwrap_or(false),
            variables: fields.take("chat_template_kwargs")?,
        })
    }

    fn tokens(&self, text: &ModelText) -> Result<Vec<TokenId>, ApiError> {
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
        text.tokenizer
            .encode(&rendered, self.add_special_tokens)
            .map_err(|error| ApiError::invalid("messages", describe(&error)))
    }
}
