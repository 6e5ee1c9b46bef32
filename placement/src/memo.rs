//! Answers that were given before.
//!
//! A choice depends on the shape, the free set and the want alone, and fleets repeat all three: one
//! filter over hundreds of equal nodes asks the same few questions. Dropping everything at any time
//! changes no answer.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::place::Choice;
use crate::refusal::Refusal;
use crate::set::GpuSet;
use crate::want::Want;

/// Answers kept for one shape: a few hundred bytes each, so at most a megabyte or so.
const ANSWERS_MAX: usize = 4_096;

type Answers = HashMap<GpuSet, HashMap<Want, Result<Choice, Refusal>>>;

/// Bounded; emptied when full.
#[derive(Debug, Default)]
pub(crate) struct Memo(Mutex<(usize, Answers)>);

// === impl Memo ===

impl Memo {
    /// The answer kept for this question, else the one that `decide` gives now.
    pub(crate) fn recall(
        &self,
        free: GpuSet,
        want: &Want,
        decide: impl FnOnce() -> Result<Choice, Refusal>,
    ) -> Result<Choice, Refusal> {
        if let Some(answer) = self.get(free, want) {
            return answer;
        }
        // Decided outside the lock: another thread may do the same work, none waits for it.
        let answer = decide();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0 >= ANSWERS_MAX {
            *kept = (0, Answers::new());
        }
        if kept
            .1
            .entry(free)
            .or_default()
            .insert(want.clone(), answer.clone())
            .is_none()
        {
            kept.0 += 1;
        }
        answer
    }

    fn get(&self, free: GpuSet, want: &Want) -> Option<Result<Choice, Refusal>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.1.get(&free)?.get(want).cloned()
    }
}
