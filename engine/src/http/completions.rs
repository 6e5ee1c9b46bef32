//! `POST /v1/completions`.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::web::{self, Data};
use berth_engine_core::batch::TokenId;
use serde_json::Value;

use super::RequestId;
use super::body::Body;
use super::chat::interrupted;
use super::error::{ApiError, describe};
use super::fields::Fields;
use super::options::{Cut, Options};
use super::reply::{Endpoint, Header};
use crate::app::{App, Prompt};

/// OpenAI's default on this endpoint.
const MAX_TOKENS_DEFAULT: usize = 16;
const PROMPTS_MAX: usize = 1024;

/// One prompt, before it is encoded.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Text(String),
    Tokens(Vec<TokenId>),
}

/// How prompts are encoded.
struct Encoder {
    add_special: bool,
    skip_special: bool,
    echo: bool,
    cut: Cut,
    app: Arc<App>,
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
    fields.refuse_unimplemented_in_completions()?;
    let mut options = Options::take(&mut fields, Endpoint::Completions, &app.text.defaults)?;
    let header = Header::take(
        &mut fields,
        Endpoint::Completions,
        (&app, options.shown),
        id,
    )?;
    let prompts = Asked::take_all(&mut fields)?;
    let encoder = Encoder {
        add_special: fields.take("add_special_tokens")?.unwrap_or(true),
        skip_special: options.skip_special,
        echo: options.echo,
        cut: options.cut(&app.limits),
        app: app.clone().into_inner(),
    };
    drop(fields);
    let encode = move || {
        let prompts = encoder.encode_all(prompts);
        // Here, where the body's text is gone: a client that leaves does not end this.
        drop(share);
        prompts
    };
    let prompts = web::block(encode).await.map_err(interrupted)??;
    let longest = prompts.iter().map(|prompt| prompt.tokens.len()).max();
    // Less than the usual where the longest prompt leaves less room.
    let room = app
        .limits
        .max_model_len
        .saturating_sub(longest.unwrap_or(0));
    options
        .max_tokens
        .or_at_most(Some(MAX_TOKENS_DEFAULT), room);
    let generation = app.generate(in_flight, prompts, &options).await?;
    header.respond(generation, &options).await
}

// === impl Encoder ===

impl Encoder {
    fn encode_all(&self, prompts: Vec<Asked>) -> Result<Vec<Prompt>, ApiError> {
        prompts.into_iter().map(|it| self.encode(it)).collect()
    }

    fn encode(&self, prompt: Asked) -> Result<Prompt, ApiError> {
        let tokenizer = &self.app.text.tokenizer;
        let mut tokens = match prompt {
            Asked::Text(text) => tokenizer
                .encode(&text, self.add_special)
                .map_err(|error| ApiError::invalid("prompt", describe(&error)))?,
            Asked::Tokens(ids) => self.checked(ids)?,
        };
        self.cut.apply(&mut tokens);
        let echo = if self.echo {
            tokenizer.decode(&tokens, self.skip_special)
        } else {
            String::new()
        };
        Ok(Prompt {
            tokens,
            echo: echo.into(),
        })
    }

    fn checked(&self, ids: Vec<TokenId>) -> Result<Vec<TokenId>, ApiError> {
        let vocab_size = self.app.vocab_size;
        match ids.iter().find(|id| **id as usize >= vocab_size) {
            Some(id) => Err(ApiError::invalid(
                "prompt",
                format!("token {id} is not among the {vocab_size} of the vocabulary"),
            )),
            None => Ok(ids),
        }
    }
}

// === impl Asked ===

impl Asked {
    /// A string, a list of strings, a list of token ids, or a list of lists of them.
    fn take_all(fields: &mut Fields) -> Result<Vec<Self>, ApiError> {
        let fault = |message: &str| Err(ApiError::invalid("prompt", message));
        let prompts = match fields.take::<Value>("prompt")? {
            None => return fault("`prompt` is missing"),
            Some(Value::String(text)) => vec![Self::Text(text)],
            Some(Value::Array(list)) if list.first().is_some_and(Value::is_number) => {
                vec![Self::tokens(Value::Array(list))?]
            }
            Some(Value::Array(list)) => list
                .into_iter()
                .map(Self::one_of_list)
                .collect::<Result<_, _>>()?,
            Some(_) => return fault("`prompt` must be a string or a list"),
        };
        match prompts.len() {
            0 => fault("`prompt` is an empty list"),
            count if count > PROMPTS_MAX => fault(&format!(
                "`prompt` has {count} prompts, {PROMPTS_MAX} are allowed"
            )),
            _ => Ok(prompts),
        }
    }

    fn one_of_list(value: Value) -> Result<Self, ApiError> {
        match value {
            Value::String(text) => Ok(Self::Text(text)),
            value => Self::tokens(value),
        }
    }

    fn tokens(value: Value) -> Result<Self, ApiError> {
        serde_json::from_value(value)
            .map(Self::Tokens)
            .map_err(|error| {
                let message = format!("`prompt` must be strings or lists of token ids: {error}");
                ApiError::invalid("prompt", message)
            })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn take(prompt: Value) -> Result<Vec<Asked>, ApiError> {
        Asked::take_all(&mut Fields(
            json!({ "prompt": prompt }).as_object().unwrap().clone(),
        ))
    }

    #[test]
    fn a_prompt_has_four_forms() {
        let text = |text: &str| Asked::Text(text.to_owned());
        assert_eq!(take(json!("a")).unwrap(), [text("a")]);
        assert_eq!(take(json!(["a", "b"])).unwrap(), [text("a"), text("b")]);
        assert_eq!(take(json!([1, 2])).unwrap(), [Asked::Tokens(vec![1, 2])]);
        let lists = [Asked::Tokens(vec![1]), Asked::Tokens(vec![2, 3])];
        assert_eq!(take(json!([[1], [2, 3]])).unwrap(), lists);
    }

    #[test]
    fn other_forms_are_refused() {
        for prompt in [
            json!(null),
            json!(1),
            json!({}),
            json!([]),
            json!([1, "a"]),
            json!([-1]),
        ] {
            let error = take(prompt).unwrap_err();
            assert_eq!(error.body()["error"]["param"], "prompt");
        }
    }
}
