//! Folders as they should be, and folders that lie.

use std::fs;

use ::safetensors::Dtype;
use proptest::prelude::*;

use super::*;
use crate::tiny;

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn read_bytes(bytes: &[u8]) -> Result<BTreeMap<String, Stored>, Flaw> {
    read_header(bytes, bytes.len() as u64)
}

#[track_caller]
fn refused(header: &str, data: usize, expected: &str) {
    let flaw = read_bytes(&file(header, data)).expect_err("this file is refused");
    assert_eq!(flaw.to_string(), expected);
}

#[test]
fn the_tiny_folder_is_read_as_it_was_written() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let folder = tempfile::tempdir().unwrap();
        tiny::write_folder(folder.path(), dtype);
        let source = ModelSource::open(folder.path()).unwrap();
        assert_eq!(source.config().kv_head_count, 3);
        let norm = source.rows(crate::source::Weight::FinalNorm, 0..1).unwrap();
        let (_, expected) = &tiny::weights()["model.norm.weight"];
        assert_eq!(
            &norm.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            expected
        );
    }
}

#[test]
fn a_header_that_lies_is_refused_with_the_tensor_named() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"w": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}}}"#)
    };
    refused(
        &one("F32", "[2]", "[0, 4]"),
        8,
        "tensor w: needs 8 bytes and has those from 0 to 4",
    );
    refused(
        &one("F32", "[2]", "[0, 8]"),
        7,
        "tensor w: ends at byte 8 of 7",
    );
    refused(
        &one("F32", "[2]", "[8, 0]"),
        8,
        "tensor w: needs 8 bytes and has those from 8 to 0",
    );
    refused(
        &one("F32", "[0]", "[0, 0]"),
        0,
        "tensor w: has the impossible shape [0]",
    );
    let wide = "[4294967296, 4294967296, 2]";
    refused(
        &one("F32", wide, "[0, 8]"),
        8,
        "tensor w: has shape [4294967296, 4294967296, 2], which is past 2^64 bytes",
    );
    let int = one("I64", "[1]", "[0, 8]");
    refused(
        &int,
        8,
        "tensor w: has dtype I64; F32, F16 and BF16 are supported",
    );
    let twice = r#"{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}"#;
    let flaw = read_bytes(&file(twice, 4)).unwrap_err().to_string();
    assert!(flaw.contains("tensor w is there twice"), "{flaw}");
    let same = r#"{"v": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}"#;
    let flaw = read_bytes(&file(same, 4)).unwrap_err().to_string();
    assert!(flaw.starts_with("tensor w: starts at byte"), "{flaw}");
}

#[test]
fn a_header_longer_than_its_file_is_refused_before_memory_is_taken() {
    let mut bytes = (1_u64 << 60).to_le_bytes().to_vec();
    bytes.extend(b"{}");
    let flaw = read_bytes(&bytes).unwrap_err().to_string();
    assert_eq!(
        flaw,
        "header: a header of 1152921504606846976 bytes in a file of 10"
    );
}

#[test]
fn a_folder_that_lacks_something_says_what() {
    let folder = tempfile::tempdir().unwrap();
    let message = ModelSource::open(folder.path()).unwrap_err().to_string();
    assert!(
        message.contains("files named *.safetensors: there are none"),
        "{message}"
    );
    tiny::write_folder(folder.path(), Dtype::F32);
    let mut config = tiny::config_json();
    config["num_hidden_layers"] = 3.into();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let message = ModelSource::open(folder.path()).unwrap_err().to_string();
    assert!(
        message.contains("model.layers.2.input_layernorm.weight: is missing"),
        "{message}"
    );
    config["num_hidden_layers"] = 2.into();
    config["intermediate_size"] = 51.into();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let message = ModelSource::open(folder.path()).unwrap_err().to_string();
    assert!(
        message.contains("has shape [50, 40] where the config needs [51, 40]"),
        "{message}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn flipped_bits_and_truncations_never_panic(
        flips in prop::collection::vec((0_usize..220, 0_u8..8), 0..4),
        cut in 0_usize..16,
    ) {
        let header = r#"{"__metadata__": {"format": "pt"},
            "v": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]},
            "w": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}}"#;
        let mut bytes = file(header, 12);
        for (index, bit) in flips {
            let index = index % bytes.len();
            bytes[index] ^= 1 << bit;
        }
        bytes.truncate(bytes.len() - cut);
        if let Ok(tensors) = read_bytes(&bytes) {
            prop_assert!(tensors.values().all(|tensor| tensor.range.end <= bytes.len() as u64));
        }
    }
}
