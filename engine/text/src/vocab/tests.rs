//! Vocabularies that must be refused, and what the good ones make of text.

use expect_test::{Expect, expect};

use super::*;
use crate::fixtures;

#[track_caller]
fn check_refused(change: impl FnOnce(&mut GgufVocab), expected: Expect) {
    let mut vocab = fixtures::vocab("smollm");
    change(&mut vocab);
    expected.assert_eq(&vocab.into_tokenizer().unwrap_err().to_string());
}

#[test]
fn a_pre_tokenizer_that_is_not_known_is_refused_by_name() {
    check_refused(
        |vocab| vocab.pre = "superbpe".to_owned(),
        expect![[
            r#"pre-tokenizer "superbpe" is not known; known are default, gpt-2, phi-2, mpt, olmo, smollm, starcoder, refact, command-r, codeshell, llama-bpe, llama3, llama-v3, falcon3, qwen2, dbrx, smaug-bpe, gpt-4o, tekken"#
        ]],
    );
}

#[test]
fn another_kind_of_tokenizer_is_refused() {
    check_refused(
        |vocab| vocab.model = "bert".to_owned(),
        expect![[
            r#"tokenizer model "bert" is not supported: use a file whose tokenizer.ggml.model is gpt2 or llama"#
        ]],
    );
}

#[test]
fn ids_outside_the_vocabulary_are_refused() {
    check_refused(
        |vocab| vocab.eos = Some(70_000),
        expect!["eos token id 70000 is outside the vocabulary of 273 tokens"],
    );
}

#[test]
fn merges_that_join_nothing_known_are_refused() {
    check_refused(
        |vocab| vocab.merges.push("q qq".to_owned()),
        expect![[r#"merge 9 ("q qq") does not join two tokens into a token"#]],
    );
    check_refused(
        |vocab| vocab.merges[0] = "he".to_owned(),
        expect![[r#"merge 0 ("he") does not join two tokens into a token"#]],
    );
}

#[test]
fn counts_and_lengths_are_bounded() {
    check_refused(
        |vocab| vocab.tokens.clear(),
        expect!["tokens number 0, allowed are 1 to 1048576"],
    );
    check_refused(
        |vocab| vocab.token_types.truncate(3),
        expect!["3 token types for 273 tokens"],
    );
    check_refused(
        |vocab| vocab.tokens[5] = "x".repeat(5000),
        expect![
            "token 5 makes the vocabulary too large: a token may have 4096 bytes, all together 67108864"
        ],
    );
}

#[test]
fn llama_files_that_do_not_say_get_a_bos_and_others_do_not() {
    let mut llama = fixtures::vocab("llama-bpe");
    llama.add_bos = None;
    let ids = llama
        .clone()
        .into_tokenizer()
        .unwrap()
        .encode("x", true)
        .unwrap();
    assert_eq!(ids.len(), 2);
    llama.add_bos = Some(false);
    assert_eq!(
        llama
            .into_tokenizer()
            .unwrap()
            .encode("x", true)
            .unwrap()
            .len(),
        1
    );
    let mut smollm = fixtures::vocab("smollm");
    smollm.add_bos = None;
    assert_eq!(
        smollm
            .into_tokenizer()
            .unwrap()
            .encode("x", true)
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn qwen2_composes_accents_before_merging() {
    let tokenizer = fixtures::vocab("qwen2").into_tokenizer().unwrap();
    let ids = tokenizer.encode("e\u{301}", false).unwrap();
    assert_eq!(tokenizer.decode(&ids, false), "é");
}
