//! `POST /v1/completions`.

use actix_web::HttpResponse;
use actix_web::web::{self, Data, Json};
use berth_engine_core::batch::TokenId;
use berth_engine_text::Tokenizer;
use serde_json::{Map, Value};

use super::RequestId;
use super::chat::interrupted;
use super::error::{ApiError, describe};
use super::fields::Fields;
use super::options::Options;
use super::reply::{Endpoint, Header};
use crate::app::App;

/// OpenAI's default on this endpoint.
const MAX_TOKENS_DEFAULT: usize = 16;
const PROMPTS_MAX: usize = 1024;

/// One prompt, before it is encoded.
#[derive(Debug, PartialEq, Eq)]
enum Prompt {
    Text(String),
    Tokens(Vec<TokenId>),
}

pub(super) async fn create(
    app: Data<App>,
    id: RequestId,
    body: Json<Map<String, Value>>,
) -> Result<HttpResponse, ApiError> {
    let in_flight = app.admit()?;
    let mut fields = Fields(body.into_inner());
    app.check_model(fields.take("model")?)?;
    fields.refuse_unimplemented_in_completions()?;
    let header = Header::take(&mut fields, Endpoint::Completions, &app, id)?;
    let mut options = Options::take(&mut fields)?;
    let prompts = Prompt::take_all(&mut fields)?;
    let add_special = fields.take("add_special_tokens")?.unwrap_or(true);
    let inner = app.clone().into_inner();
    let encode = move || {
        encode(
            prompts,
            add_special,
            &inner.text.tokenizer,
            inner.vocab_size,
        )
    };
    let prompts = web::block(encode).await.map_err(interrupted)??;
    options
        .max_tokens
        .get_or_insert(default_max_tokens(&app, &prompts));
    let generation = app.generate(in_flight, prompts, &options).await?;
    header.respond(generation, &options).await
}

/// Less than the usual where the longest prompt leaves less room.
fn default_max_tokens(app: &App, prompts: &[Vec<TokenId>]) -> usize {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    MAX_TOKENS_DEFAULT
        .min(app.limits.max_model_len.saturating_sub(longest))
        .max(1)
}

fn encode(
    prompts: Vec<Prompt>,
    add_special: bool,
    tokenizer: &Tokenizer,
    vocab_size: usize,
) -> Result<Vec<Vec<TokenId>>, ApiError> {
    let one = |prompt| match prompt {
        Prompt::Text(text) => tokenizer
            .encode(&text, add_special)
            .map_err(|error| ApiError::invalid("prompt", describe(&error))),
        Prompt::Tokens(ids) => match ids.iter().find(|id| **id as usize >= vocab_size) {
            Some(id) => Err(ApiError::invalid(
                "prompt",
                format!("token {id} is not among the {vocab_size} of the vocabulary"),
            )),
            None => Ok(ids),
        },
    };
    prompts.into_iter().map(one).collect()
}

// === impl Prompt ===

impl Prompt {
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

    fn take(prompt: Value) -> Result<Vec<Prompt>, ApiError> {
        Prompt::take_all(&mut Fields(
            json!({ "prompt": prompt }).as_object().unwrap().clone(),
        ))
    }

    #[test]
    fn a_prompt_has_four_forms() {
        let text = |text: &str| Prompt::Text(text.to_owned());
        assert_eq!(take(json!("a")).unwrap(), [text("a")]);
        assert_eq!(take(json!(["a", "b"])).unwrap(), [text("a"), text("b")]);
        assert_eq!(take(json!([1, 2])).unwrap(), [Prompt::Tokens(vec![1, 2])]);
        let lists = [Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])];
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
