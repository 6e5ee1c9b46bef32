//! How text is cut into words before merging, by the name in `tokenizer.ggml.pre`.
//!
//! Names and expressions are those of llama.cpp (`llm_tokenizer_bpe` in `src/llama-vocab.cpp`),
//! whose converter writes the name; where the original tokenizer differs from llama.cpp's
//! rewriting of it, the original is followed. A name that is not here is refused.

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

/// Names that [`by_name`] knows.
pub(crate) const NAMES: [&str; 19] = [
    "default",
    "gpt-2",
    "phi-2",
    "mpt",
    "olmo",
    "smollm",
    "starcoder",
    "refact",
    "command-r",
    "codeshell",
    "llama-bpe",
    "llama3",
    "llama-v3",
    "falcon3",
    "qwen2",
    "dbrx",
    "smaug-bpe",
    "gpt-4o",
    "tekken",
];

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Llama 3's, with digits one by one.
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Words end where small letters are followed by capital ones.
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// GPT-4o's, with digits one by one and no contractions.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// For files whose converter found no better name: each cuts what the one before left.
const DEFAULT: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"];

/// What a name implies.
pub(crate) struct PreTokenization {
    pub(crate) pre_tokenizer: PreTokenizerWrapper,
    /// Text is brought into NFC first.
    pub(crate) composes: bool,
    /// A word that is a token is not merged from its parts.
    pub(crate) ignores_merges: bool,
    /// `bos` goes first where the file does not say.
    pub(crate) adds_bos: bool,
}

/// The rules of one name, or `None` where it is not known.
pub(crate) fn by_name(name: &str) -> Option<PreTokenization> {
    let plain = |pre_tokenizer| PreTokenization {
        pre_tokenizer,
        composes: false,
        ignores_merges: false,
        adds_bos: false,
    };
    Some(match name {
        "default" => plain(split_by(&DEFAULT)),
        "gpt-2" | "phi-2" | "mpt" | "olmo" => plain(split_by(&[GPT2])),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => plain(digits_then_gpt2()),
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" => PreTokenization {
            ignores_merges: true,
            adds_bos: true,
            ..plain(split_by(&[LLAMA3]))
        },
        "qwen2" => PreTokenization {
            composes: true,
            ..plain(split_by(&[QWEN2]))
        },
        // Phi 4.
        "dbrx" | "smaug-bpe" => plain(split_by(&[LLAMA3])),
        // Phi 4 mini.
        "gpt-4o" => plain(split_by(&[GPT4O])),
        // Mistral NeMo.
        "tekken" => PreTokenization {
            ignores_merges: true,
            adds_bos: true,
            ..plain(split_by(&[TEKKEN]))
        },
        _ => return None,
    })
}

/// Every digit a word of its own; a space before it then ends the word before.
fn digits_then_gpt2() -> PreTokenizerWrapper {
    sequence(vec![
        Digits::new(true).into(),
        ByteLevel::new(false, true, true).into(),
    ])
}

fn split_by(expressions: &[&str]) -> PreTokenizerWrapper {
    let mut steps: Vec<PreTokenizerWrapper> = expressions.iter().map(|it| split(it)).collect();
    steps.push(ByteLevel::new(false, true, false).into());
    sequence(steps)
}

fn split(expression: &str) -> PreTokenizerWrapper {
    let pattern = SplitPattern::Regex(expression.to_owned());
    Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
        .expect("our own expressions compile")
        .into()
}

fn sequence(steps: Vec<PreTokenizerWrapper>) -> PreTokenizerWrapper {
    PreTokenizerWrapper::Sequence(Sequence::new(steps))
}

#[cfg(test)]
mod tests {
    use tokenizers::tokenizer::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    use super::*;

    /// Words joined by `|`, with GPT-2's letters for space and newline made visible again.
    #[track_caller]
    fn check(name: &str, text: &str, expected: &str) {
        let mut pieces = PreTokenizedString::from(text);
        by_name(name)
            .unwrap()
            .pre_tokenizer
            .pre_tokenize(&mut pieces)
            .unwrap();
        let words: Vec<String> = pieces
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(word, _, _)| word.replace('Ġ', "_").replace('Ċ', "/"))
            .collect();
        assert_eq!(words.join("|"), expected, "{name}: {text:?}");
    }

    #[test]
    fn smollm_takes_digits_one_by_one_and_leaves_the_space_before_them() {
        check("smollm", "I'm 2024 x", "I|'m|_|2|0|2|4|_x");
        check("smollm", "a  b\n\nc", "a|_|_b|/|/|c");
        check("smollm", "v1.5!", "v|1|.|5|!");
        check("smollm", "½²", "Â½|Â²");
    }

    #[test]
    fn gpt2_keeps_numbers_whole_with_their_space() {
        check("gpt-2", "I'm 2024 x", "I|'m|_2024|_x");
        check("gpt-2", "x   y ", "x|__|_y|_");
    }

    #[test]
    fn llama3_cuts_numbers_in_threes_and_keeps_newlines_with_punctuation() {
        check("llama-bpe", "I'M 12345 x.\n\n y", "I|'M|_|123|45|_x|.//|_y");
        check("llama3", "(word", "(word");
    }

    #[test]
    fn qwen2_is_llama3_with_single_digits() {
        check("qwen2", "I'M 12345 x.\n", "I|'M|_|1|2|3|4|5|_x|./");
    }

    #[test]
    fn gpt_4o_and_tekken_end_words_where_capitals_begin() {
        check("gpt-4o", "aBc I'M 12345/\n", "a|Bc|_I'M|_|123|45|//");
        check("tekken", "aBc I'M 12", "a|Bc|_I|'M|_|1|2");
        check("dbrx", "aBc 12345", "aBc|_|123|45");
    }

    #[test]
    fn default_cuts_punctuation_first_then_numbers_in_threes() {
        check("default", "a, 12345", "a|,|_|123|45");
        check("default", "x+y=z", "x|+|y|=|z");
    }

    #[test]
    fn listed_names_are_exactly_the_known_ones() {
        assert!(NAMES.iter().all(|name| by_name(name).is_some()));
        assert!(by_name("").is_none() && by_name("gpt2").is_none());
    }
}
