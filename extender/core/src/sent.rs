//! The bindings that this process sends: whether any may still take effect.

use std::time::Instant;

/// Those without an answer, and those that will never have one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Begun and not ended.
    open: usize,
    /// Until when one whose answer was lost may take effect.
    unsure_until: Option<Instant>,
}

// === impl Sent ===

impl Sent {
    /// One is about to be sent. Called before it is asked whether it may be: what is over is asked in
    /// the other order.
    pub fn begin(&mut self) {
        self.open += 1;
    }

    /// One was answered, or not sent; or nothing is known, and it may take effect until then.
    pub fn end(&mut self, unsure_until: Option<Instant>) {
        self.open = self.open.saturating_sub(1);
        self.unsure_until = self.unsure_until.max(unsure_until);
    }

    /// Whether none may take effect any more.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        self.open == 0 && self.unsure_until.is_none_or(|until| now >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn all_is_over_when_each_was_answered_or_can_take_effect_no_more() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut sent = Sent::default();
        assert!(sent.is_over(start));
        sent.begin();
        sent.begin();
        sent.end(Some(at(3)));
        assert!(!sent.is_over(at(9)), "one has no answer yet");
        sent.end(None);
        assert!(!sent.is_over(at(2)), "the other may still take effect");
        assert!(sent.is_over(at(3)));
    }
}
