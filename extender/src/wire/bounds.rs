//! What a body may cost before it is decoded: its JSON values are counted, because a few bytes of text
//! (`{},`) can become a thousand bytes of memory.
//!
//! Depth is bounded by serde_json (128).

use k8s_openapi::api::core::v1::Pod;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// Values of one body. Ten times what 500 whole Nodes have.
pub(super) const VALUES_MAX: usize = 2_000_000;
/// Objects of one pod. A pod has some hundreds; one of them may take a kilobyte once it is decoded.
pub(super) const POD_OBJECTS_MAX: usize = 20_000;
/// Objects of all victims of one request.
const VICTIM_OBJECTS_MAX: usize = 300_000;
/// Nodes of one request. The largest clusters have a fourth of it.
pub(super) const NODES_MAX: usize = 65_536;
/// Kubernetes' own limit for a name.
const NAME_BYTES_MAX: usize = 253;

/// How much a JSON text holds, strings not looked into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// At least as many as there are values.
    pub values: usize,
    /// Objects.
    pub objects: usize,
}

/// One pass over the text; it need not be JSON.
pub(super) fn count(text: &[u8]) -> Count {
    let mut count = Count {
        values: 1,
        objects: 0,
    };
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b',' | b'[' => count.values += 1,
            b'{' => {
                count.values += 1;
                count.objects += 1;
            }
            _ => {}
        }
    }
    count
}

fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

/// Whether it is a name that Kubernetes would give: it stands in paths and in answers.
pub(super) fn is_name(name: &str) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let bytes = name.as_bytes();
    let is_dots = bytes.iter().all(|byte| *byte == b'.');
    bytes.len() <= NAME_BYTES_MAX && bytes.iter().all(is_allowed) && !is_dots
}

/// What is decoded by way of plain values, which cost what their text costs, once its objects are
/// counted: a pod's.
pub(super) struct Counted<T>(T);

/// A pod, or `null`.
pub(super) fn pod<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Pod>, D::Error> {
    objects(deserializer, POD_OBJECTS_MAX)
}

/// Victims by node, or `null`.
pub(super) fn victims<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    objects(deserializer, VICTIM_OBJECTS_MAX)
}

fn objects<'de, D, T>(deserializer: D, objects_max: usize) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let value = Value::deserialize(deserializer)?;
    if object_count(&value) > objects_max {
        return Err(D::Error::custom("more objects than any has"));
    }
    serde_json::from_value(value).map_err(D::Error::custom)
}

/// serde_json has bounded the depth.
fn object_count(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(object_count).sum::<usize>(),
        Value::Array(items) => items.iter().map(object_count).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

// === impl Counted ===

impl<'de, T: DeserializeOwned> Deserialize<'de> for Counted<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        objects(deserializer, POD_OBJECTS_MAX).map(Self)
    }
}

impl From<Counted<Self>> for Pod {
    fn from(counted: Counted<Self>) -> Self {
        counted.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_and_strings_are_not_looked_into() {
        let count = |text: &str| count(text.as_bytes());
        let expected = |values, objects| Count { values, objects };
        assert_eq!(count("1"), expected(1, 0));
        assert_eq!(count("[{},{},{}]"), expected(7, 3));
        assert_eq!(count(r#"{"a":"{,[","b":"\"{"}"#), expected(3, 1));
        assert_eq!(count("\"\\"), expected(1, 0), "not JSON");
    }

    #[test]
    fn names_are_what_kubernetes_would_give() {
        for name in ["a", "gpu-1.example.com", "A1"] {
            assert!(is_name(name), "{name}");
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for name in ["", "..", "a/b", "a?b", "a b", "ä", "a\0", &long] {
            assert!(!is_name(name), "{name}");
        }
    }
}
