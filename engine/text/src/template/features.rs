//! What a template uses by name: filters, tests and functions, found without running it.
//!
//! Jinja looks a name up when its line is reached, so that a branch that few conversations take
//! would fail in the middle of service. Here all are looked up when the template is loaded.

use std::collections::BTreeSet;
use std::fmt;

use minijinja::{Environment, ErrorKind};

/// Words before a bracket that call nothing, and names that blocks bring along.
const NO_FUNCTIONS: [&str; 16] = [
    "and", "or", "not", "in", "is", "if", "elif", "else", "for", "set", "call", "filter", "with",
    "do", "caller", "super",
];

/// Something that a template uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Feature {
    pub(super) kind: Kind,
    pub(super) name: String,
}

/// What it uses it as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Filter,
    Test,
    Function,
}

/// A word or a mark of a tag; texts and numbers are left out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    Name(&'a str),
    Mark(char),
}

/// The first feature of `source` that neither `environment` nor the template itself has.
/// `variables`: further functions that each rendering gets.
pub(super) fn unknown(
    source: &str,
    environment: &Environment<'_>,
    variables: &[&str],
) -> Option<Feature> {
    let tags = tags(source);
    let own = defined(&tags);
    let mut used = BTreeSet::new();
    for tag in &tags {
        collect(tag, &mut used);
    }
    used.into_iter().find(|feature| {
        let name = feature.name.as_str();
        let is_own = own.contains(name) || variables.contains(&name);
        let is_own = feature.kind == Kind::Function && is_own;
        !(is_own || has(environment, feature))
    })
}

/// Marks of what the model said, for training: they change nothing of the text. Other programs
/// give `generation` blocks to Jinja; here they are blocks that are always taken.
pub(super) fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start + 2..].find("%}") else {
            break;
        };
        let length = length + 2;
        let (before, tag) = rest[..start + length].split_at(start);
        out.push_str(before);
        match tag[2..].trim_matches(['-', '+']).trim() {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    out
}

/// Asks the engine itself, by using the feature on nothing.
fn has(environment: &Environment<'_>, feature: &Feature) -> bool {
    let name = &feature.name;
    let (expression, unknown) = match feature.kind {
        Kind::Filter => (format!("none|{name}"), ErrorKind::UnknownFilter),
        Kind::Test => (format!("none is {name}"), ErrorKind::UnknownTest),
        Kind::Function => (format!("{name} is defined"), ErrorKind::UnknownFunction),
    };
    let result = environment
        .compile_expression(&expression)
        .and_then(|expression| expression.eval(()));
    match result {
        Ok(value) => feature.kind != Kind::Function || value.is_true(),
        Err(error) => error.kind() != unknown,
    }
}

/// Macros and variables that the template makes, and what it asks for before it uses it.
fn defined<'a>(tags: &[Vec<Token<'a>>]) -> BTreeSet<&'a str> {
    let made = |tag: &Vec<Token<'a>>| match tag[..] {
        [Token::Name("macro" | "set" | "for"), Token::Name(name), ..] => Some(name),
        _ => None,
    };
    let asked = |three: &[Token<'a>]| match three {
        [Token::Name(name), Token::Name("is"), Token::Name("defined")] => Some(*name),
        _ => None,
    };
    let all_asked = tags.iter().flat_map(|tag| tag.windows(3).filter_map(asked));
    tags.iter().filter_map(made).chain(all_asked).collect()
}

fn collect(tag: &[Token<'_>], used: &mut BTreeSet<Feature>) {
    let mut add = |kind, name: &str| {
        used.insert(Feature {
            kind,
            name: name.to_owned(),
        });
    };
    if let [Token::Name("filter"), Token::Name(name), ..] = tag {
        add(Kind::Filter, name);
    }
    for (at, token) in tag.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| tag[at]);
        match (token, tag.get(at + 1), tag.get(at + 2)) {
            (Token::Mark('|'), Some(Token::Name(name)), _)
            // A negated test has one word more.
            | (Token::Name("is"), Some(Token::Name("not")), Some(Token::Name(name)))
            | (Token::Name("is"), Some(Token::Name(name)), _) => {
                let is_filter = *token == Token::Mark('|');
                add(if is_filter { Kind::Filter } else { Kind::Test }, name);
            }
            (Token::Name(name), Some(Token::Mark('(')), _) => {
                let is_other = matches!(
                    before,
                    Some(Token::Mark('.' | '|') | Token::Name("is" | "macro" | "filter"))
                ) || is_negated_test(tag, at);
                if !is_other && !NO_FUNCTIONS.contains(name) {
                    add(Kind::Function, name);
                }
            }
            _ => {}
        }
    }
}

fn is_negated_test(tag: &[Token<'_>], at: usize) -> bool {
    at >= 2 && tag[at - 2..at] == [Token::Name("is"), Token::Name("not")]
}

/// The words and marks of each tag.
fn tags(source: &str) -> Vec<Vec<Token<'_>>> {
    let mut tags = Vec::new();
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let inside = &rest[start + 1..];
        let end = match inside.chars().next() {
            Some('#') => inside.find("#}").map_or(inside.len(), |end| end + 2),
            Some('{' | '%') => {
                let (tag, length) = tokens(&inside[1..]);
                let is_raw = tag.first() == Some(&Token::Name("raw"));
                tags.push(tag);
                let end = 1 + length;
                if is_raw {
                    inside.find("endraw").unwrap_or(inside.len())
                } else {
                    end
                }
            }
            _ => 0,
        };
        rest = &inside[end..];
    }
    tags
}

