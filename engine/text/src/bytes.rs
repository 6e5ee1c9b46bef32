//! What each token stands for, as bytes.
//!
//! One table, filled at load, answers decoding, streaming and logprobs alike, so that no caller
//! ever decodes a token out of its context.

use std::collections::HashSet;

use tokenizers::DecoderWrapper;

/// Sentencepiece's visible space.
const LOWER_BLOCK: char = '\u{2581}';

/// Bytes of every token id, in one allocation.
pub(crate) struct TokenBytes {
    bytes: Vec<u8>,
    /// `ends[id]` is where the bytes of `id` end and those of `id + 1` begin.
    ends: Vec<usize>,
    special: HashSet<u32>,
}

/// How a vocabulary writes bytes as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alphabet {
    /// GPT-2: each byte is one printable character.
    ByteLevel,
    /// Sentencepiece: `▁` is a space, `<0x0A>` a byte, everything else itself.
    SentencePiece {
        /// Whether a whole text loses the one space that encoding put in front.
        drops_first_space: bool,
    },
}

/// One token as the table takes it.
pub(crate) struct Entry<'a> {
    pub(crate) id: u32,
    pub(crate) text: &'a str,
    /// Added tokens are written as they are, outside the alphabet.
    pub(crate) is_added: bool,
    pub(crate) is_special: bool,
}

// === impl TokenBytes ===

impl TokenBytes {
    /// Entries may leave ids out (they decode to nothing) and come in any order.
    pub(crate) fn new<'a>(alphabet: Alphabet, entries: impl Iterator<Item = Entry<'a>>) -> Self {
        let mut entries: Vec<Entry<'a>> = entries.collect();
        // An added token comes after the model's own entry of the same id and wins.
        entries.sort_by_key(|entry| (entry.id, entry.is_added));
        let mut table = Self {
            bytes: Vec::new(),
            ends: Vec::new(),
            special: HashSet::new(),
        };
        for (index, entry) in entries.iter().enumerate() {
            if entries
                .get(index + 1)
                .is_some_and(|next| next.id == entry.id)
            {
                continue;
            }
            table.push(alphabet, entry);
        }
        table
    }

    fn push(&mut self, alphabet: Alphabet, entry: &Entry<'_>) {
        let id = usize::try_from(entry.id).expect("ids are bounded at load");
        self.ends.resize(id, self.bytes.len());
        if entry.is_added {
            self.bytes.extend_from_slice(entry.text.as_bytes());
        } else {
            alphabet.write(entry.text, &mut self.bytes);
        }
        self.ends.push(self.bytes.len());
        if entry.is_special {
            self.special.insert(entry.id);
        }
    }

    /// Highest id plus one.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(&self, id: u32) -> Option<&[u8]> {
        let id = usize::try_from(id).ok()?;
        let end = *self.ends.get(id)?;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        Some(&self.bytes[start..end])
    }

    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }
}

// === impl Alphabet ===

impl Alphabet {
    /// Read from the decoder that a `tokenizer.json` names; `None` where it names another kind.
    pub(crate) fn of(decoder: &DecoderWrapper) -> Option<Self> {
        match decoder {
            DecoderWrapper::ByteLevel(_) => Some(Self::ByteLevel),
            DecoderWrapper::Metaspace(it) if it.get_replacement() == LOWER_BLOCK => {
                Some(Self::SentencePiece {
                    drops_first_space: true,
                })
            }
            DecoderWrapper::Sequence(parts) => Self::of_sequence(parts.get_decoders()),
            DecoderWrapper::ByteFallback(_) => Some(Self::SentencePiece {
                drops_first_space: false,
            }),
            _ => None,
        }
    }

    fn of_sequence(parts: &[DecoderWrapper]) -> Option<Self> {
        let drops = parts.iter().any(|part| match part {
            DecoderWrapper::Strip(strip) => strip.content == ' ' && strip.start > 0,
            _ => false,
        });
        match parts.iter().find_map(Self::of)? {
            Self::SentencePiece { drops_first_space } => Some(Self::SentencePiece {
                drops_first_space: drops_first_space || drops,
            }),
            Self::ByteLevel => Some(Self::ByteLevel),
        }
    }

