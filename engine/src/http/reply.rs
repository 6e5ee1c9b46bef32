//! The JSON of answers, whole and in chunks.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::HttpResponse;
use berth_engine_core::batch::TokenId;
use berth_engine_core::sampling::Choice as Chosen;
use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::Fields;
use super::logprobs::Teller;
use super::options::Options;
use super::options::logprobs::Shown;
use super::{RequestId, is_request_id, stream};
use crate::app::App;
use crate::generation::{End, Generation, Piece};

/// Which of the two shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
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
    teller: Teller,
}

/// One answer while it is put together.
#[derive(Debug, Default)]
struct Answer {
    text: String,
    /// Kept only where they are shown.
    chosen: Vec<Chosen>,
    end: Option<End>,
}

// === impl Header ===

impl Header {
    /// A `request_id` in the body names the answer where the HTTP header did not.
    pub(super) fn take(
        fields: &mut Fields,
        endpoint: Endpoint,
        (app, shown): (&App, Shown),
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
            teller: Teller::new(Arc::clone(&app.text.tokenizer), endpoint, shown),
        })
    }

    pub(super) async fn respond(
        self,
        generation: Generation,
        options: &Options,
    ) -> Result<HttpResponse, ApiError> {
        if options.stream {
            return Ok(stream::response(self, generation, options.usage));
        }
        self.whole(generation).await
    }

    async fn whole(mut self, mut generation: Generation) -> Result<HttpResponse, ApiError> {
        let mut answers: Vec<Answer> = vec![];
        answers.resize_with(generation.choice_count(), Answer::default);
        while let Some(piece) = generation.next().await {
            let piece = piece.map_err(|_| broken())?;
            let answer = &mut answers[piece.index];
            answer.text.push_str(&piece.text);
            answer.end = piece.end;
            if self.shows_every_token() {
                answer.chosen.push(piece.chosen);
            }
        }
        let object = match self.endpoint {
            Endpoint::Chat => "chat.completion",
            Endpoint::Completions => "text_completion",
        };
        let choices = answers.into_iter().enumerate();
        let choices = choices
            .map(|(index, answer)| self.choice(index, &answer, &generation))
            .collect();
        let mut body = self.object(object, choices);
        if self.teller.shown.token_ids && self.endpoint == Endpoint::Chat {
            body["prompt_token_ids"] = generation.prompt(0).into();
        }
        body["usage"] = generation.usage();
        Ok(HttpResponse::Ok().json(body))
    }

    pub(super) fn shows_every_token(&self) -> bool {
        self.teller.shown.every_token()
    }

    /// What a stream begins with: the role of each choice; completions have none.
    pub(super) fn opening(&self, generation: &Generation) -> Vec<Value> {
        if self.endpoint == Endpoint::Completions {
            return vec![];
        }
        let role = json!({"role": "assistant", "content": ""});
        let choice =
            |index| json!({"index": index, "delta": role, "logprobs": null, "finish_reason": null});
        let chunk = |index| {
            let mut chunk = self.chunk(vec![choice(index)]);
            if self.teller.shown.token_ids {
                chunk["prompt_token_ids"] = generation.prompt(index).into();
            }
            chunk
        };
        (0..generation.choice_count()).map(chunk).collect()
    }

    /// One token's chunk.
    pub(super) fn piece(&mut self, piece: &Piece, generation: &Generation) -> Value {
        let chosen = std::slice::from_ref(&piece.chosen);
        let logprobs = self.teller.logprobs(piece.index, chosen);
        let mut choice = match self.endpoint {
            Endpoint::Chat => {
                let delta = match piece.text.as_str() {
                    "" => json!({}),
                    text => json!({"content": text}),
                };
                json!({"index": piece.index, "delta": delta, "logprobs": logprobs})
            }
            Endpoint::Completions => {
                json!({"index": piece.index, "text": piece.text, "logprobs": logprobs})
            }
        };
        set_end(&mut choice, piece.end.as_ref());
        let prompt = piece.is_first.then(|| generation.prompt(piece.index));
        self.set_token_ids(&mut choice, chosen, prompt);
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

    fn choice(&mut self, index: usize, answer: &Answer, generation: &Generation) -> Value {
        let Answer { text, chosen, end } = answer;
        let logprobs = self.teller.logprobs(index, chosen);
        let mut choice = match self.endpoint {
            Endpoint::Chat => {
                let message = json!({"role": "assistant", "content": text, "refusal": null});
                json!({"index": index, "message": message, "logprobs": logprobs})
            }
            Endpoint::Completions => json!({"index": index, "text": text, "logprobs": logprobs}),
        };
        set_end(&mut choice, end.as_ref());
        self.set_token_ids(&mut choice, chosen, Some(generation.prompt(index)));
        choice
    }

    /// Completions have the prompt's in the choice, chats in the object around it, as vLLM does.
    fn set_token_ids(&self, choice: &mut Value, chosen: &[Chosen], prompt: Option<&[TokenId]>) {
        if !self.teller.shown.token_ids {
            return;
        }
        let ids: Vec<TokenId> = chosen.iter().map(|it| it.token).collect();
        choice["token_ids"] = ids.into();
        if let (Endpoint::Completions, Some(prompt)) = (self.endpoint, prompt) {
            choice["prompt_token_ids"] = prompt.into();
        }
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
