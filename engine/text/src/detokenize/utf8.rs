//! Bytes that arrive in pieces, as characters.

/// Longest beginning of a character that can wait for its end, in bytes.
const PARTIAL_BYTES_MAX: usize = 3;

/// Holds the beginning of a character until the rest arrives. What can never become a character
/// is U+FFFD, by the same rule as [`String::from_utf8_lossy`] over all bytes at once.
#[derive(Debug, Default)]
pub(crate) struct Utf8Stream {
    partial: Vec<u8>,
}

// === impl Utf8Stream ===

impl Utf8Stream {
    /// Appends to `text` every character that is now whole.
    pub(crate) fn push(&mut self, bytes: &[u8], text: &mut String) {
        self.partial.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.partial);
        let mut rest = pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    return;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(wrong) = error.error_len() else {
                        debug_assert!(after.len() <= PARTIAL_BYTES_MAX);
                        self.partial = after.to_vec();
                        return;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[wrong..];
                }
            }
        }
    }

    /// No more bytes come: a character that was begun is U+FFFD.
    pub(crate) fn finish(&mut self, text: &mut String) {
        if !std::mem::take(&mut self.partial).is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn half_a_character_waits_for_the_other_half() {
        let (mut stream, mut text) = (Utf8Stream::default(), String::new());
        stream.push(b"a\xF0\x9F", &mut text);
        assert_eq!(text, "a");
        stream.push(b"\x98\x80b", &mut text);
        assert_eq!(text, "a😀b");
    }

    #[test]
    fn a_character_that_never_ends_is_replaced_at_the_end_only() {
        let (mut stream, mut text) = (Utf8Stream::default(), String::new());
        stream.push(b"\xE2\x82", &mut text);
        assert_eq!(text, "");
        stream.finish(&mut text);
        assert_eq!(text, "\u{FFFD}");
    }

    /// Bytes that are often, but not always, parts of characters.
    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<char>().prop_map(|it| it.to_string().into_bytes()),
            prop::collection::vec(any::<u8>(), 0..3),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        /// However the bytes are cut, the text is that of all bytes at once.
        #[test]
        fn cuts_do_not_matter(bytes in any_bytes(), lengths in prop::collection::vec(0..5_usize, 0..40)) {
            let (mut stream, mut text) = (Utf8Stream::default(), String::new());
            let mut rest = bytes.as_slice();
            for length in lengths {
                let (now, later) = rest.split_at(length.min(rest.len()));
                stream.push(now, &mut text);
                rest = later;
            }
            stream.push(rest, &mut text);
            stream.finish(&mut text);
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
