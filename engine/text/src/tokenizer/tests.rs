//! Round trips, special tokens, and what goes around a text.

use proptest::prelude::*;

use super::*;
use crate::fixtures::{self, IM_END, IM_START, TOOL};

fn bytes_of(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

#[test]
fn merges_apply_best_first_inside_words() {
    let tokenizer = fixtures::tokenizer();
    let ids = tokenizer.encode("hello world", false).unwrap();
    let expected = [tokenizer.id_of("hello"), tokenizer.id_of("Ġwo")].map(Option::unwrap);
    assert_eq!(ids, [&expected[..], &bytes_of("rld")].concat());
}

#[test]
fn names_of_special_tokens_are_tokens_unless_the_text_is_plain() {
    let tokenizer = fixtures::tokenizer();
    assert_eq!(
        tokenizer.encode("a<|im_end|>", false).unwrap(),
        [97, IM_END]
    );
    let plain = tokenizer.encode_plain("a<|im_end|>", false).unwrap();
    assert_eq!(plain, bytes_of("a<|im_end|>"));
}

#[test]
fn user_defined_tokens_are_text_and_control_tokens_are_not() {
    let tokenizer = fixtures::tokenizer();
    let ids = tokenizer.encode_plain("x<tool>", false).unwrap();
    assert_eq!(ids, [120, TOOL]);
    assert_eq!(tokenizer.decode(&[120, TOOL, IM_END], true), "x<tool>");
    assert_eq!(
        tokenizer.decode(&[120, TOOL, IM_END], false),
        "x<tool><|im_end|>"
    );
    assert!(tokenizer.is_special(IM_END) && !tokenizer.is_special(TOOL));
}

#[test]
fn bos_and_eos_go_around_a_text_once() {
    let mut vocab = fixtures::vocab("smollm");
    (vocab.add_bos, vocab.add_eos) = (Some(true), Some(true));
    let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
    assert_eq!(tokenizer.encode("a", true).unwrap(), [IM_START, 97, IM_END]);
    let named = tokenizer.encode("<|im_start|>a<|im_end|>", true).unwrap();
    assert_eq!(named, [IM_START, 97, IM_END]);
    assert_eq!(tokenizer.encode("a", false).unwrap(), [97]);
    assert_eq!(tokenizer.encode("", true).unwrap(), [IM_START, IM_END]);
}

#[test]
fn what_the_vocabulary_says_can_be_asked() {
    let tokenizer = fixtures::tokenizer();
    assert_eq!(tokenizer.vocab_size(), 273);
    assert_eq!(
        (tokenizer.bos(), tokenizer.eos_ids()),
        (Some(IM_START), &[IM_END][..])
    );
    assert_eq!(
        tokenizer.special_tokens().eos.as_deref(),
        Some("<|im_end|>")
    );
    assert_eq!(tokenizer.token_bytes(0xC3), Some(&[0xC3][..]));
    assert_eq!(tokenizer.token_bytes(10_000), None);
}

#[test]
fn unknown_ids_and_halves_of_characters_do_not_break_decoding() {
    let tokenizer = fixtures::tokenizer();
    assert_eq!(
        tokenizer.decode(&[97, 0xC3, 98, 10_000, 0xF0], false),
        "a\u{FFFD}b\u{FFFD}"
    );
}

#[test]
fn a_text_longer_than_any_context_is_refused() {
    let error = fixtures::tokenizer()
        .encode(&"a".repeat(TEXT_BYTES_MAX + 1), true)
        .unwrap_err();
    assert!(
        matches!(
            error,
            EncodeError::TooLong {
                bytes: 4_194_305,
                ..
            }
        ),
        "{error}"
    );
}

/// Words, digits, marks, spaces, special names, and any character at all.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[ a-z0-9.,'\\n]{0,12}",
        Just("<|im_end|>".to_owned()),
        Just("<tool>".to_owned()),
        Just("hello world".to_owned()),
        any::<String>(),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever the text, its tokens give it back, special names read as tokens or not.
    #[test]
    fn decode_inverts_encode(text in any_text()) {
        for pre in ["default", "gpt-2", "smollm", "llama-bpe"] {
            let tokenizer = Tokenizer::from_gguf(fixtures::vocab(pre)).unwrap();
            let ids = tokenizer.encode(&text, false).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids, false), text.as_str());
            let ids = tokenizer.encode_plain(&text, false).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids, true), text.as_str());
        }
    }

    /// No text can smuggle a control token through the plain path.
    #[test]
    fn plain_text_holds_no_special_token(text in any_text()) {
        let tokenizer = fixtures::tokenizer();
        let ids = tokenizer.encode_plain(&text, false).unwrap();
        prop_assert!(!ids.iter().any(|id| tokenizer.is_special(*id)));
    }
}
