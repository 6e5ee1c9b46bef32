//! A small byte-level vocabulary that every test speaks.
//!
//! All 256 bytes, so any text can be encoded; a few merges; tokens that straddle characters.

use std::sync::{Arc, OnceLock};

use crate::bytes::character_of;
use crate::{GgufVocab, Tokenizer};

pub(crate) const END_OF_TEXT: u32 = 256;
pub(crate) const IM_START: u32 = 257;
pub(crate) const IM_END: u32 = 258;
/// User defined: found in text, and part of it.
pub(crate) const TOOL: u32 = 259;

/// The last two straddle characters: the middle of an emoji, and a space with half of an `é`.
const MERGES: [(&[u8], &[u8]); 9] = [
    (b"h", b"e"),
    (b"l", b"l"),
    (b"he", b"ll"),
    (b"hell", b"o"),
    (b" ", b"w"),
    (b" w", b"o"),
    (b"\n", b"\n"),
    (b"\x9F", b"\x98"),
    (b" ", b"\xC3"),
];

/// Ids 0 to 255 are the bytes, then the special tokens, then the merges in order.
pub(crate) fn vocab(pre: &str) -> GgufVocab {
    let mut tokens: Vec<String> = (0..=u8::MAX).map(|byte| written(&[byte])).collect();
    let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>"];
    tokens.extend(special.map(str::to_owned));
    let mut token_types = vec![1; 256];
    token_types.extend([3, 3, 3, 4]);
    tokens.extend(MERGES.map(|(left, right)| written(&[left, right].concat())));
    // Straddles three characters and no merge makes it: only a model can emit it.
    tokens.extend(["abcé", "aé", "b\u{20AC}", "ab"].map(|text| written(text.as_bytes())));
    token_types.resize(tokens.len(), 1);
    GgufVocab {
        model: "gpt2".to_owned(),
        pre: pre.to_owned(),
        tokens,
        merges: MERGES
            .map(|(l, r)| format!("{} {}", written(l), written(r)))
            .to_vec(),
        scores: Vec::new(),
        unknown: None,
        add_space_prefix: None,
        token_types,
        bos: Some(IM_START),
        eos: Some(IM_END),
        eot: None,
        pad: Some(IM_END),
        add_bos: Some(false),
        add_eos: None,
        chat_template: None,
    }
}

/// The vocabulary with SmolLM2's cut, built once.
pub(crate) fn tokenizer() -> Arc<Tokenizer> {
    static SHARED: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    let build = || Arc::new(Tokenizer::from_gguf(vocab("smollm")).unwrap());
    Arc::clone(SHARED.get_or_init(build))
}

fn written(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| character_of(*byte)).collect()
}
