//! Small clusters, and in which order their nodes come for a pod.

use berth_topology::names;
use k8s_openapi::api::core::v1::{Pod, PodSchedulingGroup};
use proptest::prelude::*;

use super::*;
use crate::decide::{self, Preference};
use crate::fixtures::*;
use crate::index::Index;

/// `b > a = c`: the nodes that fit, best first.
fn order(index: &mut Index, pod: &Pod, preference: Preference) -> String {
    let snapshot = snapshot(index);
    let names: Vec<&str> = snapshot.nodes.keys().map(AsRef::as_ref).collect();
    let offered = snapshot.named(names);
    let scores = decide::prioritize(&snapshot, &ask(pod), &offered, preference);
    let scores = scores.iter().map(|(one, score)| (one.name, *score));
    let mut scores: Vec<_> = scores.collect();
    scores.retain(|(_, score)| *score > 0);
    scores.sort_by(|(a, a_score), (b, b_score)| b_score.cmp(a_score).then(a.cmp(b)));
    let mut text = String::new();
    let mut above = None;
    for (name, score) in &scores {
        let sign = match above {
            None => "",
            Some(above) if above == *score => " = ",
            Some(_) => " > ",
        };
        text.extend([sign, name]);
        above = Some(*score);
    }
    text
}

#[track_caller]
fn check(index: &mut Index, pod: &Pod, expected: &str) {
    assert_eq!(order(index, pod, Preference::Pack), expected);
}

/// The node's GPUs lose their NVLinks.
fn without_nvlink(index: &mut Index, name: &str, gpu_count: u32) {
    let mut plain = topology(name);
    let mut status = status(name, gpu_count);
    status.links.iter_mut().for_each(|link| link.nvlink = None);
    status.gpus.iter_mut().for_each(|gpu| gpu.nvlink = None);
    plain.status = Some(status);
    index.apply_topology(&plain);
}

fn of_group(pod: Pod) -> Pod {
    annotated(pod, names::GROUP_ANNOTATION, "prefill")
}

#[test]
fn the_better_set_comes_first() {
    let mut index = cluster(&["a", "b"]);
    index.apply_pod(&bound(pod("p", 4), "a", &[0, 1, 4, 5]));
    check(&mut index, &pod("q", 4), "b > a");
}

#[test]
fn of_nodes_at_their_best_the_one_with_nvlink_comes_first() {
    let mut index = cluster(&["a", "b"]);
    without_nvlink(&mut index, "b", 4);
    check(&mut index, &pod("p", 4), "a > b");
}

#[test]
fn nvlink_at_half_of_its_best_comes_before_a_machine_without_nvlink_at_its_best() {
    let standing = |score, link| Standing {
        score,
        link,
        kept_permille: 1_000,
        ..Standing::default()
    };
    let merit = |score, link| standing(score, link).merit(0, Preference::Pack);
    assert!(merit(6, LinkClass::NvLink) > merit(10, LinkClass::Switch));
    assert!(merit(4, LinkClass::NvLink) > merit(10, LinkClass::Numa));
    assert!(merit(1, LinkClass::NvLink) > merit(10, LinkClass::Any));
}

#[test]
fn a_wish_outweighs_everything_else() {
    let mut index = cluster(&["a", "b"]);
    without_nvlink(&mut index, "b", 4);
    index.apply_pod(&of_group(bound(pod("mate", 1), "b", &[0])));
    index.apply_pod(&bound(pod("other", 6), "a", &[0, 1, 4, 5, 6, 7]));
    let mate = of_group(pod("p", 1));
    check(&mut index, &mate, "b > a");
    let wishing = annotated(of_group(pod("p", 2)), names::LINK, "nvlink");
    check(&mut index, &wishing, "a > b");
}

#[test]
fn pods_are_packed_so_that_whole_nodes_stay_free_or_spread_where_configured() {
    let mut index = cluster(&["a", "b", "c"]);
    index.apply_pod(&bound(pod("one", 1), "a", &[0]));
    index.apply_pod(&bound(pod("four", 4), "b", &[0, 1, 2, 3]));
    let pod = pod("p", 1);
    // On a it breaks only what is broken, on b a quad, on c the whole node.
    check(&mut index, &pod, "a > b > c");
    let spread = order(&mut index, &pod, Preference::Spread);
    assert_eq!(spread, "c > a > b");
}

