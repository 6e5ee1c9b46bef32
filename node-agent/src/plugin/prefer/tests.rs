//! Which devices are preferred, and why.

use berth_topology::allocation::Allocation;
use berth_topology::names;
use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;

use super::super::fixtures::{
    annotated, dgx_h100, gpus, pod, promised, promises, row, sorted, with_init,
};
use super::*;

fn set(numbers: &str) -> BTreeSet<GpuUuid> {
    gpus(numbers).into_iter().collect()
}

fn answer(pods: Vec<Pod>, rows: &[Allocation], question: &Question) -> Preference {
    prefer(question, &promises(pods, rows), &Machine::new(&dgx_h100()))
}

/// `question` is `SIZE of AVAILABLE` or `SIZE of AVAILABLE with MUST`.
#[track_caller]
fn check(pods: Vec<Pod>, rows: &[Allocation], question: &str, expected: Expect) {
    let (size, rest) = question.split_once(" of ").expect("a size");
    let (available, must) = rest.split_once(" with ").unwrap_or((rest, ""));
    let question = Question {
        available: set(available),
        must_include: set(must),
        size: size.parse().expect("a size"),
    };
    let Preference {
        devices,
        basis,
        pod,
    } = answer(pods, rows, &question);
    let pod = pod.unwrap_or_else(|| "nobody".to_owned());
    expected.assert_eq(&format!("{} by {basis:?} for {pod}", sorted(&devices)));
}

const ALL: &str = "0 1 2 3 4 5 6 7";

#[test]
fn the_first_pod_of_that_size_gets_what_it_was_promised() {
    let pods = vec![
        promised(pod("one", 1), "0"),
        promised(pod("a", 2), "6 3"),
        promised(pod("b", 2), "4 5"),
    ];
    let question = format!("2 of {ALL}");
    check(
        pods.clone(),
        &[],
        &question,
        expect!["3 6 by Promise for default/a"],
    );
    check(
        pods,
        &[row("a", "main", "3 6")],
        "2 of 0 1 2 4 5 7",
        expect!["4 5 by Promise for default/b"],
    );
}

#[test]
fn what_must_be_included_is_in_the_promise_or_the_promise_is_not_given() {
    let pods = || vec![promised(pod("a", 2), "0 1")];
    check(
        pods(),
        &[],
        &format!("2 of {ALL} with 1"),
        expect!["0 1 by Promise for default/a"],
    );
    check(
        pods(),
        &[],
        &format!("2 of {ALL} with 5"),
        expect!["0 5 by Placed for default/a"],
    );
}

#[test]
fn a_set_that_is_not_on_offer_is_swapped_for_one_of_the_same_size() {
    let pods = vec![promised(pod("a", 2), "0 1"), promised(pod("b", 2), "4 5")];
    check(
        pods,
        &[],
        "2 of 4 5 6 7",
        expect!["4 5 by Swap for default/a"],
    );
}

#[test]
fn a_swap_is_not_made_where_one_of_the_two_sets_fails_the_other_pods_requirements() {
    let single = |pod| annotated(pod, names::NUMA, "single");
    // b's NUMA node must be one, a's set is of two
    let pods = vec![
        promised(pod("a", 2), "0 4"),
        single(promised(pod("b", 2), "6 7")),
    ];
    check(
        pods,
        &[],
        "2 of 5 6 7 1",
        expect!["1 5 by Placed for default/a"],
    );
    // a's must be one, b's set is of two
    let pods = vec![
        single(promised(pod("a", 2), "0 1")),
        promised(pod("b", 2), "3 4"),
    ];
    check(
        pods,
        &[],
        "2 of 2 3 4 5 6",
        expect!["5 6 by Placed for default/a"],
    );
}

#[test]
fn who_lost_its_set_in_a_swap_gets_what_the_swap_freed() {
    let pods = vec![promised(pod("a", 2), "0 1"), promised(pod("b", 2), "4 5")];
    check(
        pods,
        &[row("a", "main", "4 5")],
        "2 of 0 1 2 3 6 7",
        expect!["0 1 by Swap for default/b"],
    );
}

#[test]
fn an_init_container_gets_the_first_of_what_its_pod_was_promised() {
    let pods = || vec![promised(with_init(pod("a", 2), "load", 1), "6 3")];
    check(
        pods(),
        &[],
        &format!("1 of {ALL}"),
        expect!["6 by Init for default/a"],
    );
    check(
        pods(),
        &[row("a", "load", "6")],
        &format!("2 of {ALL} with 6"),
        expect!["3 6 by Promise for default/a"],
    );
}

#[test]
fn who_was_promised_nothing_is_kept_off_what_others_were() {
    let pods = vec![pod("foreign", 2), promised(pod("a", 4), "0 1 2 3")];
    check(
        pods.clone(),
        &[],
        &format!("2 of {ALL}"),
        expect!["4 5 by Placed for default/foreign"],
    );
    check(
        pods,
        &[],
        "2 of 0 1 2 3 7",
        expect!["0 1 by Placed for default/foreign"],
    );
    check(
        vec![],
        &[],
        "3 of 1 2 5 6",
        expect!["1 2 5 by Placed for nobody"],
    );
}

#[test]
fn wishes_of_who_was_promised_nothing_are_met_where_they_can_be() {
    let pods = vec![annotated(pod("foreign", 2), names::NUMA, "single")];
    check(
        pods.clone(),
        &[],
        "2 of 0 4 5",
        expect!["4 5 by Placed for default/foreign"],
    );
    check(
        pods,
        &[],
        "2 of 0 4",
        expect!["0 4 by Placed for default/foreign"],
    );
}

#[test]
fn devices_that_the_probe_does_not_know_can_be_preferred() {
    let question = Question {
        available: ["GPU-x", "GPU-y"].map(GpuUuid::from).into(),
        must_include: BTreeSet::new(),
        size: 1,
    };
    let preference = answer(vec![], &[], &question);
    assert_eq!(preference.devices, BTreeSet::from([GpuUuid::from("GPU-x")]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever waits and whatever is on offer: as many as asked for, of what is on offer, with what
    /// must be there.
    #[test]
    fn the_answer_is_always_one_that_the_kubelet_can_follow(
        sizes in proptest::collection::vec((1_usize..=3, any::<bool>()), 0..4),
        offered in 1_u8..,
        must in any::<u8>(),
        size in 1_usize..=4,
    ) {
        let bits = |bits: u8| (0..8).filter(move |bit| bits >> bit & 1 == 1).map(|bit| bit.to_string());
        let text = |bits: Vec<String>| bits.join(" ");
        let available = set(&text(bits(offered).collect()));
        prop_assume!(available.len() >= size);
        let must: Vec<String> = bits(must & offered).take(size).collect();
        let mut first = 0;
        let pods = sizes.iter().enumerate().map(|(number, (count, is_promised))| {
            let plain = pod(&format!("p{number}"), *count);
            let ranks: Vec<String> = (first..first + count).map(|gpu| (gpu % 8).to_string()).collect();
            first += count;
            if *is_promised && first <= 8 { promised(plain, &text(ranks)) } else { plain }
        });
        let pods = pods.collect();
        let question = Question { available, must_include: set(&text(must)), size };
        let preference = answer(pods, &[], &question);
        prop_assert!(question.admits(&preference.devices), "{question:?} {preference:?}");
    }
}
