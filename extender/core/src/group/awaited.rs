//! How much pods of each group still ask for: what the first of them should find room for.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Group;
use crate::pod::PodRecord;

/// GPUs that pods ask for which have no node yet, by group.
///
/// kube-scheduler holds the pods of a PodGroup back until as many exist as its `minCount` says, so
/// that this is at least that much when the first is tried. Pods with the annotation may be created
/// one after the other: for them it is what is known so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Awaited {
    gpu_counts: HashMap<Arc<Group>, usize>,
}

// === impl Awaited ===

impl Awaited {
    /// What that group's pods ask for together.
    #[must_use]
    pub fn gpu_count(&self, group: &Group) -> usize {
        self.gpu_counts.get(group).copied().unwrap_or_default()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gpu_counts.is_empty()
    }

    /// Of that group alone.
    #[must_use]
    pub fn only(&self, group: Option<&Group>) -> Self {
        let known = group.and_then(|group| self.gpu_counts.get_key_value(group));
        let gpu_counts = known.map(|(group, count)| (group.clone(), *count));
        Self {
            gpu_counts: gpu_counts.into_iter().collect(),
        }
    }

    /// A pod is there.
    pub(crate) fn add(&mut self, group: &Arc<Group>, gpu_count: usize) {
        *self.gpu_counts.entry(group.clone()).or_default() += gpu_count;
    }

    /// A pod that was there is gone, or has a node.
    pub(crate) fn remove(&mut self, group: &Arc<Group>, gpu_count: usize) {
        let Some(left) = self.gpu_counts.get_mut(group) else {
            return;
        };
        *left = left.saturating_sub(gpu_count);
        if *left == 0 {
            self.gpu_counts.remove(group);
        }
    }
}

/// The group of a pod that waits for a node, and how much it asks for.
pub(crate) fn waiting(record: &PodRecord) -> Option<(&Arc<Group>, usize)> {
    let holder = &record.holder;
    let waits = record.node.is_none() && !record.is_finished && !holder.terms.is_terminating;
    let group = holder.group.as_ref().filter(|_| waits)?;
    Some((group, holder.gpu_count))
}

/// As pairs: JSON has no maps whose keys are objects.
impl Serialize for Awaited {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let pairs = self.gpu_counts.iter();
        to.collect_seq(pairs.map(|(group, count)| (group.as_ref(), *count)))
    }
}

impl<'de> Deserialize<'de> for Awaited {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let pairs = Vec::<(Group, usize)>::deserialize(from)?;
        let gpu_counts = pairs.into_iter();
        let gpu_counts = gpu_counts.map(|(group, count)| (Arc::new(group), count));
        Ok(Self {
            gpu_counts: gpu_counts.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::fixtures::*;
    use crate::index::Index;

    fn wanted(index: &mut Index) -> usize {
        let of_group = annotated(pod("any", 1), "berth.dev/group", "g");
        let awaited = snapshot(index).awaited;
        ask(&of_group)
            .group
            .map_or(0, |group| awaited.gpu_count(&group))
    }

    #[test]
    fn pods_count_once_and_only_while_they_wait() {
        let mut index = cluster(&["a"]);
        let of_group = |name: &str| annotated(pod(name, 2), "berth.dev/group", "g");
        for name in ["p", "q", "r", "s", "p"] {
            index.apply_pod(&of_group(name));
        }
        index.apply_pod(&pod("alone", 2));
        assert_eq!(wanted(&mut index), 8);
        index.apply_pod(&bound(of_group("p"), "a", &[0, 1]));
        index.apply_pod(&in_phase(of_group("q"), "Failed"));
        index.apply_pod(&terminating(of_group("r")));
        assert_eq!(wanted(&mut index), 2);
        index.delete_pod("u-s");
        index.delete_pod("u-p");
        assert!(snapshot(&mut index).awaited.is_empty());
    }
}