#[test]
fn a_quad_fills_a_small_machine_before_it_breaks_a_large_one() {
    let mut index = cluster(&["large", "small"]);
    let mut small = topology("small");
    small.status = Some(status("small", 4));
    index.apply_topology(&small);
    check(&mut index, &pod("p", 4), "small > large");
}

#[test]
fn a_single_gpu_goes_where_it_breaks_least() {
    let mut index = cluster(&["a", "b"]);
    index.apply_pod(&bound(pod("four", 4), "a", &[0, 1, 2, 3]));
    index.apply_pod(&bound(pod("seven", 7), "b", &[0, 1, 2, 3, 4, 5, 6]));
    check(&mut index, &pod("p", 1), "b > a");
}

#[test]
fn a_group_is_drawn_to_its_fabric_clique_then_to_its_rack() {
    let mut index = cluster(&["a", "b", "c", "d"]);
    for (name, clique) in [("a", 1), ("b", 1), ("c", 2), ("d", 2)] {
        in_clique(&mut index, name, clique, "completed");
    }
    for (name, rack) in [("a", "r1"), ("b", "r2"), ("c", "r1"), ("d", "r2")] {
        index.apply_node(&in_rack(name, rack));
    }
    let first = of_group(pod("p", 8));
    check(&mut index, &first, "a = b = c = d");
    let all = [0, 1, 2, 3, 4, 5, 6, 7];
    index.apply_pod(&of_group(bound(pod("mate", 8), "a", &all)));
    check(&mut index, &first, "b > c > d");
    check(&mut index, &pod("alone", 8), "b = c = d");
    index.apply_pod(&in_phase(
        of_group(bound(pod("mate", 8), "a", &all)),
        "Succeeded",
    ));
    check(&mut index, &first, "a = b = c = d");
}

/// Nodes in cliques by number, where it is not 0, and racks where they are named.
fn grouped(nodes: &[(&str, u32, &str)], waiting: &[&Pod]) -> Index {
    let names: Vec<&str> = nodes.iter().map(|(name, ..)| *name).collect();
    let mut index = cluster(&names);
    for (name, clique, rack) in nodes {
        if *clique > 0 {
            in_clique(&mut index, name, *clique, "completed");
        }
        if !rack.is_empty() {
            index.apply_node(&in_rack(name, rack));
        }
    }
    for pod in waiting {
        index.apply_pod(&of_group((*pod).clone()));
    }
    index
}

#[test]
fn the_first_of_a_group_goes_where_the_others_find_room_though_fuller_nodes_are_elsewhere() {
    let four = |name: &str| pod(name, 4);
    let cliques = [("a", 1, ""), ("b", 1, ""), ("c", 2, ""), ("d", 2, "")];
    let mut index = grouped(&cliques, &[&four("p"), &four("q"), &four("r"), &four("s")]);
    for node in ["a", "b"] {
        index.apply_pod(&bound(pod(&format!("on-{node}"), 4), node, &[0, 1, 2, 3]));
    }
    check(&mut index, &four("alone"), "a = b > c = d");
    // Two quads are free in the first clique, and four are wanted.
    check(&mut index, &of_group(four("p")), "c = d > a = b");
    check(&mut index, &of_group(four("q")), "c = d > a = b");
    index.delete_pod("u-r");
    index.delete_pod("u-s");
    check(&mut index, &of_group(four("p")), "a = b > c = d");
}

