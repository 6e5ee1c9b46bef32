//! Hostile and damaged GGUF files: an error that names file and part, never a panic.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::tiny::{self, Gguf};

fn read_bytes(bytes: &[u8]) -> Result<Header, Flaw> {
    Header::read(bytes, bytes.len() as u64)
}

#[track_caller]
fn refused(bytes: &[u8], expected: &str) {
    let flaw = read_bytes(bytes).expect_err("this file is refused");
    assert_eq!(flaw.to_string(), expected);
}

fn with_tensor(shape: &[usize], kind: u32, bytes: usize) -> Vec<u8> {
    let mut gguf = Gguf::default();
    gguf.raw_tensor("w", shape, kind, &vec![0; bytes]);
    gguf.finish()
}

#[test]
fn the_tiny_model_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let source = ModelSource::open(&tiny::write_gguf(folder.path())).unwrap();
    assert_eq!(source.config(), &tiny::config());
    let TokenizerFiles::Gguf(tokenizer) = source.tokenizer() else {
        panic!("it is a GGUF file")
    };
    assert_eq!(tokenizer.model, "gpt2");
    assert_eq!(tokenizer.tokens, ["<s>", "a", "b"]);
    assert_eq!((tokenizer.bos, tokenizer.eos), (Some(1), Some(2)));
    assert_eq!(tokenizer.add_bos, None, "the file does not say");
}

#[test]
fn a_wrong_start_is_refused() {
    refused(b"GGML\x03\0\0\0", "header: does not start with GGUF");
    refused(b"GGUF\x01\0\0\0", "GGUF version 1 is not supported");
    refused(b"GGUF\0\0\0\x03", "GGUF version 50331648 is not supported");
    refused(b"GG", "header: the file ends at 2 within it");
}

#[test]
fn a_tensor_that_its_file_cannot_hold_is_refused_by_name() {
    let mut short = with_tensor(&[4, 8], 0, 128);
    short.truncate(short.len() - 1);
    refused(
        &short,
        "tensor w: takes 128 bytes from 96 on, the file ends at 223",
    );
    let huge = with_tensor(&[1 << 40, 1 << 40], 0, 32);
    refused(&huge, "tensor w: has a size past 2^64");
    let ragged = with_tensor(&[2, 33], 8, 68);
    refused(
        &ragged,
        "tensor w: has rows that are no whole blocks of its type",
    );
    refused(
        &with_tensor(&[2, 32], 99, 64),
        "type 99 of tensor w is not supported",
    );
}

#[test]
fn counts_are_refused_before_memory_is_taken() {
    let counts = |tensors: u64, keys: u64| {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(keys.to_le_bytes());
        bytes
    };
    refused(
        &counts(u64::MAX, 0),
        "header: 18446744073709551615 tensors are more than 65536",
    );
    refused(&counts(0, 60_000), "header: the file ends at 24 within it");
}

#[test]
fn overlapping_tensors_are_refused() {
    let mut gguf = Gguf::default();
    gguf.raw_tensor("a", &[16], 0, &[0; 64]);
    gguf.raw_tensor("b", &[16], 0, &[0; 64]);
    let mut bytes = gguf.finish();
    // The offset of b, the last eight bytes before the padding: from 64 to 32.
    let offset = bytes.iter().rposition(|&byte| byte == 64).unwrap();
    bytes[offset] = 32;
    refused(&bytes, "tensor b: overlaps tensor a");
}

#[test]
fn other_architectures_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.gguf");
    let mut gguf = Gguf::default();
    gguf.text("general.architecture", "mamba");
    fs::write(&path, gguf.finish()).unwrap();
    let message = ModelSource::open(&path).unwrap_err().to_string();
    let expected = "architecture \"mamba\" is not supported; GGUF files of architecture llama, \
                    qwen2, qwen3, qwen3moe, gemma2, gemma3 and phi3 are";
    assert!(message.ends_with(expected), "{message}");
}

#[test]
fn every_truncation_is_an_error() {
    let whole = tiny::gguf_bytes(&tiny::weights());
    assert!(read_bytes(&whole).is_ok());
    // Each byte of the header, then some of the data; the last bytes are padding.
    let header = (0..4_096).chain((4_096..whole.len() - 32).step_by(997));
    for length in header {
        assert!(
            read_bytes(&whole[..length]).is_err(),
            "{length} bytes pass as a whole file"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever bits flip in the header, reading ends in an answer; what it accepts lies in the
    /// file.
    #[test]
    fn flipped_bits_never_panic(flips in prop::collection::vec((0_usize..3_000, 0_u8..8), 1..6)) {
        let mut bytes = tiny::gguf_bytes(&tiny::weights());
        for (index, bit) in flips {
            bytes[index] ^= 1 << bit;
        }
        if let Ok(header) = read_bytes(&bytes) {
            let inside = |tensor: &super::super::store::Stored| tensor.range.end <= bytes.len() as u64;
            prop_assert!(header.tensors.values().all(inside));
        }
    }

    /// Opening a damaged file through the front door does not panic either.
    #[test]
    fn damaged_files_open_or_say_why(flips in prop::collection::vec((0_usize..1_500, 0_u8..8), 1..3)) {
        let mut bytes = tiny::gguf_bytes(&tiny::weights());
        for (index, bit) in flips {
            bytes[index] ^= 1 << bit;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &bytes).unwrap();
        if let Err(error) = ModelSource::open(file.path()) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
