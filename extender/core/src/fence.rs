//! Whether our view of the cluster includes every binding that another replica has made.
//!
//! A list without a resourceVersion is a quorum read: it holds whatever had taken effect when it
//! began. So a list of pods that began after the others had stopped is complete, and so is the watch
//! that goes on from it.

use std::time::Instant;

/// The lists of pods that were begun and that were ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fence {
    /// When the list under way began.
    listing: Option<Instant>,
    /// When the list began that the view stands on.
    listed: Option<Instant>,
}

// === impl Fence ===

impl Fence {
    /// A list is asked for now.
    pub fn begin(&mut self, now: Instant) {
        self.listing = Some(now);
    }

    /// The list is complete, and is what the view shows.
    pub fn end(&mut self) {
        self.listed = self.listing.take().max(self.listed);
    }

    /// The list under way failed.
    pub fn fail(&mut self) {
        self.listing = None;
    }

    /// Whether the view holds what had taken effect by then. Nothing had: any list will do.
    #[must_use]
    pub fn includes(&self, then: Option<Instant>) -> bool {
        self.listed.is_some() && self.listed >= then
    }

    /// Whether a list that would include it is under way or done.
    #[must_use]
    pub fn is_listing_since(&self, then: Option<Instant>) -> bool {
        self.includes(then) || (self.listing.is_some() && self.listing >= then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_list_counts_from_when_it_began_and_only_once_it_is_complete() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut fence = Fence::default();
        assert!(!fence.includes(None), "nothing was listed at all");
        fence.begin(at(1));
        assert!(!fence.includes(None) && fence.is_listing_since(Some(at(1))));
        fence.end();
        assert!(fence.includes(None) && fence.includes(Some(at(1))));
        assert!(!fence.includes(Some(at(2))), "it began too early");
        fence.begin(at(3));
        assert!(fence.is_listing_since(Some(at(2))));
        fence.fail();
        assert!(!fence.is_listing_since(Some(at(2))));
        assert!(fence.includes(Some(at(1))), "the view stays as it was");
    }
}
