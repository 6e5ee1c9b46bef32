//! Texts from machines and clusters, made harmless: what is printed moves no cursor and has an end.

/// A kernel's command line is rarely longer; what a driver or an object says can be anything.
const CHARS_MAX: usize = 400;

/// Control characters, what turns the direction of writing, and line ends as escapes; the rest cut
/// off.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::new();
    for (count, c) in text.trim().chars().enumerate() {
        if count == CHARS_MAX {
            plain.push('…');
            break;
        }
        match is_harmless(c) {
            true => plain.push(c),
            false => plain.extend(c.escape_default()),
        }
    }
    plain
}

/// Unicode's bidirectional controls and zero-width characters hide or reorder text.
fn is_harmless(c: char) -> bool {
    let hides = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !c.is_control() && !hides
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_move_a_cursor_is_escaped_and_what_is_endless_is_cut() {
        assert_eq!(
            plain(" H100 \x1b[2J\u{202e}x\n"),
            "H100 \\u{1b}[2J\\u{202e}x"
        );
        assert_eq!(plain("Straße „x“ \"q\" \\"), "Straße „x“ \"q\" \\");
        let long = "a".repeat(10_000);
        assert_eq!(plain(&long).chars().count(), CHARS_MAX + 1);
    }
}
