//! Equal values kept once, for as long as somebody uses them.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use ahash::RandomState;

/// What somebody uses. Once there are `SWEEP_AT_MIN`, those that nobody uses any more are looked for.
#[derive(Debug)]
pub(crate) struct Interned<T: ?Sized, const SWEEP_AT_MIN: usize> {
    known: HashSet<Arc<T>, RandomState>,
    sweep_at: usize,
}

// === impl Interned ===

impl<T: ?Sized + Eq + Hash, const SWEEP_AT_MIN: usize> Interned<T, SWEEP_AT_MIN> {
    /// The one that is known, or this.
    pub(crate) fn intern(&mut self, one: Arc<T>) -> Arc<T> {
        if let Some(known) = self.known.get(&one) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at.max(SWEEP_AT_MIN) {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = self.known.len() * 2;
        }
        self.known.insert(one.clone());
        one
    }

    /// How many there are, those that nobody uses any more included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}

impl<T: ?Sized, const SWEEP_AT_MIN: usize> Default for Interned<T, SWEEP_AT_MIN> {
    fn default() -> Self {
        Self {
            known: HashSet::default(),
            sweep_at: 0,
        }
    }
}

impl<T: ?Sized, const SWEEP_AT_MIN: usize> Clone for Interned<T, SWEEP_AT_MIN> {
    /// The values are shared.
    fn clone(&self) -> Self {
        Self {
            known: self.known.clone(),
            sweep_at: self.sweep_at,
        }
    }
}
