//! An extender's reads of pods whose binds no watch confirms, as `extender/src/confirm.rs` makes them.

use std::sync::Arc;
use std::time::Instant;

use berth_extender_core::index::{Confirmed, Unconfirmed};
use k8s_openapi::api::core::v1::Pod;

use crate::api::Api;
use crate::extender::Extender;
use crate::sabotage::Sabotage;

/// One read under way.
#[derive(Debug)]
pub struct Question {
    asked: Unconfirmed,
    pub(crate) began: Instant,
    /// What the API server had when it began.
    then: Option<Arc<Pod>>,
}

/// What an answer shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// What was when the read began.
    Then,
    /// What is.
    Now,
    /// Nothing: it failed.
    Nothing,
}

// === impl Extender ===

impl Extender {
    /// Reads begin, unless earlier ones are under way. How many.
    pub fn begin_confirming(&mut self, api: &Api, now: Instant) -> usize {
        if self.confirming.is_empty() {
            let asked = self.index.unconfirmed(now).into_iter();
            let question = |asked: Unconfirmed| Question {
                then: found(api, &asked),
                asked,
                began: now,
            };
            self.confirming = asked.map(question).collect();
        }
        self.confirming.len()
    }

    /// One of the reads ends. What it was of, and what it says.
    pub fn end_confirming(
        &mut self,
        position: usize,
        shows: Shows,
        api: &Api,
        now: Instant,
    ) -> (String, Confirmed) {
        let Question { asked, began, then } = self.confirming.swap_remove(position);
        let found = match shows {
            Shows::Nothing => return (asked.name, Confirmed::Nothing),
            _ if self.sabotage == Sabotage::ReleasesByTime => None,
            Shows::Then => then,
            Shows::Now => found(api, &asked),
        };
        let found = found.as_deref();
        let says = self.index.confirmed(&asked.uid, found, began, now);
        (asked.name, says)
    }
}

/// What the API server has under that name.
fn found(api: &Api, asked: &Unconfirmed) -> Option<Arc<Pod>> {
    let is_asked = |pod: &&crate::api::PodObject| {
        pod.pod.metadata.name.as_deref() == Some(asked.name.as_str())
    };
    api.live().find(is_asked).map(|pod| pod.pod.clone())
}
