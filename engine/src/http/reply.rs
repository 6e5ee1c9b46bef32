//! The JSON of answers, whole and in chunks.

use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::HttpResponse;
use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::Fields;
use super::options::Options;
use super::{RequestId, is_request_id, stream};
use crate::app::App;
use crate::generation::{End, Generation, Piece};

/// Which of the two shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Chat,
    Completions,
}

/// What every object of one answer says.
#[derive(Clone, Debug)]
pub(super) struct Header {
    endpoint: Endpoint,
    id: String,
    created_s: u64,
    model: String,
}

// === impl Header ===

impl Header {
    /// A `request_id` in the body names the answer where the HTTP header did not.
    pub(super) fn take(
        fields: &mut Fields,
        endpoint: Endpoint,
        app: &App,
        id: RequestId,
    ) -> Result<Self, ApiError> {
        let asked: Option<String> = fields.take("request_id")?;
        if asked.as_deref().is_some_and(|id| !is_request_id(id)) {
            let message = "`request_id` must be 1 to 128 visible ASCII characters";
            return Err(ApiError::invalid("request_id", message));
        }
        let prefix = match endpoint {
            Endpoint::Chat => "chatcmpl",
            Endpoint::Completions => "cmpl",
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Self {
            endpoint,
            id: format!("{prefix}-{}", asked.unwrap_or(id.0)),
            created_s: now.as_secs(),
            model: app.name().to_owned(),
        })
    }

    pub(super) async fn respond(
        self,
        generation: Generation,
        options: &Options,
    ) -> Result<HttpResponse, ApiError> {
        if options.stream {
            return Ok(stream::response(self, generation, options.include_usage));
        }
        self.whole(generation).await
    }

    async fn whole(self, mut generation: Generation) -> Result<HttpResponse, ApiError> {
        let mut answers: Vec<(String, Option<End>)> = vec![];
        answers.resize_with(generation.choice_count(), Default::default);
        while let Some(piece) = generation.next().await {
            let Piece { index, text, end } = piece.map_err(|_| broken())?;
            answers[index].0.push_str(&text);
            answers[index].1 = end;
        }
        let choices = answers.into_iter().enumerate();
        let choices: Vec<Value> = choices
            .map(|(index, (text, end))| self.choice(index, &text, end.as_ref()))
            .collect();
        let object = match self.endpoint {
            Endpoint::Chat => "chat.completion",
            Endpoint::Completions => "text_completion",
        };
        let mut body = self.object(object, choices);
        body["usage"] = generation.usage();
        Ok(HttpResponse::Ok().json(body))
    }

    /// What a stream begins with: the role of each choice; completions have none.
    pub(super) fn opening(&self, choice_count: usize) -> Vec<Value> {
        if self.endpoint == Endpoint::Completions {
            return vec![];
        }
        let role = json!({"role": "assistant", "content": ""});
        let choice =
            |index| json!({"index": index, "delta": role, "logprobs": null, "finish_reason": null});
        (0..choice_count)
            .map(|index| self.chunk(vec![choice(index)]))
            .collect()
    }

    pub(super) fn piece(&self, piece: &Piece) -> Value {
        let Piece { index, text, end } = piece;
        let mut choice = match self.endpoint {
            Endpoint::Chat => {
                let delta = if text.is_empty() {
                    json!({})
                } else {
                    json!({"content": text})
                };
                json!({"index": index, "delta": delta, "logprobs": null})
            }
            Endpoint::Completions => json!({"index": index, "text": text, "logprobs": null}),
        };
        set_end(&mut choice, end.as_ref());
        self.chunk(vec![choice])
    }

    /// One event of a stream.
    pub(super) fn chunk(&self, choices: Vec<Value>) -> Value {
        let object = match self.endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            Endpoint::Completions => "text_completion",
        };
        self.object(object, choices)
    }

    fn choice(&self, index: usize, text: &str, end: Option<&End>) -> Value {
        let mut choice = match self.endpoint {
            Endpoint::Chat => {
                let message = json!({"role": "assistant", "content": text, "refusal": null});
                json!({"index": index, "message": message, "logprobs": null})
            }
            Endpoint::Completions => json!({"index": index, "text": text, "logprobs": null}),
        };
        set_end(&mut choice, end);
        choice
    }

    fn object(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": concat!("berth-", env!("CARGO_PKG_VERSION")),
            "choices": choices,
        })
    }
}

fn set_end(choice: &mut Value, end: Option<&End>) {
    choice["finish_reason"] = end.map_or(Value::Null, |end| end.reason().into());
    choice["stop_reason"] = end.map_or(Value::Null, |end| end.stop.clone());
}

/// The step loop ended under this request.
pub(super) fn broken() -> ApiError {
    ApiError::Internal("the engine ended before the answer did".to_owned())
}