#[test]
fn of_cliques_with_room_for_the_whole_group_the_smallest_is_taken_by_all_its_pods() {
    let (p, q) = (pod("p", 8), pod("q", 8));
    let large = [
        ("a", 1, ""),
        ("b", 1, ""),
        ("c", 1, ""),
        ("d", 2, ""),
        ("e", 2, ""),
    ];
    let mut index = grouped(&large, &[&p, &q]);
    check(&mut index, &of_group(p.clone()), "d = e > a = b = c");
    // Of equal ones all pods take the same, packing or not.
    let equal = [("a", 1, ""), ("b", 1, ""), ("c", 2, ""), ("d", 2, "")];
    let mut index = grouped(&equal, &[&pod("p", 4), &pod("q", 4), &pod("r", 4)]);
    index.apply_pod(&bound(pod("other", 4), "c", &[0, 1, 2, 3]));
    check(&mut index, &of_group(pod("p", 4)), "c > d > a = b");
    index.apply_pod(&bound(pod("more", 4), "d", &[0, 1, 2, 3]));
    check(&mut index, &of_group(pod("q", 4)), "a = b > c = d");
}

#[test]
fn half_a_place_is_none_and_silent_or_broken_nodes_have_none() {
    let four = |name: &str| of_group(pod(name, 4));
    let cliques = [("a", 1, ""), ("b", 1, ""), ("c", 2, ""), ("d", 2, "")];
    let mut index = grouped(&cliques, &[&four("p"), &four("q"), &four("r")]);
    // Six free GPUs hold one pod of four.
    index.apply_pod(&bound(pod("x", 2), "a", &[0, 1]));
    index.apply_pod(&bound(pod("y", 2), "b", &[0, 1]));
    check(&mut index, &four("p"), "c = d > a = b");
    index.delete_lease("d");
    let order = order(&mut index, &four("p"), Preference::Pack);
    assert!(!order.starts_with('c'), "{order}");
}

#[test]
fn where_no_clique_has_room_for_the_group_a_rack_is_taken() {
    let (p, q) = (pod("p", 8), pod("q", 8));
    let racks = [("a", 0, "r2"), ("b", 0, "r1"), ("c", 0, "r1")];
    let mut index = grouped(&racks, &[&p, &q]);
    check(&mut index, &of_group(p.clone()), "b = c > a");
    check(&mut index, &p, "a = b = c");
}

#[test]
fn a_group_of_which_nobody_else_is_known_prefers_the_most_room_between_equals_only() {
    let cliques = [("a", 1, ""), ("b", 1, ""), ("c", 2, ""), ("d", 2, "")];
    let mut index = grouped(&cliques, &[]);
    index.apply_pod(&bound(pod("full", 8), "b", &[0, 1, 2, 3, 4, 5, 6, 7]));
    check(&mut index, &of_group(pod("p", 8)), "c = d > a");
    index.apply_pod(&bound(pod("one", 1), "a", &[0]));
    check(&mut index, &of_group(pod("p", 1)), "a > c = d");
}

#[test]
fn a_group_is_drawn_to_where_most_of_it_is() {
    let mut index = cluster(&["a", "b", "c", "d"]);
    for (name, clique) in [("a", 1), ("b", 2), ("c", 1), ("d", 2)] {
        in_clique(&mut index, name, clique, "completed");
    }
    let mate = |name, node| of_group(bound(pod(name, 4), node, &[0, 1, 2, 3]));
    index.apply_pod(&mate("m1", "a"));
    index.apply_pod(&mate("m2", "b"));
    index.apply_pod(&of_group(bound(pod("m3", 4), "b", &[4, 5, 6, 7])));
    check(&mut index, &of_group(pod("p", 8)), "d > c");
}

#[test]
fn a_clique_counts_only_once_its_gpus_are_registered() {
    let mut index = cluster(&["a", "b", "c"]);
    for name in ["a", "b"] {
        in_clique(&mut index, name, 1, "in_progress");
    }
    index.apply_pod(&of_group(bound(
        pod("mate", 8),
        "a",
        &[0, 1, 2, 3, 4, 5, 6, 7],
    )));
    check(&mut index, &of_group(pod("p", 8)), "b = c");
}

#[test]
fn without_a_fabric_a_group_is_drawn_to_its_own_nodes() {
    let mut index = cluster(&["a", "b"]);
    index.apply_pod(&bound(pod("other", 4), "a", &[0, 1, 2, 3]));
    index.apply_pod(&of_group(bound(pod("mate", 4), "b", &[0, 1, 2, 3])));
    check(&mut index, &of_group(pod("p", 4)), "b > a");
}

