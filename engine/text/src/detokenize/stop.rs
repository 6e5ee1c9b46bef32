//! Strings that end an answer, and the search for them.

/// OpenAI allows four; other servers any number.
const STOP_COUNT_MAX: usize = 64;
const STOP_BYTES_MAX: usize = 4096;

/// Checked stop strings: a bounded number, none empty.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    strings: Vec<String>,
    chars_max: usize,
}

/// The stop string that ended an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopMatch {
    /// Position in the list that was asked for.
    pub index: usize,
    /// The string.
    pub string: String,
}

/// Why a list of stop strings is refused. The caller is at fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// An empty string would end every answer at once.
    #[error("stop string {index} is empty")]
    Empty {
        /// Position in the list.
        index: usize,
    },
    /// Text as long as the string would be held back.
    #[error("stop string {index} has {bytes} bytes, {STOP_BYTES_MAX} are allowed")]
    TooLong {
        /// Position in the list.
        index: usize,
        /// Its length.
        bytes: usize,
    },
    /// Each string is searched for after every token.
    #[error("{count} stop strings were given, {STOP_COUNT_MAX} are allowed")]
    TooMany {
        /// How many were given.
        count: usize,
    },
}

/// Where a stop string lies, in bytes of the text that was searched.
pub(crate) struct Found {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) stop: StopMatch,
}

// === impl StopStrings ===

impl StopStrings {
    /// Checks a list of stop strings.
    ///
    /// # Errors
    ///
    /// Where a string is empty or too long, or there are too many.
    pub fn new(strings: Vec<String>) -> Result<Self, StopError> {
        if strings.len() > STOP_COUNT_MAX {
            return Err(StopError::TooMany {
                count: strings.len(),
            });
        }
        for (index, string) in strings.iter().enumerate() {
            match string.len() {
                0 => return Err(StopError::Empty { index }),
                bytes if bytes > STOP_BYTES_MAX => return Err(StopError::TooLong { index, bytes }),
                _ => {}
            }
        }
        let chars_max = strings
            .iter()
            .map(|string| string.chars().count())
            .max()
            .unwrap_or(0);
        Ok(Self { strings, chars_max })
    }

    /// Characters at the end of a text in which one of the strings may have begun.
    pub(crate) fn held_chars(&self) -> usize {
        self.chars_max.saturating_sub(1)
    }

    /// The string that completes first in `text` and after `searched`; of several that complete
    /// together, the first in the list.
    pub(crate) fn find(&self, text: &str, searched: usize) -> Option<Found> {
        let find = |(index, string): (usize, &String)| {
            let start = first_ending_after(text, string, searched)?;
            let stop = StopMatch {
                index,
                string: string.clone(),
            };
            Some(Found {
                start,
                end: start + string.len(),
                stop,
            })
        };
        // `min_by_key` keeps the first of equals, which is the order of the list.
        self.strings
            .iter()
            .enumerate()
            .filter_map(find)
            .min_by_key(|found| found.end)
    }
}

fn first_ending_after(text: &str, string: &str, searched: usize) -> Option<usize> {
    // An occurrence that ends after `searched` starts at this byte or later, and at a character.
    let mut from = (searched + 1).saturating_sub(string.len()).min(text.len());
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].find(string).map(|start| from + start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stops: &[&str], text: &str, searched: usize, expected: Option<(usize, usize)>) {
        let stops = StopStrings::new(stops.iter().map(|it| (*it).to_owned()).collect()).unwrap();
        let found = stops
            .find(text, searched)
            .map(|found| (found.start, found.stop.index));
        assert_eq!(found, expected, "{stops:?} in {text:?} after {searched}");
    }

    #[test]
    fn the_string_that_completes_first_wins_and_ties_go_by_the_list() {
        check(&["cde", "d"], "abcdef", 0, Some((3, 1)));
        check(&["d", "bcd"], "abcdef", 0, Some((3, 0)));
        check(&["bcd", "d"], "abcdef", 0, Some((1, 0)));
        check(&["x"], "abcdef", 0, None);
        check(&[], "abcdef", 0, None);
    }

    #[test]
    fn what_completed_before_does_not_count_and_what_began_before_does() {
        check(&["ab"], "abab", 2, Some((2, 0)));
        check(&["aba"], "ababa", 3, Some((2, 0)));
        check(&["bc"], "abc", 2, Some((1, 0)));
        check(&["bc"], "abc", 3, None);
        check(&["é"], "éé", 2, Some((2, 0)));
        check(&["éx"], "aéx", 3, Some((1, 0)));
    }

    #[test]
    fn lists_that_make_no_sense_are_refused() {
        let new = |strings: Vec<String>| StopStrings::new(strings).unwrap_err();
        assert_eq!(
            new(vec!["a".into(), String::new()]),
            StopError::Empty { index: 1 }
        );
        assert_eq!(new(vec!["a".into(); 65]), StopError::TooMany { count: 65 });
        assert_eq!(
            new(vec!["a".repeat(5000)]),
            StopError::TooLong {
                index: 0,
                bytes: 5000
            }
        );
    }
}
