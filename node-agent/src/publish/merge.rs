//! JSON merge patches (RFC 7396): the difference of two documents, with nulls for what goes.

use serde_json::{Map, Value};

/// The patch that makes `to` of `from`; `None` where they are equal. `to` holds no nulls.
pub(crate) fn patch(from: &Value, to: &Value) -> Option<Value> {
    match (from, to) {
        (from, to) if from == to => None,
        (Value::Object(from), Value::Object(to)) => Some(Value::Object(objects(from, to))),
        (_, to) => Some(to.clone()),
    }
}

fn objects(from: &Map<String, Value>, to: &Map<String, Value>) -> Map<String, Value> {
    let gone = from
        .keys()
        .filter(|key| !to.contains_key(*key))
        .map(|key| (key.clone(), Value::Null));
    let kept = to.iter().filter_map(|(key, value)| {
        let change = patch(from.get(key).unwrap_or(&Value::Null), value);
        change.map(|change| (key.clone(), change))
    });
    gone.chain(kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 7396, section 2, as an API server does it.
    fn apply(target: Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else {
            return patch.clone();
        };
        let mut target = match target {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        for (key, change) in patch {
            if change.is_null() {
                target.remove(key);
            } else {
                let before = target.remove(key).unwrap_or(Value::Null);
                target.insert(key.clone(), apply(before, change));
            }
        }
        Value::Object(target)
    }

    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<u8>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from),
        ];
        let nested = leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        prop::collection::btree_map("[a-d]", nested, 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn the_patch_makes_one_document_of_the_other(from in document(), to in document()) {
            match patch(&from, &to) {
                None => prop_assert_eq!(from, to),
                Some(patch) => prop_assert_eq!(apply(from, &patch), to),
            }
        }
    }
}
