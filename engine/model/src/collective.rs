//! Ranks that are threads of one process exchange through shared memory.
//!
//! A rank that leaves, by a drop or a panic, wakes all others with an error: nobody hangs.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::backend::{Collective, StepError};

/// [`Collective`] over threads: each exchange is one round that all ranks enter and leave.
#[derive(Debug)]
pub struct SharedMemory {
    degree: usize,
    round: Mutex<Round>,
    changed: Condvar,
}

/// The round under way. `number` grows when the last rank arrives.
#[derive(Debug)]
struct Round {
    number: u64,
    /// What each rank brought to this round, by rank.
    brought: Vec<Option<Vec<f32>>>,
    /// The result of the round before. It stays until all ranks have come to the next one, so
    /// every rank has taken its copy by then.
    result: Arc<Vec<f32>>,
    /// Some rank left: no round can end any more.
    broken: bool,
}

// === impl SharedMemory ===

impl SharedMemory {
    /// For `degree` ranks, numbered from 0.
    #[must_use]
    pub fn new(degree: usize) -> Self {
        let round = Round {
            number: 0,
            brought: vec![None; degree],
            result: Arc::new(Vec::new()),
            broken: false,
        };
        Self {
            degree,
            round: Mutex::new(round),
            changed: Condvar::new(),
        }
    }

    fn round(&self) -> MutexGuard<'_, Round> {
        // A poisoned lock only says that a rank panicked here; `leave` tells that better.
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exchange(&self, rank: usize, mine: &[f32]) -> Result<Arc<Vec<f32>>, StepError> {
        let mut round = self.round();
        if round.broken {
            return Err(StepError::PeerGone { rank });
        }
        let entered = round.number;
        round.bring(rank, mine);
        if round.number != entered {
            self.changed.notify_all();
            return Ok(Arc::clone(&round.result));
        }
        let round = self
            .changed
            .wait_while(round, |round| round.number == entered && !round.broken)
            .unwrap_or_else(PoisonError::into_inner);
        if round.number == entered {
            return Err(StepError::PeerGone { rank });
        }
        Ok(Arc::clone(&round.result))
    }
}

impl Collective for SharedMemory {
    fn degree(&self) -> usize {
        self.degree
    }

    fn all_gather(&self, rank: usize, mine: &[f32]) -> Result<Vec<f32>, StepError> {
        self.exchange(rank, mine).map(Arc::unwrap_or_clone)
    }

    fn barrier(&self, rank: usize) -> Result<(), StepError> {
        self.exchange(rank, &[]).map(drop)
    }

    fn leave(&self, _rank: usize) {
        self.round().broken = true;
        self.changed.notify_all();
    }
}

// === impl Round ===

impl Round {
    /// Puts down what `rank` brings; ends the round when it is the last.
    fn bring(&mut self, rank: usize, mine: &[f32]) {
        let place = self
            .brought
            .get_mut(rank)
            .expect("ranks are below the degree");
        assert!(place.is_none(), "rank {rank} is used by two threads");
        *place = Some(mine.to_vec());
        if self.brought.iter().all(Option::is_some) {
            let all = self
                .brought
                .iter_mut()
                .filter_map(Option::take)
                .flatten()
                .collect();
            self.result = Arc::new(all);
            self.number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Runs one closure per rank, each on its thread, and returns their results by rank.
    fn on_ranks<T: Send>(degree: usize, run: impl Fn(&SharedMemory, usize) -> T + Sync) -> Vec<T> {
        let shared = SharedMemory::new(degree);
        thread::scope(|scope| {
            let (run, shared) = (&run, &shared);
            let ranks: Vec<_> = (0..degree)
                .map(|rank| scope.spawn(move || run(shared, rank)))
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn every_rank_gets_all_that_was_brought_in_rank_order_round_after_round() {
        let results = on_ranks(3, |shared, rank| {
            (0..200_u8)
                .map(|round| {
                    let own = f32::from(round) + f32::from(u8::try_from(rank).unwrap()) / 4.0;
                    shared.all_gather(rank, &vec![own; rank + 1]).unwrap()
                })
                .collect::<Vec<_>>()
        });
        for (round, result) in results[0].iter().enumerate() {
            let base = f32::from(u8::try_from(round).unwrap());
            let expected = [
                base,
                base + 0.25,
                base + 0.25,
                base + 0.5,
                base + 0.5,
                base + 0.5,
            ];
            assert_eq!(result, &expected);
        }
        assert!(results.iter().all(|result| *result == results[0]));
    }

    #[test]
    fn a_rank_that_leaves_wakes_those_that_wait_for_it() {
        let results = on_ranks(3, |shared, rank| {
            if rank == 1 {
                shared.leave(rank);
                return Ok(());
            }
            shared.barrier(rank)
        });
        assert!(matches!(results[0], Err(StepError::PeerGone { rank: 0 })));
        assert!(matches!(results[2], Err(StepError::PeerGone { rank: 2 })));
    }

    #[test]
    fn a_round_that_was_complete_is_delivered_even_if_a_rank_leaves_right_after() {
        for _ in 0..200 {
            let results = on_ranks(2, |shared, rank| {
                let result = shared.all_gather(rank, &[1.0]);
                shared.leave(rank);
                result.is_ok()
            });
            assert_eq!(results, [true, true]);
        }
    }
}