    fn write(self, token: &str, out: &mut Vec<u8>) {
        match self {
            Self::ByteLevel => write_byte_level(token, out),
            Self::SentencePiece { .. } => write_sentencepiece(token, out),
        }
    }
}

/// A token with a character outside the alphabet stands for itself, as in Hugging Face's decoder.
fn write_byte_level(token: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for character in token.chars() {
        match byte_of(character) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

fn write_sentencepiece(token: &str, out: &mut Vec<u8>) {
    match hex_byte(token) {
        Some(byte) => out.push(byte),
        None => out.extend_from_slice(token.replace(LOWER_BLOCK, " ").as_bytes()),
    }
}

fn hex_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 {
        u8::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}

/// The inverse of GPT-2's `bytes_to_unicode`: printable Latin-1 stands for itself; the other 68
/// bytes, in order, for U+0100 and up.
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    match u8::try_from(code) {
        Ok(byte) => is_printable(byte).then_some(byte),
        Err(_) => {
            let index = usize::try_from(code - 0x100).ok()?;
            (0..=u8::MAX).filter(|byte| !is_printable(*byte)).nth(index)
        }
    }
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The character that stands for `byte`; only tests write vocabularies.
#[cfg(test)]
pub(crate) fn character_of(byte: u8) -> char {
    if is_printable(byte) {
        return char::from(byte);
    }
    let index = (0..byte).filter(|other| !is_printable(*other)).count();
    char::from_u32(0x100 + u32::try_from(index).expect("fewer than 256"))
        .expect("U+0100 to U+0143 are characters")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character_and_comes_back() {
        for byte in 0..=u8::MAX {
            assert_eq!(byte_of(character_of(byte)), Some(byte));
        }
        assert_eq!((character_of(b' '), character_of(b'\n')), ('Ġ', 'Ċ'));
        assert_eq!(byte_of('\u{144}'), None);
    }

    #[test]
    fn alphabet_agrees_with_the_tokenizers_crate() {
        let theirs = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        assert!((0..=u8::MAX).all(|byte| theirs.contains(&character_of(byte))));
        assert_eq!(theirs.len(), 256);
    }

    #[track_caller]
    fn check(alphabet: Alphabet, token: &str, expected: &[u8]) {
        let mut out = Vec::new();
        alphabet.write(token, &mut out);
        assert_eq!(out, expected, "{token:?}");
    }

    #[test]
    fn tokens_are_read_in_their_alphabet() {
        check(Alphabet::ByteLevel, "Ġhi", b" hi");
        check(Alphabet::ByteLevel, "Ã©", "é".as_bytes());
        check(Alphabet::ByteLevel, "a b", b"a b");
        let sentencepiece = Alphabet::SentencePiece {
            drops_first_space: true,
        };
        check(sentencepiece, "▁hi", b" hi");
        check(sentencepiece, "<0xE2>", b"\xE2");
        check(sentencepiece, "<0xZZ>", b"<0xZZ>");
    }

    #[test]
    fn ids_that_are_missing_decode_to_nothing_and_added_tokens_win() {
        let entry = |id, text, is_added| Entry {
            id,
            text,
            is_added,
            is_special: is_added,
        };
        let table = TokenBytes::new(
            Alphabet::ByteLevel,
            [
                entry(3, "Ġx", true),
                entry(1, "Ġ", false),
                entry(3, "Ġx", false),
            ]
            .into_iter(),
        );
        let all: Vec<Option<&[u8]>> = (0..5).map(|id| table.get(id)).collect();
        assert_eq!(
            all,
            [
                Some(&b""[..]),
                Some(b" "),
                Some(b""),
                Some("Ġx".as_bytes()),
                None
            ]
        );
        assert!(table.is_special(3) && !table.is_special(1));
        assert_eq!(table.len(), 4);
    }
}
