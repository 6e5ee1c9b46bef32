//! The key-value section of a GGUF header, asked by key and kind.

use std::collections::BTreeMap;

use berth_engine_core::batch::TokenId;

use crate::source::Flaw;

/// Every key of the header.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    values: BTreeMap<String, Value>,
}

/// A value; the widths of integers and floats do not matter to us. No key of ours needs more
/// than 53 bits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Integer(i128),
    Number(f64),
    Flag(bool),
    Text(String),
    Integers(Vec<i64>),
    Numbers(Vec<f32>),
    Texts(Vec<String>),
    Flags(usize),
}

// === impl Metadata ===

impl Metadata {
    /// False when the key is there already.
    pub(crate) fn insert(&mut self, key: String, value: Value) -> bool {
        self.values.insert(key, value).is_none()
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<String>, Flaw> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text.clone())),
            Some(other) => Err(other.not_a("string", key)),
        }
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, Flaw> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Flag(flag)) => Ok(Some(*flag)),
            Some(other) => Err(other.not_a("boolean", key)),
        }
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize, Flaw> {
        self.size_if_any(key)?.ok_or_else(|| missing(key))
    }

    pub(crate) fn size_or(&self, key: &str, default: usize) -> Result<usize, Flaw> {
        Ok(self.size_if_any(key)?.unwrap_or(default))
    }

    fn size_if_any(&self, key: &str) -> Result<Option<usize>, Flaw> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Integer(value)) => usize::try_from(*value)
                .map(Some)
                .map_err(|_| Flaw::malformed(key_part(key), format!("{value} is no size"))),
            Some(other) => Err(other.not_a("integer", key)),
        }
    }

    pub(crate) fn token(&self, key: &str) -> Result<Option<TokenId>, Flaw> {
        self.size_if_any(key)?
            .map(|value| {
                TokenId::try_from(value)
                    .map_err(|_| Flaw::malformed(key_part(key), format!("{value} is no token")))
            })
            .transpose()
    }

    pub(crate) fn number(&self, key: &str) -> Result<f32, Flaw> {
        match self.values.get(key) {
            None => Err(missing(key)),
            Some(Value::Number(value)) => Ok(narrow(*value)),
            Some(other) => Err(other.not_a("float", key)),
        }
    }

    pub(crate) fn number_or(&self, key: &str, default: f32) -> Result<f32, Flaw> {
        if self.values.contains_key(key) {
            self.number(key)
        } else {
            Ok(default)
        }
    }

    pub(crate) fn texts(&self, key: &str) -> Result<Vec<String>, Flaw> {
        match self.values.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Texts(texts)) => Ok(texts.clone()),
            Some(other) => Err(other.not_a("array of strings", key)),
        }
    }

    pub(crate) fn numbers(&self, key: &str) -> Result<Vec<f32>, Flaw> {
        match self.values.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Numbers(numbers)) => Ok(numbers.clone()),
            Some(other) => Err(other.not_a("array of floats", key)),
        }
    }

    pub(crate) fn integers(&self, key: &str) -> Result<Vec<i32>, Flaw> {
        let narrow = |&value: &i64| {
            i32::try_from(value)
                .map_err(|_| Flaw::malformed(key_part(key), format!("{value} needs over 32 bits")))
        };
        match self.values.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Integers(integers)) => integers.iter().map(narrow).collect(),
            Some(other) => Err(other.not_a("array of integers", key)),
        }
    }
}

// === impl Value ===

impl Value {
    fn not_a(&self, wanted: &str, key: &str) -> Flaw {
        let kind = match self {
            Self::Integer(_) => "an integer",
            Self::Number(_) => "a float",
            Self::Flag(_) => "a boolean",
            Self::Text(_) => "a string",
            Self::Integers(_) => "an array of integers",
            Self::Numbers(_) => "an array of floats",
            Self::Texts(_) => "an array of strings",
            Self::Flags(_) => "an array of booleans",
        };
        Flaw::malformed(key_part(key), format!("is {kind}, not a {wanted}"))
    }
}

fn key_part(key: &str) -> String {
    format!("key {key}")
}

fn missing(key: &str) -> Flaw {
    Flaw::malformed(key_part(key), "is missing")
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to f32 is what is wanted"
)]
fn narrow(value: f64) -> f32 {
    value as f32
}
