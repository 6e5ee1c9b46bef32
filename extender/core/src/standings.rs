//! What was found for the last few claims in one situation.
//!
//! A standing depends on the situation and the claim alone, pods of one Deployment claim the same, and
//! kube-scheduler asks for each of them again and again. Dropping everything at any time changes no
//! answer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use berth_placement::Refusal;

use crate::pod::Claim;
use crate::score::Standing;

/// Claims remembered for one situation, about 100 bytes each. Clusters ask for few sizes at a time.
const CLAIMS_MAX: usize = 8;

/// Bounded; the oldest is dropped when full.
#[derive(Debug, Default)]
pub(crate) struct Standings(Mutex<VecDeque<(Claim, Found)>>);

type Found = Result<Standing, Refusal>;

// === impl Standings ===

impl Standings {
    /// What was found for this claim, else what `find` finds now.
    pub(crate) fn recall(&self, claim: &Claim, find: impl FnOnce() -> Found) -> Found {
        if let Some(found) = self.get(claim) {
            return found;
        }
        // Found outside the lock: another thread may do the same work, none waits for it.
        let found = find();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= CLAIMS_MAX {
            kept.pop_front();
        }
        kept.push_back((claim.clone(), found.clone()));
        found
    }

    fn get(&self, claim: &Claim) -> Option<Found> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest first: requests come in runs of one Deployment's pods.
        let mut known = kept.iter().rev();
        let (_, found) = known.find(|(known, _)| Arc::ptr_eq(known, claim) || known == claim)?;
        Some(found.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::fixtures::{ask, pod};

    #[test]
    fn each_claim_is_found_once_until_as_many_others_came() {
        let standings = Standings::default();
        let count = Cell::new(0);
        let found_for = |gpus: usize| {
            standings.recall(&ask(&pod("any", gpus)).claim, || {
                count.set(count.get() + 1);
                Ok(Standing {
                    free_permille: u32::try_from(gpus).expect("few"),
                    ..Standing::default()
                })
            })
        };
        for gpus in (1..=CLAIMS_MAX).chain(1..=CLAIMS_MAX) {
            assert_eq!(found_for(gpus).unwrap().free_permille as usize, gpus);
        }
        assert_eq!(count.get(), CLAIMS_MAX);
        found_for(CLAIMS_MAX + 1).unwrap();
        found_for(2).unwrap();
        assert_eq!(count.get(), CLAIMS_MAX + 1, "the second is kept");
        found_for(1).unwrap();
        assert_eq!(count.get(), CLAIMS_MAX + 2, "the first was dropped");
        assert_eq!(standings.0.lock().unwrap().len(), CLAIMS_MAX);
    }

    #[test]
    fn a_refusal_is_remembered_too() {
        let standings = Standings::default();
        let claim = ask(&pod("any", 1)).claim;
        let refused = standings.recall(&claim, || Err(Refusal::NotEnoughFree));
        let again = standings.recall(&claim, || Ok(Standing::default()));
        assert_eq!(
            (refused.clone(), again),
            (refused, Err(Refusal::NotEnoughFree))
        );
    }
}
