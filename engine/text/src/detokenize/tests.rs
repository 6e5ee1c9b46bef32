//! Deltas against decoding everything at once, and stops against a plain search.

use proptest::prelude::*;

use super::*;
use crate::fixtures::{self, END_OF_TEXT, IM_END};

fn options(stops: &[&str]) -> Options {
    let stop = StopStrings::new(stops.iter().map(|it| (*it).to_owned()).collect()).unwrap();
    Options {
        skip_special: true,
        stop,
        ..Options::default()
    }
}

/// All deltas but the last, the whole text, and what stopped it.
fn run(tokens: &[u32], options: &Options) -> (Vec<String>, String, Option<StopMatch>) {
    let mut detokenizer = Detokenizer::new(fixtures::tokenizer(), options.clone());
    let mut deltas: Vec<Delta> = tokens
        .iter()
        .map(|token| detokenizer.push(*token))
        .collect();
    deltas.push(detokenizer.finish());
    let text = deltas.iter().map(|delta| delta.text.as_str()).collect();
    let stopped = deltas.last().unwrap().stopped.clone();
    deltas.pop();
    (
        deltas.into_iter().map(|delta| delta.text).collect(),
        text,
        stopped,
    )
}

fn bytes_of(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

#[track_caller]
fn check_deltas(text: &str, options: &Options, expected: &[&str]) {
    assert_eq!(run(&bytes_of(text), options).0, expected);
}

#[test]
fn text_goes_out_at_once_where_nothing_can_stop_it() {
    check_deltas("abc", &options(&[]), &["a", "b", "c"]);
    check_deltas("aéb", &options(&[]), &["a", "", "é", "b"]);
}

#[test]
fn as_many_characters_wait_as_the_longest_stop_has_less_one() {
    check_deltas("abcd", &options(&["xyz"]), &["", "", "a", "b"]);
    check_deltas("abcd", &options(&["x"]), &["a", "b", "c", "d"]);
    check_deltas("éàü", &options(&["üü"]), &["", "", "", "é", "", "à"]);
}

#[test]
fn nothing_waits_where_the_stop_string_is_wanted() {
    let options = Options {
        include_stop: true,
        ..options(&["bcd"])
    };
    check_deltas("abcd", &options, &["a", "b", "c", "d"]);
    assert_eq!(run(&bytes_of("abcde"), &options).1, "abcd");
}

#[test]
fn the_stop_string_and_all_after_it_is_cut_off() {
    let (_, text, stopped) = run(&bytes_of("Paris.\n\nMore"), &options(&["User:", "\n\n"]));
    assert_eq!(text, "Paris.");
    assert_eq!(
        stopped,
        Some(StopMatch {
            index: 1,
            string: "\n\n".to_owned()
        })
    );
}

#[test]
fn a_stop_string_inside_one_token_is_found() {
    let hello = fixtures::tokenizer().encode("hello", false).unwrap();
    assert_eq!(hello.len(), 1);
    assert_eq!(run(&hello, &options(&["l"])).1, "he");
}

#[test]
fn a_stop_completed_by_the_first_tokens_does_not_count() {
    let gated = |tokens_min| Options {
        tokens_min,
        ..options(&["b"])
    };
    assert_eq!(run(&bytes_of("abab"), &gated(1)).1, "a");
    assert_eq!(run(&bytes_of("abab"), &gated(2)).1, "aba");
    assert_eq!(run(&bytes_of("abab"), &gated(4)).1, "abab");
    let across = Options {
        tokens_min: 2,
        ..options(&["bc"])
    };
    assert_eq!(run(&bytes_of("abc"), &across).1, "a");
}

#[test]
fn control_tokens_are_skipped_or_shown() {
    let tokens = [97, IM_END, END_OF_TEXT, 98, 9999];
    assert_eq!(run(&tokens, &options(&[])).1, "ab");
    let shown = Options {
        skip_special: false,
        ..options(&[])
    };
    assert_eq!(run(&tokens, &shown).1, "a<|im_end|><|endoftext|>b");
}

#[test]
fn tokens_after_the_stop_add_nothing() {
    let mut detokenizer = Detokenizer::new(fixtures::tokenizer(), options(&["b"]));
    detokenizer.push(97);
    let stopped = detokenizer.push(98).stopped;
    assert_eq!(
        stopped,
        Some(StopMatch {
            index: 0,
            string: "b".to_owned()
        })
    );
    assert_eq!(
        detokenizer.push(97),
        Delta {
            text: String::new(),
            stopped: stopped.clone()
        }
    );
    assert_eq!(
        detokenizer.finish(),
        Delta {
            text: String::new(),
            stopped
        }
    );
}

/// What a plain search over the whole text says: the text that remains, and the stop's index.
fn naive(text: &str, stops: &[String], counted: usize, include: bool) -> (String, Option<usize>) {
    let first = |(index, stop): (usize, &String)| {
        let ends = (0..text.len()).filter(|start| text.is_char_boundary(*start));
        let starts = ends.filter(|start| text[*start..].starts_with(stop.as_str()));
        starts
            .map(|start| (start + stop.len(), index, start))
            .find(|(end, ..)| *end > counted)
    };
    match stops.iter().enumerate().filter_map(first).min() {
        Some((end, index, start)) => (
            text[..if include { end } else { start }].to_owned(),
            Some(index),
        ),
        None => (text.to_owned(), None),
    }
}

/// Few letters, so that stop strings occur; tokens of many letters and of parts of letters.
fn any_tokens() -> impl Strategy<Value = Vec<u32>> {
    let letters = prop::sample::select(vec![
        97, 98, 99, 0xC3, 0xA9, 0xE2, 0x82, 0xAC, IM_END, 9999, 265, 267, 268, 269, 270, 271, 272,
    ]);
    prop::collection::vec(letters, 0..40)
}

fn any_stops() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[abcé€\u{FFFD}]{1,5}", 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Nothing is lost, doubled or broken between the deltas.
    #[test]
    fn deltas_join_to_the_whole_text(tokens in any_tokens(), any in prop::collection::vec(0..280_u32, 0..20), skip_special: bool) {
        let tokens = [tokens, any].concat();
        let options = Options { skip_special, ..Options::default() };
        let whole = fixtures::tokenizer().decode(&tokens, skip_special);
        prop_assert_eq!(run(&tokens, &options).1, whole);
    }

    /// Streaming with hold-back finds what a search over the finished text finds.
    #[test]
    fn stops_are_those_of_a_plain_search(tokens in any_tokens(), stops in any_stops(), include_stop: bool, tokens_min in 0..6_usize) {
        let tokens_min = tokens_min.saturating_sub(2);
        let stop = StopStrings::new(stops.clone()).unwrap();
        let options = Options { skip_special: true, stop, include_stop, tokens_min };
        let whole = fixtures::tokenizer().decode(&tokens, true);
        let first = &tokens[..tokens_min.min(tokens.len())];
        let counted = run(first, &Options { skip_special: true, ..Options::default() }).0.concat().len();
        let counted = if tokens.len() <= tokens_min && tokens_min > 0 { whole.len() } else { counted };
        let expected = naive(&whole, &stops, counted, include_stop);
        let (_, text, stopped) = run(&tokens, &options);
        prop_assert_eq!((text, stopped.map(|stop| stop.index)), expected);
    }

    /// The same text in other tokens ends the same way.
    #[test]
    fn the_cut_into_tokens_does_not_matter(text in "[abcé€ hello]{0,30}", stops in any_stops(), include_stop: bool) {
        let stop = StopStrings::new(stops).unwrap();
        let options = Options { stop, include_stop, ..Options::default() };
        let merged = fixtures::tokenizer().encode(&text, false).unwrap();
        let (_, merged_text, merged_stop) = run(&merged, &options);
        let (_, bytes_text, bytes_stop) = run(&bytes_of(&text), &options);
        prop_assert_eq!((merged_text, merged_stop), (bytes_text, bytes_stop));
    }
}
