//! Messages of the chat API in the shape that every template understands: content is a string.

use serde_json::{Map, Value};

use super::RenderError;

/// Copies of `messages` with their text parts joined.
pub(super) fn plain(messages: &[Value]) -> Result<Vec<Value>, RenderError> {
    let message = |(index, message): (usize, &Value)| {
        plain_message(message).map_err(|problem| RenderError::Message { index, problem })
    };
    messages.iter().enumerate().map(message).collect()
}

fn plain_message(message: &Value) -> Result<Value, String> {
    let message = message.as_object().ok_or("is not an object")?;
    if !message.get("role").is_some_and(Value::is_string) {
        return Err("has no role, which must be a string".to_owned());
    }
    let content = plain_content(message.get("content").unwrap_or(&Value::Null))?;
    let mut plain: Map<String, Value> = message.clone();
    plain.insert("content".to_owned(), Value::String(content));
    Ok(Value::Object(plain))
}

/// Null is what an assistant's message with nothing but tool calls has.
fn plain_content(content: &Value) -> Result<String, String> {
    match content {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let texts: Result<Vec<&str>, String> = parts.iter().map(part_text).collect();
            Ok(texts?.join("\n"))
        }
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            Err("has content that is neither a string nor a list of parts".to_owned())
        }
    }
}

fn part_text(part: &Value) -> Result<&str, String> {
    if let Some(text) = part.as_str() {
        return Ok(text);
    }
    match part.get("type").and_then(Value::as_str) {
        Some("text") => part
            .get("text")
            .and_then(Value::as_str)
            .ok_or_else(|| "has a text part without text".to_owned()),
        Some(kind) => {
            let kind: String = kind.chars().take(40).collect();
            Err(format!(
                "has a part of type {kind:?}: this model takes text only"
            ))
        }
        None => Err("has a part without a type".to_owned()),
    }
}
