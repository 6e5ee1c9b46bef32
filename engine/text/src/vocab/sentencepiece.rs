//! A sentencepiece vocabulary (`tokenizer.ggml.model` is `llama`): pieces with scores.
//!
//! Of all neighbours that make a piece together, those merge first whose piece has the best
//! score. As merges in an order that is every way to cut a piece in two pieces, best score first
//! (`generate_merges` of transformers). What has no piece is written in bytes.

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Merges};
use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::{NormalizerWrapper, Tokenizer};

use super::{GgufVocab, MERGE_COUNT_MAX, VocabError};

/// Sentencepiece's visible space.
const SPACE: &str = "▁";
/// Pieces in use have some tens of characters; longer ones are never merged.
const PIECE_BYTES_MAX: usize = 256;
/// GGUF's type of a normal token.
const NORMAL: i32 = 1;

/// One way to make a piece.
struct Merge<'a> {
    score: f32,
    left: &'a str,
    right: &'a str,
}

/// Builds what encodes; added tokens come later. `has_prefix`: a text gets a space in front.
pub(super) fn build(vocab: &GgufVocab, has_prefix: bool) -> Result<Tokenizer, VocabError> {
    if vocab.scores.len() != vocab.tokens.len() {
        return Err(VocabError::ScoreCount {
            scores: vocab.scores.len(),
            tokens: vocab.tokens.len(),
        });
    }
    let unknown = vocab.text(vocab.unknown.unwrap_or(0)).unwrap_or("<unk>");
    let model = BPE::builder()
        .vocab_and_merges(vocab.ids_by_text(), merges(vocab)?)
        .unk_token(unknown.to_owned())
        .fuse_unk(true)
        .byte_fallback(true)
        .build()
        .map_err(VocabError::Build)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(normalizer(has_prefix)?))
        .map_err(VocabError::Build)?;
    Ok(tokenizer)
}

/// Spaces become visible, one more in front.
fn normalizer(has_prefix: bool) -> Result<NormalizerWrapper, VocabError> {
    let visible = Replace::new(" ", SPACE).map_err(VocabError::Build)?;
    let prefix = has_prefix.then(|| NormalizerWrapper::Prepend(Prepend::new(SPACE.to_owned())));
    let steps = prefix
        .into_iter()
        .chain([NormalizerWrapper::Replace(visible)]);
    Ok(NormalizerWrapper::Sequence(Sequence::new(steps.collect())))
}

fn merges(vocab: &GgufVocab) -> Result<Merges, VocabError> {
    let pieces: HashMap<&str, f32> = pieces(vocab).collect();
    let mut merges = Vec::new();
    for (piece, score) in self::pieces(vocab) {
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if pieces.contains_key(left) && pieces.contains_key(right) {
                merges.push(Merge { score, left, right });
            }
        }
        if merges.len() > MERGE_COUNT_MAX {
            return Err(VocabError::Count {
                what: "merges",
                count: merges.len(),
                count_max: MERGE_COUNT_MAX,
            });
        }
    }
    let length = |text: &str| text.chars().count();
    merges.sort_by_cached_key(|merge| {
        let place = std::cmp::Reverse((length(merge.left), length(merge.right)));
        (descending(merge.score), place)
    });
    let owned = merges
        .into_iter()
        .map(|merge| (merge.left.to_owned(), merge.right.to_owned()));
    Ok(owned.collect())
}

fn pieces(vocab: &GgufVocab) -> impl Iterator<Item = (&str, f32)> {
    let kind = |index| vocab.token_types.get(index).copied().unwrap_or(NORMAL);
    vocab
        .tokens
        .iter()
        .zip(&vocab.scores)
        .enumerate()
        .filter(move |(index, (piece, _))| kind(*index) == NORMAL && piece.len() <= PIECE_BYTES_MAX)
        .map(|(_, (piece, score))| (piece.as_str(), *score))
}

/// A key that is least for the greatest score.
fn descending(score: f32) -> i32 {
    let bits = score.to_bits().cast_signed();
    // As `f32::total_cmp` makes integers that are ordered as the numbers are.
    !(bits ^ (((bits >> 31).cast_unsigned()) >> 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::Tokenizer;

    const GOLDEN: &str = include_str!("../../tests/golden/sentencepiece.json");

    #[derive(Deserialize)]
    struct Golden {
        tokens: Vec<String>,
        scores: Vec<f32>,
        token_types: Vec<i32>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        text: String,
        ids: Vec<u32>,
    }

    fn golden() -> (GgufVocab, Vec<Case>) {
        let golden: Golden = serde_json::from_str(GOLDEN).unwrap();
        let vocab = GgufVocab {
            model: "llama".to_owned(),
            tokens: golden.tokens,
            scores: golden.scores,
            token_types: golden.token_types,
            bos: Some(1),
            eos: Some(2),
            ..GgufVocab::default()
        };
        (vocab, golden.cases)
    }

    #[test]
    fn ids_are_those_of_sentencepiece_and_come_back_as_the_text() {
        let (vocab, cases) = golden();
        let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
        for Case { text, ids } in cases {
            assert_eq!(tokenizer.encode(&text, false).unwrap(), ids, "{text:?}");
            assert_eq!(tokenizer.decode(&ids, true), text);
        }
        assert_eq!(tokenizer.encode("a", true).unwrap()[0], 1, "bos goes first");
    }

    #[test]
    fn without_a_prefix_a_text_begins_as_it_is() {
        let (mut vocab, _) = golden();
        vocab.add_space_prefix = Some(false);
        vocab.add_bos = Some(false);
        let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
        let ids = tokenizer.encode("pieces", true).unwrap();
        let first = tokenizer.token_bytes(ids[0]).unwrap();
        assert!(first.starts_with(b"p"), "{first:?}");
        assert_eq!(tokenizer.decode(&ids, true), "pieces");
    }

    #[test]
    fn scores_are_wanted_for_all_tokens() {
        let (mut vocab, _) = golden();
        vocab.scores.pop();
        let error = Tokenizer::from_gguf(vocab).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let all = format!("{error}: {}", source.unwrap_or_default());
        assert!(all.contains("419 scores for 420 tokens"), "{all}");
    }

    #[test]
    fn greater_scores_come_first() {
        let mut scores = [-2.0, 3.5, 0.0, -1e30, 7.0];
        scores.sort_by_key(|score| descending(*score));
        assert_eq!(scores, [7.0, 3.5, 0.0, -2.0, -1e30]);
    }
}
