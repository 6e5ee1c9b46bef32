//! On which nodes pods of each group are: a request for a pod of a group looks at those, not at all.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ahash::RandomState;

use super::Group;
use crate::node::NodeState;

/// Nodes by the groups that hold GPUs there, binds under way included. It says what the nodes' own
/// states say, and nothing more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    by_group: HashMap<Arc<Group>, Arc<BTreeSet<Arc<str>>>, RandomState>,
}

// === impl Members ===

impl Members {
    /// What those nodes' states say.
    #[must_use]
    pub fn of<'a>(nodes: impl Iterator<Item = &'a Arc<NodeState>>) -> Self {
        let mut members = Self::default();
        for node in nodes {
            for group in groups(node) {
                members.add(group, &node.name);
            }
        }
        members
    }

    /// The nodes where pods of that group are, by name.
    pub fn nodes(&self, group: &Group) -> impl Iterator<Item = &Arc<str>> {
        self.by_group
            .get(group)
            .into_iter()
            .flat_map(|nodes| &**nodes)
    }

    fn add(&mut self, group: &Arc<Group>, node: &Arc<str>) {
        let nodes = self.by_group.entry(group.clone()).or_default();
        Arc::make_mut(nodes).insert(node.clone());
    }

    fn remove(&mut self, group: &Arc<Group>, node: &Arc<str>) {
        let Some(nodes) = self.by_group.get_mut(group) else {
            return;
        };
        Arc::make_mut(nodes).remove(node);
        if nodes.is_empty() {
            self.by_group.remove(group);
        }
    }
}

/// A node changed, came or went. Nothing is copied where the same groups are there as before.
pub(crate) fn update(
    members: &mut Arc<Members>,
    before: Option<&NodeState>,
    after: Option<&NodeState>,
) {
    let named = |state: Option<&NodeState>| -> BTreeSet<Arc<Group>> {
        state.into_iter().flat_map(groups).cloned().collect()
    };
    let (were, are) = (named(before), named(after));
    if were == are {
        return;
    }
    let members = Arc::make_mut(members);
    if let Some(before) = before {
        for group in were.difference(&are) {
            members.remove(group, &before.name);
        }
    }
    if let Some(after) = after {
        for group in are.difference(&were) {
            members.add(group, &after.name);
        }
    }
}

fn groups(node: &NodeState) -> impl Iterator<Item = &Arc<Group>> {
    node.holders
        .iter()
        .filter_map(|holder| holder.group.as_ref())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use berth_topology::names;
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::*;

    /// A pod of one of three groups, or of none, that came to a node or went.
    #[derive(Clone, Debug)]
    struct Change {
        pod: u32,
        group: usize,
        node: usize,
        came: bool,
    }

    fn change() -> impl Strategy<Value = Change> {
        (0_u32..8, 0_usize..4, 0_usize..3, any::<bool>()).prop_map(|(pod, group, node, came)| {
            Change {
                pod,
                group,
                node,
                came,
            }
        })
    }

    proptest! {
        #[test]
        fn whatever_comes_and_goes_it_says_what_the_nodes_say(
            changes in prop::collection::vec(change(), 1..40),
        ) {
            let (names, groups) = (["a", "b", "c"], ["", "x", "y", "z"]);
            let mut index = cluster(&names);
            for (step, change) in changes.iter().enumerate() {
                let name = format!("p{}", change.pod);
                if change.came {
                    let mut made = pod(&name, 1);
                    if change.group > 0 {
                        made = annotated(made, names::GROUP_ANNOTATION, groups[change.group]);
                    }
                    index.apply_pod(&bound(made, names[change.node], &[change.pod]));
                } else {
                    index.delete_pod(&format!("u-{name}"));
                }
                // Now and then nobody looks in between.
                if step % 3 == 0 {
                    continue;
                }
                let snapshot = index.snapshot(Instant::now());
                prop_assert_eq!(&*snapshot.members, &Members::of(snapshot.nodes()));
            }
        }
    }
}
