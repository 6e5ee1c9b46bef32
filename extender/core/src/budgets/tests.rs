//! Whom a budget selects, and how often it is violated.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

/// Pod `ns/NAME` with those labels, `key=value` each.
fn pod(name: &str, labels: &[&str]) -> Holder {
    let labels = labels.iter().filter_map(|label| label.split_once('='));
    Holder {
        namespace: "ns".to_owned(),
        name: name.to_owned(),
        terms: Arc::new(Terms {
            labels: labels
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
            ..Terms::default()
        }),
        ..Holder::default()
    }
}

fn budget(name: &str, allowed: i32, selector: &Value) -> PodDisruptionBudget {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"selector": selector},
        "status": {"disruptionsAllowed": allowed, "currentHealthy": 0, "desiredHealthy": 0,
            "expectedPods": 0, "disruptedPods": {"gone": "2026-01-01T00:00:00Z"}},
    }))
    .unwrap()
}

#[track_caller]
fn check(budgets: &[PodDisruptionBudget], victims: &[Holder], violating: &[usize]) {
    let mut all = Budgets::default();
    all.reset(budgets);
    let ledger = all.ledger(victims.iter());
    assert_eq!(ledger.violating(0..victims.len()), violating);
}

#[test]
fn a_budget_is_violated_by_those_beyond_what_it_allows_in_order_of_importance() {
    let engines = budget("b", 1, &json!({"matchLabels": {"app": "engine"}}));
    let victims = [
        pod("a", &["app=engine"]),
        pod("b", &["app=engine"]),
        pod("c", &["app=x"]),
    ];
    check(&[engines], &victims, &[1]);
}

#[test]
fn a_pod_of_several_budgets_takes_from_each_and_violates_once() {
    let (one, two) = (
        budget("one", 1, &json!({"matchLabels": {"app": "engine"}})),
        budget(
            "two",
            0,
            &json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}),
        ),
    );
    let victims = [
        pod("a", &["app=engine", "tier=gold"]),
        pod("b", &["app=engine"]),
    ];
    check(&[one, two], &victims, &[0, 1]);
}

#[test]
fn nothing_is_selected_by_no_selector_an_empty_one_or_one_that_cannot_be_read() {
    let unreadable =
        json!({"matchExpressions": [{"key": "app", "operator": "Like", "values": ["e"]}]});
    let valueless = json!({"matchExpressions": [{"key": "app", "operator": "In"}]});
    for selector in [json!(null), json!({}), unreadable, valueless] {
        check(
            &[budget("b", 0, &selector)],
            &[pod("a", &["app=engine"])],
            &[],
        );
    }
}

#[test]
fn labels_are_selected_by_value_presence_and_absence() {
    let select = |operator: &str, values: Value| {
        budget(
            "b",
            0,
            &json!({"matchExpressions": [
            {"key": "app", "operator": operator, "values": values}]}),
        )
    };
    let (engine, other, bare) = (
        pod("a", &["app=engine"]),
        pod("b", &["app=x"]),
        pod("c", &["tier=gold"]),
    );
    let all = [engine, other, bare];
    check(&[select("In", json!(["engine", "y"]))], &all, &[0]);
    check(&[select("NotIn", json!(["engine"]))], &all, &[1, 2]);
    check(&[select("Exists", json!(null))], &all, &[0, 1]);
    check(&[select("DoesNotExist", json!(null))], &all, &[2]);
}

#[test]
fn a_pod_without_labels_another_namespace_and_a_disruption_already_counted_violate_nothing() {
    let everybody = || {
        budget(
            "b",
            0,
            &json!({"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}),
        )
    };
    let elsewhere = Holder {
        namespace: "other".to_owned(),
        ..pod("a", &["app=engine"])
    };
    check(
        &[everybody()],
        &[pod("a", &[]), elsewhere, pod("gone", &["app=engine"])],
        &[],
    );
}

#[test]
fn before_the_budgets_are_listed_every_eviction_counts_as_a_violation() {
    let ledger = Budgets::default().ledger([pod("a", &[]), pod("b", &[])].iter());
    assert_eq!(ledger.violating(0..2), [0, 1]);
}

#[test]
fn a_budget_that_is_changed_or_deleted_counts_as_it_is_now() {
    let mut all = Budgets::default();
    let of = |allowed| budget("b", allowed, &json!({"matchLabels": {"app": "engine"}}));
    all.reset(&[of(0)]);
    let victim = pod("a", &["app=engine"]);
    let count = |all: &Budgets| all.ledger([&victim].into_iter()).violating(0..1).len();
    assert_eq!(count(&all), 1);
    all.apply(&of(1));
    assert_eq!(count(&all), 0);
    all.delete(&of(1));
    assert_eq!(count(&all), 0);
}
