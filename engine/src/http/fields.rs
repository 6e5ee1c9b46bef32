//! The fields of a request body, read one by one so that each error names its field.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::ApiError;

mod place;

/// A JSON object from a client. `null` is the same as absent; unknown fields are ignored.
#[derive(Debug)]
pub(crate) struct Fields(pub(crate) Map<String, Value>);

/// What a field that we do not implement may say: what it means when absent.
#[derive(Clone, Copy, Debug)]
enum Neutral {
    Null,
    False,
    True,
    Number(f64),
    Empty,
    Text(&'static str),
    /// `{"type": "text"}`.
    TextFormat,
}

use Neutral::{Empty, False, Null, Number, Text, TextFormat, True};

/// Known to OpenAI or vLLM, for both completion endpoints, with vLLM's defaults.
const UNIMPLEMENTED: &[(&str, Neutral)] = &[
    ("kv_transfer_params", Null),
    ("length_penalty", Number(1.0)),
    ("logprob_token_ids", Null),
    ("prompt_logprobs", Null),
    ("repetition_detection", Null),
    ("response_format", TextFormat),
    ("session_id", Null),
    ("spaces_between_special_tokens", True),
    ("stream_interval", Number(1.0)),
    ("structured_outputs", Null),
    ("thinking_token_budget", Null),
    ("use_beam_search", False),
    ("vllm_xargs", Null),
];

const UNIMPLEMENTED_IN_CHAT: &[(&str, Neutral)] = &[
    ("chat_template", Null),
    ("audio", Null),
    ("documents", Null),
    ("function_call", Text("none")),
    ("functions", Empty),
    ("parallel_tool_calls", True),
    ("reasoning_effort", Null),
    ("tool_choice", Text("none")),
    ("tools", Empty),
];

const UNIMPLEMENTED_IN_COMPLETIONS: &[(&str, Neutral)] =
    &[("best_of", Number(1.0)), ("suffix", Null)];

// === impl Fields ===

impl Fields {
    /// # Errors
    /// When `body` is not one JSON object; names the field in which it stops being one.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        serde_json::from_slice(body).map(Self).map_err(|error| {
            let lines = body.split_inclusive(|byte| *byte == b'\n');
            let before: usize = lines
                .take(error.line().saturating_sub(1))
                .map(<[u8]>::len)
                .sum();
            ApiError::Invalid {
                message: format!("the body is no JSON object: {error}"),
                // The column is that of the last byte read.
                param: place::field_at(body, (before + error.column()).saturating_sub(1)),
            }
        })
    }

    /// The field's value, or none where it is absent or null.
    ///
    /// # Errors
    /// When it is of another type.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(value) = self.0.remove(name).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        serde_json::from_value(value)
            .map(Some)
            .map_err(|error| ApiError::invalid(name, format!("`{name}`: {error}")))
    }

    pub(crate) fn refuse_unimplemented_in_chat(&self) -> Result<(), ApiError> {
        self.refuse(UNIMPLEMENTED)?;
        self.refuse(UNIMPLEMENTED_IN_CHAT)
    }

    pub(crate) fn refuse_unimplemented_in_completions(&self) -> Result<(), ApiError> {
        self.refuse(UNIMPLEMENTED)?;
        self.refuse(UNIMPLEMENTED_IN_COMPLETIONS)
    }

    /// Doing something else than was asked would be worse than saying no.
    fn refuse(&self, fields: &[(&str, Neutral)]) -> Result<(), ApiError> {
        let asked = |(name, neutral): &&(&str, Neutral)| {
            self.0
                .get(*name)
                .is_some_and(|value| !value.is_null() && !neutral.is(value))
        };
        match fields.iter().find(asked) {
            Some((name, _)) => Err(ApiError::invalid(
                *name,
                format!("`{name}` is not implemented yet"),
            )),
            None => Ok(()),
        }
    }
}

// === impl Neutral ===

impl Neutral {
    fn is(self, value: &Value) -> bool {
        match self {
            Null => false,
            False => value == &Value::Bool(false),
            True => value == &Value::Bool(true),
            Number(number) => value.as_f64() == Some(number),
            Empty => {
                value.as_array().is_some_and(Vec::is_empty)
                    || value.as_object().is_some_and(Map::is_empty)
            }
            Text(text) => value.as_str() == Some(text),
            TextFormat => value.get("type").and_then(Value::as_str) == Some("text"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        Fields(value.as_object().unwrap().clone())
    }

    #[track_caller]
    fn check(name: &str, value: Value, refused: bool) {
        let fields = fields(json!({ name: value }));
        let expected = refused.then(|| format!("`{name}` is not implemented yet"));
        let found = fields
            .refuse_unimplemented_in_chat()
            .err()
            .map(|error| error.to_string());
        assert_eq!(found, expected);
    }

    #[test]
    fn every_unimplemented_field_is_refused_by_name_and_may_be_null() {
        for (name, _) in UNIMPLEMENTED.iter().chain(UNIMPLEMENTED_IN_CHAT) {
            check(name, json!({"unlike": "any default"}), true);
            check(name, Value::Null, false);
        }
    }

    #[test]
    fn what_a_field_means_when_absent_may_be_said() {
        check("length_penalty", json!(1), false);
        check("length_penalty", json!(2), true);
        check("length_penalty", json!(1.0), false);
        check("tools", json!([]), false);
        check("tools", json!([{"type": "function"}]), true);
        check("tool_choice", json!("none"), false);
        check("tool_choice", json!("auto"), true);
        check("response_format", json!({"type": "text"}), false);
        check("response_format", json!({"type": "json_object"}), true);
        check("something_nobody_knows", json!(1), false);
    }

    #[test]
    fn a_body_that_is_no_json_names_the_field_where_it_ends() {
        let deep = format!("{{\"messages\": {}", "[".repeat(5000));
        let cases: [(&[u8], Option<&str>); 7] = [
            (b"{\"n\": 1, \"temperature\": NaN}", Some("temperature")),
            (b"{\"top_p\":\n -Infinity}", Some("top_p")),
            (b"{\"temperature\": 1e999, \"n\": 1}", Some("temperature")),
            (deep.as_bytes(), Some("messages")),
            (b"{\"prompt\": \"\xff\"}", Some("prompt")),
            (b"[1]", None),
            (b"", None),
        ];
        for (body, param) in cases {
            let error = Fields::parse(body).unwrap_err();
            let shown = String::from_utf8_lossy(&body[..body.len().min(40)]);
            assert_eq!(error.body()["error"]["param"], json!(param), "{shown}");
        }
        let fields = Fields::parse(b"{\"n\": 1}").unwrap();
        assert_eq!(fields.0.len(), 1);
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        let error = fields(json!({"top_k": "many"}))
            .take::<i64>("top_k")
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("`top_k`: invalid type: string"),
            "{error}"
        );
        assert_eq!(
            fields(json!({"top_k": null})).take::<i64>("top_k"),
            Ok(None)
        );
    }
}
