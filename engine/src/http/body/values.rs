//! What a body takes once it is parsed, from its text: small values take far more than they are long.

/// Of a value in an array or object, as `serde_json` keeps it (32 bytes, three times while a vector
/// grows), and once more as chat templates see it (24).
const VALUE_BYTES: usize = 176;
/// Of a field beyond the first: a share of a node of a `BTreeMap` of which five in eleven are in use,
/// the name's allocation, and the same for templates.
const FIELD_BYTES: usize = 400;
/// Of a string beside its text: the least that an allocator gives, twice.
const STRING_BYTES: usize = 80;
/// A vector starts with room for four.
const ARRAY_BYTES: usize = 320;
/// A `BTreeMap` starts with a node for eleven, of 632 bytes.
const OBJECT_BYTES: usize = 1152;

/// At most so much, beside the text itself. Of text that is no JSON: up to its fault.
///
/// Measured in bytes allocated for hostile bodies, with the copies that a chat template makes of its
/// messages: 0.95 of it for numbers and for `{"a":{"b":[0]}}`, less for others.
pub(super) fn parsed_bytes(body: &[u8]) -> usize {
    let (mut in_string, mut is_escaped) = (false, false);
    let mut bytes: usize = 0;
    for byte in body {
        if in_string {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        in_string = *byte == b'"';
        bytes = bytes.saturating_add(match byte {
            b'"' => STRING_BYTES,
            b',' => VALUE_BYTES,
            b':' => FIELD_BYTES,
            b'[' => ARRAY_BYTES,
            b'{' => OBJECT_BYTES,
            _ => 0,
        });
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_count_and_the_text_of_strings_does_not() {
        let empty = parsed_bytes(br#"{"":""}"#);
        assert_eq!(empty, OBJECT_BYTES + FIELD_BYTES + 2 * STRING_BYTES);
        let long = br#"{"a":"[1,2],{\"b\": [\\"}"#;
        assert_eq!(parsed_bytes(long), empty);
        assert_eq!(parsed_bytes(b"[1,1]"), ARRAY_BYTES + VALUE_BYTES);
        assert_eq!(parsed_bytes(b"\"an open string, ["), STRING_BYTES);
    }

    #[test]
    fn what_grows_most_counts_for_more_than_it_takes() {
        let values = 1000;
        let numbers = format!("[{}1]", "1,".repeat(values));
        assert!(parsed_bytes(numbers.as_bytes()) > values * 3 * size_of::<serde_json::Value>());
        let objects = format!("[{}1]", r#"{"":0},"#.repeat(values));
        assert!(parsed_bytes(objects.as_bytes()) > values * (632 + 32));
    }
}