/// The tokens of a tag up to its end, and how long it is.
fn tokens(code: &str) -> (Vec<Token<'_>>, usize) {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(next) = code[at..].chars().next() {
        let rest = &code[at..];
        if rest.starts_with("}}") || rest.starts_with("%}") {
            return (tokens, at + 2);
        }
        at += match next {
            '\'' | '"' => text_length(rest, next),
            _ if next.is_alphanumeric() || next == '_' => {
                let is_end = |c: char| !(c.is_alphanumeric() || c == '_');
                let length = rest.find(is_end).unwrap_or(rest.len());
                if !next.is_ascii_digit() {
                    tokens.push(Token::Name(&rest[..length]));
                }
                length
            }
            _ => {
                let is_dash = next == '-' && tokens.is_empty();
                if !(is_dash || next.is_whitespace()) {
                    tokens.push(Token::Mark(next));
                }
                next.len_utf8()
            }
        };
    }
    (tokens, at)
}

/// Of a text in quotes, with them.
fn text_length(code: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, character) in code.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    code.len()
}

// === impl Kind ===

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filter => "filter",
            Self::Test => "test",
            Self::Function => "function",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(source: &str, expected: Option<(Kind, &str)>) {
        let environment = super::super::functions::environment();
        let found = unknown(source, &environment, &["strftime_now"]);
        let found = found.map(|feature| (feature.kind, feature.name));
        let expected = expected.map(|(kind, name)| (kind, name.to_owned()));
        assert_eq!(found, expected, "{source}");
    }

    #[test]
    fn what_models_use_is_known() {
        check("{{ messages | tojson(indent=4) | trim }} | nothing", None);
        check(
            "{%- if x is not string and (y is mapping) -%}{% endif %}",
            None,
        );
        check(
            "{% macro turn(m) %}{{ m }}{% endmacro %}{{ turn(1) }}",
            None,
        );
        check(
            "{{ strftime_now('%d') }}{{ raise_exception('a|b is c(d)') }}",
            None,
        );
        check(
            "{% set ns = namespace(found=false) %}{{ ns.items() }}",
            None,
        );
        check(
            "{# x | frobnicate #}{% raw %}{{ x|y }}{% endraw %}{{ 1 }}",
            None,
        );
        check(
            "{{ x['a'].split('|')[-1].strip() }}{{ range(3)|list }}",
            None,
        );
        check("{% if extra is defined %}{{ extra(1) }}{% endif %}", None);
        check(
            "{% for m in loop_messages if not (m is defined) %}{% endfor %}",
            None,
        );
    }

    #[test]
    fn the_usual_filters_tests_and_functions_are_known() {
        let tests = "none true false string mapping iterable sequence number boolean defined \
                     undefined even odd divisibleby(2) eq(1) equalto(1) sameas(1)";
        for test in tests.split_whitespace() {
            check(
                &format!("{{{{ x is {test} }}}}{{{{ x is not {test} }}}}"),
                None,
            );
        }
        let filters = "tojson trim length upper lower capitalize title string default first last \
                       safe replace dictsort list int float sort reverse unique map select reject \
                       selectattr rejectattr join items batch round escape e indent count min max \
                       sum split";
        for filter in filters.split_whitespace() {
            check(&format!("{{{{ x|{filter} }}}}"), None);
        }
        for function in [
            "namespace",
            "range",
            "dict",
            "raise_exception",
            "strftime_now",
        ] {
            check(&format!("{{{{ {function}() }}}}"), None);
        }
    }

    #[test]
    fn what_is_unknown_is_found_in_any_branch() {
        check(
            "{% if false %}{{ x|frobnicate }}{% endif %}",
            Some((Kind::Filter, "frobnicate")),
        );
        check(
            "{% filter shout %}a{% endfilter %}",
            Some((Kind::Filter, "shout")),
        );
        check(
            "{{ 1 if x is not quaint else 2 }}",
            Some((Kind::Test, "quaint")),
        );
        check("{{ strptime('a') }}", Some((Kind::Function, "strptime")));
    }

    #[test]
    fn generation_marks_become_blocks_that_are_taken() {
        let source = "a{%- generation -%} b {% endgeneration %}{% if generation %}{% endif %}";
        assert_eq!(
            without_generation_marks(source),
            "a{%- if true -%} b {% endif %}{% if generation %}{% endif %}"
        );
        assert_eq!(without_generation_marks("{% generation"), "{% generation");
    }

    proptest! {
        /// Any text, and any that looks like a template.
        #[test]
        fn it_ends_whatever_the_text(
            parts in prop::collection::vec(
                prop_oneof![
                    prop::sample::select(vec!["{{", "}}", "{%", "%}", "{#", "|", "is", "'", "\\", "raw", "ü("])
                        .prop_map(str::to_owned),
                    any::<String>(),
                ],
                0..12,
            ),
        ) {
            let source = parts.concat();
            let environment = super::super::functions::environment();
            unknown(&source, &environment, &[]);
            without_generation_marks(&source);
        }
    }
}
