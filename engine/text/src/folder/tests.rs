//! Folders as Hugging Face writes them, whole and damaged.

use std::error::Error as _;
use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::bytes::character_of;

/// Byte-level, with `<s>` put first and `<|end|>` ending a turn.
fn tokenizer_json() -> Value {
    let vocab: serde_json::Map<String, Value> = (0..=u8::MAX)
        .map(|byte| (character_of(byte).to_string(), byte.into()))
        .collect();
    let added = |id, content| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    json!({
        "version": "1.0",
        "truncation": {"max_length": 2, "stride": 0, "strategy": "LongestFirst",
                       "direction": "Right"},
        "padding": null,
        "added_tokens": [added(256, "<s>"), added(257, "<|end|>"), added(258, "</s>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                          "use_regex": true},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                    "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "byte_fallback": false, "vocab": vocab, "merges": []},
    })
}

fn sentencepiece_json() -> Value {
    let mut json = tokenizer_json();
    json["pre_tokenizer"] = Value::Null;
    json["post_processor"] = Value::Null;
    json["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    json["decoder"] = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    json["model"]["byte_fallback"] = true.into();
    json["model"]["vocab"] = (0..=u8::MAX)
        .map(|byte| (format!("<0x{byte:02X}>"), Value::from(byte)))
        .chain([("▁".to_owned(), 300.into()), ("a".to_owned(), 301.into())])
        .chain([("▁a".to_owned(), 302.into())])
        .collect::<serde_json::Map<String, Value>>()
        .into();
    json["model"]["merges"] = json!([["▁", "a"]]);
    json
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

#[test]
fn a_whole_folder_gives_ids_special_tokens_and_template() {
    let folder = folder(&[
        ("tokenizer.json", &tokenizer_json().to_string()),
        (
            "tokenizer_config.json",
            r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "other": 1,
                "chat_template": [{"name": "tool_use", "template": "t"},
                                  {"name": "default", "template": "d"}]}"#,
        ),
        (
            "special_tokens_map.json",
            r#"{"eos_token": "<|end|>", "pad_token": "<|end|>"}"#,
        ),
        ("generation_config.json", r#"{"eos_token_id": [257, 258]}"#),
    ]);
    let tokenizer = load(folder.path()).unwrap();
    assert_eq!(tokenizer.bos(), Some(256));
    assert_eq!(tokenizer.eos_ids(), [258, 257]);
    assert_eq!(tokenizer.special_tokens().pad.as_deref(), Some("<|end|>"));
    assert_eq!(tokenizer.chat_template(), Some("d"));
    assert_eq!(tokenizer.vocab_size(), 259);
    assert_eq!(tokenizer.encode("abc", true).unwrap(), [256, 97, 98, 99]);
    assert_eq!(tokenizer.encode("<s>abc", true).unwrap(), [256, 97, 98, 99]);
    assert_eq!(tokenizer.decode(&[256, 0xC3, 0xA9, 257], true), "é");
}

#[test]
fn a_template_file_wins_over_the_one_in_the_configuration() {
    let folder = folder(&[
        ("tokenizer.json", &tokenizer_json().to_string()),
        ("tokenizer_config.json", r#"{"chat_template": "old"}"#),
        ("chat_template.jinja", "new"),
        ("generation_config.json", r#"{"eos_token_id": 257}"#),
    ]);
    let tokenizer = load(folder.path()).unwrap();
    assert_eq!(tokenizer.chat_template(), Some("new"));
    assert_eq!(tokenizer.eos_ids(), [257]);
    assert_eq!(tokenizer.bos(), None);
}

#[test]
fn sentencepiece_spaces_and_bytes_come_back_as_text() {
    let folder = folder(&[("tokenizer.json", &sentencepiece_json().to_string())]);
    let tokenizer = load(folder.path()).unwrap();
    let ids = tokenizer.encode("a aé", false).unwrap();
    assert_eq!(ids, [302, 302, 0xC3, 0xA9]);
    assert_eq!(tokenizer.decode(&ids, true), "a aé");
    assert_eq!(tokenizer.token_bytes(302), Some(&b" a"[..]));
}

#[track_caller]
fn check_refused(files: &[(&str, &str)], expected: &str) {
    let folder = folder(files);
    let error = load(folder.path()).unwrap_err();
    let source = error
        .source()
        .map(|source| format!(": {source}"))
        .unwrap_or_default();
    let text = format!("{error}{source}").replace(&folder.path().display().to_string(), "F");
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn damaged_folders_are_refused_naming_the_file() {
    check_refused(&[], "reading F/tokenizer.json: ");
    check_refused(
        &[("tokenizer.json", "{")],
        "building the tokenizer of F/tokenizer.json: EOF",
    );
    let whole = tokenizer_json().to_string();
    check_refused(
        &[("tokenizer.json", &whole), ("tokenizer_config.json", "[")],
        "parsing F/tokenizer_config.json: EOF",
    );
    let mut unknown = tokenizer_json();
    unknown["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    check_refused(
        &[("tokenizer.json", &unknown.to_string())],
        "F/tokenizer.json decodes neither as byte-level nor as sentencepiece BPE",
    );
}

#[test]
fn ids_that_would_need_a_huge_table_are_refused() {
    let mut json = tokenizer_json();
    json["model"]["vocab"]["zz"] = 4_000_000_000_u32.into();
    check_refused(
        &[("tokenizer.json", &json.to_string())],
        "token id 4000000000 in F/tokenizer.json is above 1048575",
    );
}

#[test]
fn merges_that_make_the_library_panic_are_an_error() {
    let mut json = tokenizer_json();
    json["model"]["merges"] = json!([["Ġ", "Ġ"]]);
    check_refused(
        &[("tokenizer.json", &json.to_string())],
        "building the tokenizer of F/tokenizer.json: its merges do not fit its vocabulary",
    );
}

#[test]
fn a_folder_in_the_place_of_a_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("tokenizer.json")).unwrap();
    let error = load(folder.path()).unwrap_err();
    assert!(matches!(error, FolderError::NotAFile { .. }), "{error}");
}
