//! PodDisruptionBudgets, and how many of a list of victims they would be violated by.
//!
//! As kube-scheduler counts (`filterPodsWithPDBViolation` in
//! `pkg/scheduler/framework/preemption/util.go`): victims are taken in order of importance, each takes
//! one disruption of every budget that selects it, and one that finds a budget without any left
//! violates. Up to 1.36 a violating pod took from its other budgets too; since 1.37 it does not, which
//! makes the count depend on the order of the budgets, and that order is a Go map's. We count as before.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use serde::{Deserialize, Serialize};

use crate::pod::{Holder, Terms};

/// Every budget that can select anything.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Budgets {
    /// All were listed once. Until then every eviction counts as one that violates.
    is_synced: bool,
    #[serde(with = "pairs")]
    by_name: BTreeMap<(String, String), Budget>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Budget {
    allowed: i32,
    /// Pods whose disruption the API server has counted already, by name.
    disrupted: BTreeSet<String>,
    requirements: Vec<Requirement>,
}

/// One condition on a label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Requirement {
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Exists(String),
    Absent(String),
}

/// How victims stand to the budgets that select any of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    allowed: Vec<i32>,
    /// Positions in `allowed`, by victim.
    taken: Vec<Vec<usize>>,
}

// === impl Budgets ===

impl Budgets {
    /// A budget was added or changed.
    pub fn apply(&mut self, object: &PodDisruptionBudget) {
        match Budget::read(object) {
            Some(budget) => self.by_name.insert(key(object), budget),
            None => self.by_name.remove(&key(object)),
        };
    }

    /// A budget was deleted.
    pub fn delete(&mut self, object: &PodDisruptionBudget) {
        self.by_name.remove(&key(object));
    }

    /// All budgets, after the watch started again; others are gone.
    pub fn reset(&mut self, objects: &[PodDisruptionBudget]) {
        self.by_name.clear();
        self.is_synced = true;
        for object in objects {
            self.apply(object);
        }
    }

    /// Whether all were listed once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// Those of them that any of these pods takes from: whoever of the pods leaves, the count is the same.
    pub(crate) fn over<'a>(&self, holders: impl Iterator<Item = &'a Holder>) -> Self {
        let mut over = Self {
            is_synced: self.is_synced,
            by_name: BTreeMap::new(),
        };
        for holder in holders {
            for (name, budget) in self.taken_by(holder) {
                over.by_name
                    .entry(name.clone())
                    .or_insert_with(|| budget.clone());
            }
        }
        over
    }

    /// What they hold, about.
    pub(crate) fn bytes(&self) -> usize {
        self.by_name.values().map(Budget::bytes).sum()
    }

    /// The budgets that a pod takes from when it leaves.
    fn taken_by<'a>(
        &'a self,
        holder: &'a Holder,
    ) -> impl Iterator<Item = (&'a (String, String), &'a Budget)> {
        let in_namespace = (holder.namespace.clone(), String::new())..;
        let budgets = self.by_name.range(in_namespace);
        let budgets = budgets.take_while(|((namespace, _), _)| *namespace == holder.namespace);
        budgets.filter(|(_, budget)| budget.is_taken_by(holder))
    }

    /// How those pods, the most important first, stand to the budgets.
    pub(crate) fn ledger<'a>(&self, victims: impl Iterator<Item = &'a Holder>) -> Ledger {
        let mut ledger = Ledger::default();
        if !self.is_synced {
            // One budget that allows nothing, and selects everybody.
            ledger.allowed.push(0);
            ledger.taken = victims.map(|_| vec![0]).collect();
            return ledger;
        }
        let mut positions = BTreeMap::new();
        for victim in victims {
            let taken = self.taken_by(victim).map(|(name, budget)| {
                *positions.entry(name).or_insert_with(|| {
                    ledger.allowed.push(budget.allowed);
                    ledger.allowed.len() - 1
                })
            });
            let taken = taken.collect();
            ledger.taken.push(taken);
        }
        ledger
    }
}

/// Each with its name: JSON has no maps whose keys are pairs.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::Budget;

    type ByName = BTreeMap<(String, String), Budget>;

    pub(super) fn serialize<S: Serializer>(by_name: &ByName, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(by_name)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ByName, D::Error> {
        let pairs = Vec::<((String, String), Budget)>::deserialize(from)?;
        Ok(pairs.into_iter().collect())
    }
}

fn key(object: &PodDisruptionBudget) -> (String, String) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    (
        text(&object.metadata.namespace),
        text(&object.metadata.name),
    )
}

// === impl Budget ===

impl Budget {
    /// `None` for one that selects nothing: no selector, an empty one, or one that cannot be read.
    fn read(object: &PodDisruptionBudget) -> Option<Self> {
        let selector = object.spec.as_ref()?.selector.as_ref()?;
        let requirements = requirements(selector)?;
        let status = object.status.clone().unwrap_or_default();
        let disrupted = status.disrupted_pods.unwrap_or_default();
        (!requirements.is_empty()).then(|| Self {
            allowed: status.disruptions_allowed.unwrap_or(0),
            disrupted: disrupted.into_keys().collect(),
            requirements,
        })
    }

    fn bytes(&self) -> usize {
        let disrupted: usize = self.disrupted.iter().map(|name| name.len() + 32).sum();
        size_of::<Self>() + disrupted + 128 * (1 + self.requirements.len())
    }

    fn is_taken_by(&self, victim: &Holder) -> bool {
        let terms = &victim.terms;
        !terms.labels.is_empty()
            && !self.disrupted.contains(&victim.name)
            && self.requirements.iter().all(|one| one.matches(terms))
    }
}

fn requirements(selector: &LabelSelector) -> Option<Vec<Requirement>> {
    let labels = selector.match_labels.iter().flatten();
    let equal = labels.map(|(key, value)| {
        Some(Requirement::In(
            key.clone(),
            BTreeSet::from([value.clone()]),
        ))
    });
    let expressions = selector.match_expressions.iter().flatten();
    equal.chain(expressions.map(Requirement::read)).collect()
}

// === impl Requirement ===

impl Requirement {
    fn read(expression: &LabelSelectorRequirement) -> Option<Self> {
        let key = expression.key.clone();
        let values: BTreeSet<String> = expression.values.iter().flatten().cloned().collect();
        match (expression.operator.as_str(), values.is_empty()) {
            ("In", false) => Some(Self::In(key, values)),
            ("NotIn", false) => Some(Self::NotIn(key, values)),
            ("Exists", true) => Some(Self::Exists(key)),
            ("DoesNotExist", true) => Some(Self::Absent(key)),
            _ => None,
        }
    }

    fn matches(&self, terms: &Terms) -> bool {
        match self {
            Self::In(key, values) => terms.label(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => {
                !terms.label(key).is_some_and(|value| values.contains(value))
            }
            Self::Exists(key) => terms.label(key).is_some(),
            Self::Absent(key) => terms.label(key).is_none(),
        }
    }
}

// === impl Ledger ===

impl Ledger {
    /// Which of these victims violate a budget, by their positions, the most important first.
    pub(crate) fn violating(&self, victims: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut left = self.allowed.clone();
        let mut violates = |victim: &usize| {
            let mut is_violating = false;
            for budget in &self.taken[*victim] {
                left[*budget] = left[*budget].saturating_sub(1);
                is_violating |= left[*budget] < 0;
            }
            is_violating
        };
        victims.filter(|victim| violates(victim)).collect()
    }
}

#[cfg(test)]
mod tests;
