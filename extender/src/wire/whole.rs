//! Whole nodes in a body (`nodeCacheCapable: false`): where each one stands, without reading it.
//!
//! 500 nodes are 5 MB, of which only the names matter and the rest goes back as it came. The body was
//! read as JSON before; this walks it once more and never fails: what is not there is not found.

/// The text of each item of `Nodes`, in the order sent.
pub(super) fn items(body: &[u8]) -> Vec<&[u8]> {
    let mut walk = Walk { text: body, at: 0 };
    let is_there = walk.enter(&["Nodes", "nodes"]) && walk.enter(&["items"]);
    if is_there {
        walk.elements()
    } else {
        Vec::new()
    }
}

/// A place in JSON that is known to be well formed.
struct Walk<'a> {
    text: &'a [u8],
    at: usize,
}

// === impl Walk ===

impl<'a> Walk<'a> {
    /// Into the object that begins here, up to the value of one of these keys.
    fn enter(&mut self, keys: &[&str]) -> bool {
        if !self.eat(b'{') {
            return false;
        }
        loop {
            let key = self.value();
            if key.is_empty() || !self.eat(b':') {
                return false;
            }
            let key: String = serde_json::from_slice(key).unwrap_or_default();
            if keys.contains(&key.as_str()) {
                return true;
            }
            self.value();
            if !self.eat(b',') {
                return false;
            }
        }
    }

    /// The elements of the array that begins here.
    fn elements(&mut self) -> Vec<&'a [u8]> {
        let mut elements = Vec::new();
        if !self.eat(b'[') {
            return elements;
        }
        loop {
            let element = self.value();
            if element.is_empty() {
                return elements;
            }
            elements.push(element);
            if !self.eat(b',') {
                return elements;
            }
        }
    }

    /// The value that begins here; empty where something ends instead.
    fn value(&mut self) -> &'a [u8] {
        self.skip_space();
        let start = self.at;
        let mut depth = 0_usize;
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b'"' => self.skip_string(),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                // A number or a word goes on until something else begins.
                b'}' | b']' | b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => break,
                _ => {
                    self.at += 1;
                    continue;
                }
            }
            if depth == 0 {
                break;
            }
        }
        &self.text[start..self.at]
    }

    fn skip_string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.text.get(self.at) {
            // An escaped character is two.
            self.at += if *byte == b'\\' { 2 } else { 1 };
            if *byte == b'"' {
                break;
            }
        }
        self.at = self.at.min(self.text.len());
    }

    fn eat(&mut self, wanted: u8) -> bool {
        self.skip_space();
        let is_there = self.text.get(self.at) == Some(&wanted);
        self.at += usize::from(is_there);
        is_there
    }

    fn skip_space(&mut self) {
        let rest = &self.text[self.at..];
        let space = rest.iter().take_while(|byte| byte.is_ascii_whitespace());
        self.at += space.count();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            r#"[a"\\{}\[\],: ]{0,6}"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(r#"[a"\\}:]{0,3}"#, inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn found(body: &[u8]) -> Vec<Value> {
        let parse = |text| serde_json::from_slice(text).expect("an item is JSON");
        items(body).into_iter().map(parse).collect()
    }

    proptest! {
        #[test]
        fn the_items_are_those_that_a_parser_reads(
            sent in proptest::collection::vec(value(), 0..5),
            before in value(),
            is_pretty in any::<bool>(),
        ) {
            let body = json!({"A": before, "Nodes": {"a": before, "items": sent, "z": before}, "Z": before});
            let body = if is_pretty {
                serde_json::to_vec_pretty(&body)
            } else {
                serde_json::to_vec(&body)
            };
            prop_assert_eq!(found(&body.expect("a value is JSON")), sent);
        }

        #[test]
        fn any_bytes_are_walked_to_an_end(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = items(&body);
            let _ = items(&[br#"{"Nodes":{"items":["#.as_slice(), &body].concat());
        }
    }

    #[test]
    fn a_body_without_items_has_none() {
        for body in [
            r#"{"Nodes":null}"#,
            r#"{"Nodes":{"items":null}}"#,
            "{}",
            "[]",
            "",
        ] {
            assert!(items(body.as_bytes()).is_empty(), "{body}");
        }
        assert_eq!(
            found(br#"{ "\u004eodes" : { "items" : [ 1 , "a" ] } }"#),
            [json!(1), json!("a")]
        );
    }
}
