//! Sets of CPUs in the kernel's list form, `0-55,112-167`.
//!
//! Kept as runs, so that a list takes no more memory than its text, whatever that names.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The kernel's own limit is 8,192 (`NR_CPUS`); a list from outside may not name more.
pub const CPU_ID_MAX: u32 = 65_535;

/// A set of logical CPUs. Written as a Linux list, empty as `""`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuList(
    /// Ascending, and a CPU is missing between each two: one form for one set.
    Vec<Run>,
);

/// Other small numbers in the same form: of NVLinks, GPUs, NUMA nodes.
pub type NumberList = CpuList;

/// CPUs in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Run {
    first: u32,
    last: u32,
}

/// Why a text is not a CPU list.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A part is neither a number nor a range.
    #[error("CPU list part {0:?} is neither a number nor a range such as 0-7")]
    Part(String),
    /// A range whose end is before its start.
    #[error("CPU range {0:?} ends before it starts")]
    Backwards(String),
    /// A CPU number above [`CPU_ID_MAX`].
    #[error("CPU {0} is above the greatest allowed, {CPU_ID_MAX}")]
    TooLarge(u32),
}

// === impl CpuList ===

impl CpuList {
    /// Whether no CPU is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many CPUs are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(Run::len).sum()
    }

    /// Whether `cpu` is in it.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        let before = self.0.partition_point(|run| run.last < cpu);
        self.0.get(before).is_some_and(|run| run.first <= cpu)
    }

    /// The CPUs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|run| run.first..=run.last)
    }

    /// CPUs in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut mine, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut both = Vec::new();
        while let (Some(&&a), Some(&&b)) = (mine.peek(), theirs.peek()) {
            both.extend(a.overlap(b));
            if a.last < b.last {
                mine.next();
            } else {
                theirs.next();
            }
        }
        Self(both)
    }

    /// CPUs in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::of_runs(self.0.iter().chain(&other.0).copied().collect())
    }

    /// CPUs in `self` that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.intersection(&other.complement())
    }

    /// Whether all of `self` is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.intersection(other) == *self
    }

    /// Every CPU number that is not in it.
    fn complement(&self) -> Self {
        let mut next = Some(0);
        let mut gaps = Vec::new();
        for run in &self.0 {
            gaps.extend(next.and_then(|first| Run::between(first, run.first.checked_sub(1)?)));
            next = run.last.checked_add(1);
        }
        gaps.extend(next.and_then(|first| Run::between(first, u32::MAX)));
        Self(gaps)
    }

    /// In any order, overlapping or not.
    fn of_runs(mut runs: Vec<Run>) -> Self {
        runs.sort_unstable();
        let mut joined: Vec<Run> = Vec::with_capacity(runs.len());
        for run in runs {
            match joined.last_mut() {
                Some(before) if run.first <= before.last.saturating_add(1) => {
                    before.last = before.last.max(run.last);
                }
                _ => joined.push(run),
            }
        }
        Self(joined)
    }
}

// === impl Run ===

impl Run {
    fn between(first: u32, last: u32) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    fn overlap(self, other: Self) -> Option<Self> {
        Self::between(self.first.max(other.first), self.last.min(other.last))
    }

    fn len(&self) -> usize {
        (self.last - self.first) as usize + 1
    }
}

impl FromIterator<u32> for CpuList {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        let one = |cpu| Run {
            first: cpu,
            last: cpu,
        };
        Self::of_runs(cpus.into_iter().map(one).collect())
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, Run { first, last }) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for CpuList {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts = text.trim().split(',').map(str::trim);
        let runs = parts.filter(|part| !part.is_empty()).map(range);
        Ok(Self::of_runs(runs.collect::<Result<_, _>>()?))
    }
}

impl Serialize for CpuList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CpuList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for CpuList {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CpuList".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

fn range(part: &str) -> Result<Run, Error> {
    let number = |text: &str| {
        text.parse::<u32>()
            .map_err(|_| Error::Part(part.to_owned()))
    };
    let (first, last) = match part.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(part)?, number(part)?),
    };
    match (first, last) {
        _ if last > CPU_ID_MAX => Err(Error::TooLarge(last)),
        _ if last < first => Err(Error::Backwards(part.to_owned())),
        (first, last) => Ok(Run { first, last }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Few numbers, so that runs touch and overlap; the greatest there are too.
    fn cpus() -> impl Strategy<Value = BTreeSet<u32>> {
        let cpu = prop_oneof![0_u32..40, (u32::MAX - 3)..=u32::MAX];
        prop::collection::btree_set(cpu, 0..30)
    }

    fn list(cpus: &BTreeSet<u32>) -> CpuList {
        cpus.iter().rev().copied().collect()
    }

    proptest! {
        #[test]
        fn a_list_is_the_set_of_its_cpus(a in cpus(), b in cpus()) {
            let (of_a, of_b) = (list(&a), list(&b));
            prop_assert!(of_a.iter().eq(a.iter().copied()));
            prop_assert_eq!((of_a.len(), of_a.is_empty()), (a.len(), a.is_empty()));
            prop_assert_eq!(of_a.union(&of_b), list(&(&a | &b)));
            prop_assert_eq!(of_a.intersection(&of_b), list(&(&a & &b)));
            prop_assert_eq!(of_a.difference(&of_b), list(&(&a - &b)));
            prop_assert_eq!(of_a.is_subset(&of_b), a.is_subset(&b));
            prop_assert_eq!(of_a == of_b, a == b);
            for cpu in (0..42).chain(u32::MAX - 5..=u32::MAX) {
                prop_assert_eq!(of_a.contains(cpu), a.contains(&cpu), "{}", cpu);
            }
        }

        #[test]
        fn a_text_reads_back_in_whatever_order_its_parts_are(a in cpus(), first in 0_u32..40) {
            let a: BTreeSet<u32> = a.into_iter().filter(|cpu| *cpu <= CPU_ID_MAX).collect();
            let text = list(&a).to_string();
            prop_assert_eq!(text.parse(), Ok(list(&a)));
            let mut parts: Vec<&str> = text.split(',').collect();
            parts.reverse();
            let shuffled = format!("{},{first}-{}", parts.join(","), first + 3);
            let more = list(&(first..=first + 3).collect());
            prop_assert_eq!(shuffled.parse(), Ok(list(&a).union(&more)));
        }
    }

    #[test]
    fn a_list_of_all_cpus_costs_what_its_text_does() {
        let all: CpuList = format!("0-{CPU_ID_MAX}").parse().unwrap();
        assert_eq!((all.len(), all.0.len()), (65_536, 1));
        let text = vec![all.to_string(); 10_000].join(",");
        assert_eq!(text.parse(), Ok(all));
    }
}
