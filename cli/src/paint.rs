//! Colour, for terminals only.

use std::env;
use std::io::IsTerminal;

/// Paints text where stdout is a terminal and `NO_COLOR` is unset or empty (no-color.org).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    is_on: bool,
}

// === impl Paint ===

impl Paint {
    pub(crate) fn for_stdout() -> Self {
        let is_unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            is_on: std::io::stdout().is_terminal() && !is_unwanted,
        }
    }

    /// Paints nothing.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { is_on: false }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.is_on {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