#[test]
fn a_pod_group_of_the_scheduler_is_a_group_and_the_annotation_wins() {
    let in_pod_group = |mut pod: Pod, name: &str| {
        let spec = pod.spec.as_mut().unwrap();
        spec.scheduling_group = Some(PodSchedulingGroup {
            pod_group_name: Some(name.to_owned()),
        });
        pod
    };
    let group = |pod: &Pod| ask(pod).group;
    assert_eq!(group(&pod("p", 1)), None);
    let (x, y) = (
        in_pod_group(pod("p", 1), "x"),
        in_pod_group(pod("q", 1), "y"),
    );
    assert_eq!(group(&x), group(&in_pod_group(pod("q", 1), "x")));
    assert_ne!(group(&x), group(&y));
    assert_eq!(group(&of_group(x.clone())), group(&of_group(y)));
    let elsewhere = |mut pod: Pod| {
        pod.metadata.namespace = Some("other".to_owned());
        pod
    };
    assert_ne!(
        group(&x),
        group(&elsewhere(x.clone())),
        "names are of one namespace"
    );
}

fn any_standing() -> impl Strategy<Value = Standing> {
    let links = [
        LinkClass::Any,
        LinkClass::Numa,
        LinkClass::Switch,
        LinkClass::NvLink,
    ];
    let link = prop::sample::select(links.to_vec());
    let wish = prop::option::of(any::<bool>());
    (0_u32..=10, link, wish, 0_u32..=1_000, 0_u32..=1_000).prop_map(
        |(score, link, is_wish_met, kept_permille, free_permille)| Standing {
            gpus: GpuSet::EMPTY,
            score,
            link,
            is_wish_met,
            kept_permille,
            free_permille,
        },
    )
}

proptest! {
    /// All else equal, a better set, a better link, a met wish, more that is kept and more of the
    /// group never have less merit.
    #[test]
    fn better_never_has_less_merit(
        low in any_standing(),
        high in any_standing(),
        pull in 0..=GROUP_FABRIC + GROUP_RACK,
        spread in any::<bool>(),
    ) {
        let preference = if spread { Preference::Spread } else { Preference::Pack };
        let merit = |standing: Standing, pull| standing.merit(pull, preference);
        let base = merit(low, pull);
        prop_assert!(base.0 <= MERIT_MAX);
        let better_set = Standing { score: low.score.max(high.score), ..low };
        prop_assert!(merit(better_set, pull) >= base);
        let better_link = Standing { link: low.link.max(high.link), ..low };
        prop_assert!(merit(better_link, pull) >= base);
        let kept_permille = low.kept_permille.max(high.kept_permille);
        let more_kept = Standing { kept_permille, ..low };
        prop_assert!(merit(more_kept, pull) >= base);
        prop_assert!(merit(low, GROUP_FABRIC + GROUP_RACK) >= base);
        if low.is_wish_met == Some(false) && high.is_wish_met == Some(true) {
            prop_assert!(merit(high, 0) > base, "whatever else there is");
        }
    }

    /// The best is 10, a better merit never has a worse level, equal ones have the same, and
    /// different ones never share a level above 1.
    #[test]
    fn levels_keep_the_order_of_merits(merits in prop::collection::vec(prop::option::of(0_u32..=1_000), 0..40)) {
        let merits: Vec<_> = merits.into_iter().map(|merit| merit.map(Merit)).collect();
        let levels = levels(&merits);
        prop_assert!(levels.iter().all(|level| *level <= LEVEL_MAX));
        let best = merits.iter().flatten().max();
        for (merit, level) in merits.iter().zip(&levels) {
            prop_assert_eq!(*level == 0, merit.is_none());
            if merit.is_some() && merit.as_ref() == best {
                prop_assert_eq!(*level, LEVEL_MAX);
            }
            for (other, other_level) in merits.iter().zip(&levels) {
                prop_assert!(merit < other || level >= other_level);
                if merit != other && level == other_level {
                    prop_assert!(*level <= LEVEL_FITS_MIN);
                }
            }
        }
    }
}
