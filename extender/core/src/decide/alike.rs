//! Nodes that look the same to one pod are placed on once in a request.
//!
//! Whatever else decides about a node (its agent's silence, promises, hints, its group's other pods) is
//! asked of each node, before or after.

use std::collections::HashMap;

use ahash::RandomState;
use berth_placement::{Refusal, fit_pod};
use berth_topology::claim::PodClaim;

use super::{Ask, Standing, check_count};
use crate::node::{Room, Topology};
use crate::situation::{Look, Situation};

/// What was found so far for one claim.
#[derive(Debug, Default)]
pub(super) struct Alike<'a> {
    by_look: HashMap<Look<'a>, Result<Standing, Refusal>, RandomState>,
    /// By their address: nodes share them, and they outlive the request.
    by_situation: HashMap<*const Situation, Result<Standing, Refusal>, RandomState>,
}

// === impl Alike ===

impl<'a> Alike<'a> {
    /// How well the claim fits. Always the same claim for the same `Alike`.
    pub(super) fn standing(
        &mut self,
        topology: &'a Topology,
        room: Room,
        claim: &PodClaim,
    ) -> Result<Standing, Refusal> {
        let look = Look::of(topology, room);
        if let Some(known) = self.by_look.get(&look) {
            return known.clone();
        }
        let standing = standing(topology, room, claim);
        self.by_look.insert(look, standing.clone());
        standing
    }

    /// The same for a node that is in that situation, remembered there for other pods too.
    pub(super) fn standing_in(
        &mut self,
        situation: &'a Situation,
        ask: &Ask,
    ) -> Result<Standing, Refusal> {
        let known = self.by_situation.entry(situation);
        let found = known.or_insert_with(|| {
            situation.standings.recall(&ask.claim, || {
                let claim = ask.claim()?;
                situation.topology.check_owner()?;
                standing(&situation.topology, situation.room, claim)
            })
        });
        found.clone()
    }
}

/// Reads of the topology what a [`Look`] holds, and nothing else.
fn standing(topology: &Topology, room: Room, claim: &PodClaim) -> Result<Standing, Refusal> {
    let fit = fit_pod(&topology.machine, topology.free(&room), claim)?;
    check_count(room, topology, claim)?;
    Ok(Standing::of(fit, room, topology, claim))
}

#[cfg(test)]
mod tests {
    use berth_topology::node::NodeTopology;
    use proptest::prelude::*;

    use crate::decide::{self, Preference};
    use crate::fixtures::{
        ask, bound, bound_by_other, cluster, nominated, pod, snapshot, topology,
    };
    use crate::index::Index;

    const NODES: [&str; 6] = ["a", "b", "c", "d", "e", "x"];

    /// One thing that tells a node from others.
    #[derive(Clone, Debug)]
    enum Trait {
        Holds(usize, Vec<u32>),
        HoldsUnknown(usize, usize),
        Fewer(usize, usize),
        Nominated(usize, usize),
        Gone(usize),
    }

    fn one() -> impl Strategy<Value = Trait> {
        let who = || 0..5_usize;
        prop_oneof![
            (
                who(),
                proptest::sample::subsequence(vec![0, 1, 2, 3, 4, 5, 6, 7], 1..5)
            )
                .prop_map(|(who, gpus)| Trait::Holds(who, gpus)),
            (who(), 1..4_usize).prop_map(|(who, count)| Trait::HoldsUnknown(who, count)),
            (who(), 1..4_usize).prop_map(|(who, count)| Trait::Fewer(who, count)),
            (who(), 1..5_usize).prop_map(|(who, count)| Trait::Nominated(who, count)),
            who().prop_map(Trait::Gone),
        ]
    }

    fn apply(index: &mut Index, number: usize, one: &Trait) {
        let name = format!("p{number}");
        match one {
            Trait::Holds(who, gpus) => {
                index.apply_pod(&bound(pod(&name, gpus.len()), NODES[*who], gpus));
            }
            Trait::HoldsUnknown(who, count) => {
                index.apply_pod(&bound_by_other(pod(&name, *count), NODES[*who]));
            }
            Trait::Fewer(who, count) => {
                let mut object: NodeTopology = topology(NODES[*who]);
                if let Some(status) = &mut object.status {
                    status.gpus.truncate(8 - count);
                }
                index.apply_topology(&object);
            }
            Trait::Nominated(who, count) => {
                index.apply_pod(&nominated(pod(&name, *count), NODES[*who]));
            }
            Trait::Gone(who) => index.delete_lease(NODES[*who]),
        }
    }

    proptest! {
        #[test]
        fn nodes_that_are_judged_together_are_judged_as_each_alone(
            traits in proptest::collection::vec(one(), 0..10),
            count in 1..9_usize,
        ) {
            let mut index = cluster(&NODES[..5]);
            for (number, one) in traits.iter().enumerate() {
                apply(&mut index, number, one);
            }
            let snapshot = snapshot(&mut index);
            let ask = ask(&pod("asks", count));
            let together = decide::filter(&snapshot, &ask, &NODES);
            let offered = snapshot.named(NODES);
            let merits = decide::merits(&snapshot, &ask, &offered, Preference::Pack);
            let (mut feasible, mut refused) = (together.feasible(), together.refused());
            for (name, merit) in NODES.iter().zip(merits) {
                match decide::judge(&snapshot, &ask, name) {
                    Ok(standing) => {
                        let told = feasible.next().map(|(one, score)| (one.name, score));
                        prop_assert_eq!(told, Some((*name, standing.score)));
                    }
                    Err(no) => {
                        let told = refused.next().map(|(one, no)| (one.name, no));
                        prop_assert_eq!(told, Some((*name, &no)));
                    }
                }
                let alone = snapshot.named([*name]);
                let alone = decide::merits(&snapshot, &ask, &alone, Preference::Pack);
                prop_assert_eq!(alone, vec![merit]);
            }
        }
    }
}
