//! Sequences that wait, in the order of their turns; under fairness a line for each tenant.

use std::collections::{BTreeMap, HashMap};

use crate::batch::SequenceId;
use crate::policy::{Policy, TenantId, Turn};
use crate::sequence::Sequence;

/// Tenants remembered without a request; who comes back later starts as the least served does.
const REMEMBERED_MAX: usize = 4096;

/// All that wait, and what each tenant was served.
#[derive(Debug)]
pub(crate) struct Queue {
    is_fair: bool,
    lines: HashMap<TenantId, Line>,
    waiting_count: usize,
    /// What the one who was present last had been served: nobody starts below that.
    floor: u64,
}

/// One tenant's. Without fairness there is one tenant.
#[derive(Debug, Default)]
struct Line {
    waiting: BTreeMap<Turn, Sequence>,
    /// Sequences that wait or run.
    present_count: usize,
    /// Tokens computed for it; only differences between tenants matter.
    served_count: u64,
}

// === impl Queue ===

impl Queue {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            is_fair: policy == Policy::Fair,
            lines: HashMap::new(),
            waiting_count: 0,
            floor: 0,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.waiting_count
    }

    /// Takes a new sequence in. Who was away has no claim on what others were given meanwhile.
    pub(crate) fn arrive(&mut self, sequence: Sequence) {
        let least = self.least_served();
        self.forget_some();
        let line = self.lines.entry(self.line_of(&sequence)).or_default();
        if line.present_count == 0 {
            line.served_count = line.served_count.max(least);
        }
        line.present_count += 1;
        self.push(sequence);
    }

    /// Takes a sequence back that had to give way; its turn is the old one.
    pub(crate) fn push(&mut self, sequence: Sequence) {
        let line = self.lines.entry(self.line_of(&sequence)).or_default();
        line.waiting.insert(sequence.turn, sequence);
        self.waiting_count += 1;
    }

    /// Whose turn it is.
    pub(crate) fn head(&mut self) -> Option<&mut Sequence> {
        let line = self.lines.get_mut(&self.first_line()?)?;
        line.waiting.values_mut().next()
    }

    pub(crate) fn pop(&mut self) -> Option<Sequence> {
        let line = self.lines.get_mut(&self.first_line()?)?;
        let (_, sequence) = line.waiting.pop_first()?;
        self.waiting_count -= 1;
        Some(sequence)
    }

    /// Takes a sequence out that is not wanted any more.
    pub(crate) fn remove(&mut self, id: SequenceId) -> Option<Sequence> {
        let sequence = self.lines.values_mut().find_map(|line| {
            let mut all = line.waiting.iter();
            let turn = *all.find(|(_, sequence)| sequence.id == id)?.0;
            line.waiting.remove(&turn)
        })?;
        self.waiting_count -= 1;
        self.leave(&sequence);
        Some(sequence)
    }

    /// A sequence ended, wherever it was.
    pub(crate) fn leave(&mut self, sequence: &Sequence) {
        let Some(line) = self.lines.get_mut(&self.line_of(sequence)) else {
            return;
        };
        line.present_count -= 1;
        let served_count = line.served_count;
        if self.lines.values().all(|line| line.present_count == 0) {
            self.floor = self.floor.max(served_count);
        }
    }

    /// Counts what a sequence was given.
    pub(crate) fn charge(&mut self, sequence: &Sequence, token_count: usize) {
        if !self.is_fair {
            return;
        }
        if let Some(line) = self.lines.get_mut(&sequence.tenant) {
            line.served_count += token_count as u64;
        }
    }

    fn line_of(&self, sequence: &Sequence) -> TenantId {
        if self.is_fair {
            sequence.tenant
        } else {
            TenantId::default()
        }
    }

    /// The least served tenant that waits; of equals the one whose turn is first.
    fn first_line(&self) -> Option<TenantId> {
        let heads = self.lines.iter().filter_map(|(tenant, line)| {
            let (turn, _) = line.waiting.first_key_value()?;
            Some((line.served_count, *turn, *tenant))
        });
        heads.min().map(|(_, _, tenant)| tenant)
    }

    fn least_served(&self) -> u64 {
        let present = self.lines.values().filter(|line| line.present_count > 0);
        present
            .map(|line| line.served_count)
            .min()
            .unwrap_or(self.floor)
    }

    fn forget_some(&mut self) {
        if self.lines.len() > REMEMBERED_MAX {
            self.lines.retain(|_, line| line.present_count > 0);
        }
    }
}
