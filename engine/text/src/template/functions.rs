//! What Hugging Face adds to Jinja for chat templates, and how Python prints.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, escape_formatter};

use super::json;

/// A date takes a dozen characters.
const FORMAT_BYTES_MAX: usize = 256;

/// What a template says by `raise_exception`, carried through the template engine's error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// An environment with everything but the template and its variables.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .expect("Jinja's own delimiters do not clash");
    environment.set_syntax(syntax);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(print_as_python);
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter("tojson", tojson);
    environment
}

/// The sentence that a template raised, if that is why rendering failed.
pub(super) fn refusal(error: &Error) -> Option<&str> {
    let mut next = Some(error as &(dyn std::error::Error + 'static));
    while let Some(error) = next {
        if let Some(Refusal(sentence)) = error.downcast_ref() {
            return Some(sentence);
        }
        next = error.source();
    }
    None
}

/// Formats a time as C's `strftime` does, in UTC.
pub(super) fn strftime(now: SystemTime, format: &str) -> Result<String, Error> {
    let refuse = |why: String| Error::new(ErrorKind::InvalidOperation, why);
    if format.len() > FORMAT_BYTES_MAX {
        return Err(refuse(format!(
            "strftime_now: a format has at most {FORMAT_BYTES_MAX} bytes"
        )));
    }
    let now = Timestamp::try_from(now)
        .map_err(|error| refuse(format!("strftime_now: {error}")))?
        .to_zoned(TimeZone::UTC);
    jiff::fmt::strtime::format(format, &now)
        .map_err(|error| refuse(format!("strftime_now({format:?}): {error}")))
}

fn raise_exception(sentence: String) -> Result<String, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, "raised by the template");
    Err(error.with_source(Refusal(sentence)))
}

/// `json.dumps` with `ensure_ascii=False`, which is what Hugging Face puts in Jinja's place:
/// nothing is escaped for HTML, and separators have a space.
fn tojson(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<usize>>("indent")?,
    };
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "tojson: ensure_ascii=true is not supported",
        ));
    }
    options.assert_all_used()?;
    json::dumps(value, indent)
        .map_err(|source| Error::new(ErrorKind::BadSerialization, "tojson").with_source(source))
}

/// `None`, `True` and `False` are spelled as Python does.
fn print_as_python(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => Ok(out.write_str("None")?),
        ValueKind::Bool => Ok(out.write_str(if value.is_true() { "True" } else { "False" })?),
        _ => escape_formatter(out, state, value),
    }
}
