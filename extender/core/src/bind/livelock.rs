//! Small pods on both sockets, then pods of four, on several nodes whose kubelets admit a pod to one NUMA
//! node only: an allocator that counts GPUs binds there what the kubelet rejects, again and again
//! (pytorch/ci-infra#696). Here every pod that is bound is admitted, with the GPUs that it was promised,
//! and one that waits is bound as soon as a kubelet could admit it.

use std::collections::BTreeMap;

use berth_topology::claim::PodClaim;
use berth_topology::node::NodeTopology;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;

use super::*;
use crate::fixtures::*;

const NODES: [&str; 3] = ["a", "b", "c"];
const SOCKET_GPU_COUNT: u32 = 4;

/// What runs on one node, as its kubelet knows it. Policy `single-numa-node`, with a plugin that gives what
/// was promised where the kubelet lets it.
#[derive(Default)]
struct Kubelet {
    held: BTreeMap<String, Vec<u32>>,
}

struct World {
    index: Index,
    kubelets: BTreeMap<&'static str, Kubelet>,
    /// Oldest first.
    waiting: Vec<Pod>,
    made: usize,
}

// === impl Kubelet ===

impl Kubelet {
    /// The lowest NUMA node with that many free GPUs, and those.
    fn offer(&self, count: usize) -> Option<Vec<u32>> {
        let is_free = |gpu: &u32| !self.held.values().flatten().any(|held| held == gpu);
        let sockets = (0..2).map(|socket| {
            let gpus = socket * SOCKET_GPU_COUNT..(socket + 1) * SOCKET_GPU_COUNT;
            gpus.filter(is_free).collect::<Vec<u32>>()
        });
        sockets.into_iter().find(|free| free.len() >= count)
    }

    fn admit(&mut self, pod: &str, promised: &[u32]) {
        let offer = self.offer(promised.len());
        let offer = offer.unwrap_or_else(|| panic!("{pod} was bound only to be rejected"));
        let is_offered = promised.iter().all(|gpu| offer.contains(gpu));
        assert!(is_offered, "{pod} was promised {promised:?} of {offer:?}");
        self.held.insert(pod.to_owned(), promised.to_vec());
    }
}

// === impl World ===

impl World {
    fn new() -> Self {
        let machine = |name| NodeTopology::new(name, exact(name, "single-numa-node"));
        Self {
            index: cluster_of(RESOURCE, &NODES.map(machine)),
            kubelets: NODES.map(|name| (name, Kubelet::default())).into(),
            waiting: Vec::new(),
            made: 0,
        }
    }

    fn arrive(&mut self, gpu_count: usize) {
        self.made += 1;
        let pod = pod(&format!("p{}", self.made), gpu_count);
        self.index.apply_pod(&pod);
        self.waiting.push(pod);
        self.schedule();
    }

    /// The pod with that GPU ends.
    fn leave(&mut self, node: &str, gpu: u32) {
        let kubelet = self.kubelets.get_mut(node).unwrap();
        let holders = kubelet.held.iter();
        let mut holders = holders.filter(|(_, gpus)| gpus.contains(&gpu));
        let Some(name) = holders.next().map(|(name, _)| name.clone()) else {
            return;
        };
        kubelet.held.remove(&name);
        self.index.delete_pod(&format!("u-{name}"));
        self.schedule();
    }

    fn schedule(&mut self) {
        for pod in std::mem::take(&mut self.waiting) {
            let (seen, ask) = (snapshot(&mut self.index), ask(&pod));
            let scores =
                decide::prioritize(&seen, &ask, &seen.named(NODES), decide::Preference::Pack);
            let best = scores.iter().rev().max_by_key(|(_, score)| *score);
            match best.filter(|(one, _)| decide::judge(&seen, &ask, one.name).is_ok()) {
                Some((one, _)) => self.bind(&pod, one.name),
                None => self.waiting.push(pod),
            }
        }
        for pod in &self.waiting {
            let claim = PodClaim::of_pod(pod, RESOURCE).unwrap();
            for (name, kubelet) in &self.kubelets {
                let offer = kubelet.offer(claim.gpu_count());
                assert_eq!(offer, None, "{:?} waits for {name}", pod.metadata.name);
            }
        }
    }

    fn bind(&mut self, pod: &Pod, node: &str) {
        let (name, now) = (pod.metadata.name.clone().unwrap(), Instant::now());
        let request = Request {
            namespace: "ns".to_owned(),
            uid: PodUid(format!("u-{name}")),
            name,
            node: node.to_owned(),
        };
        let prepared = prepare(&mut self.index, &request, None, now);
        let Ok(Prepared::Post {
            annotation: Some(text),
        }) = prepared
        else {
            panic!("{prepared:?}");
        };
        let is_exact = placed(&self.index, &request.uid).is_some_and(|one| one.inexact.is_none());
        assert!(is_exact, "{text}");
        let assignment = Assignment::decode(&text).unwrap();
        let ranks = &assignment.containers["c"].ranks;
        let promised: Vec<u32> = ranks.iter().map(|rank| rank.index.unwrap().0).collect();
        let kubelet = self.kubelets.get_mut(node).unwrap();
        kubelet.admit(&request.name, &promised);
        settle(&mut self.index, &request.uid, &Ok(()), now);
        let bound = bound_by_other(annotated(pod.clone(), names::ASSIGNMENT, &text), node);
        self.index.apply_pod(&bound);
    }

    /// The reasons why the oldest pod waits, by node.
    fn reasons(&mut self) -> Vec<&'static str> {
        let (seen, ask) = (snapshot(&mut self.index), ask(&self.waiting[0]));
        let verdicts = decide::filter(&seen, &ask, &NODES);
        verdicts.refused().map(|(_, no)| no.kind()).collect()
    }
}

#[test]
fn pods_of_four_wait_for_a_socket_and_get_it_as_soon_as_it_is_free() {
    let mut world = World::new();
    (0..24).for_each(|_| world.arrive(1));
    // Four GPUs are free on each node, two on each socket.
    for node in NODES {
        [0, 1, 4, 5]
            .into_iter()
            .for_each(|gpu| world.leave(node, gpu));
    }
    (0..3).for_each(|_| world.arrive(4));
    assert_eq!(world.waiting.len(), 3);
    assert_eq!(world.reasons(), ["KubeletWouldRefuse"; 3]);
    world.leave("b", 6);
    assert_eq!(world.waiting.len(), 3);
    world.leave("b", 7);
    assert_eq!(world.waiting.len(), 2);
    assert_eq!(world.kubelets["b"].held["p25"], [4, 5, 6, 7]);
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Arrive(usize),
    Leave(usize, u32),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        prop_oneof![Just(1_usize), Just(2), Just(4), Just(3)].prop_map(Event::Arrive),
        (0_usize..3, 0_u32..8).prop_map(|(node, gpu)| Event::Leave(node, gpu)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_bound_pod_is_admitted_and_none_waits_that_could_be(
        events in proptest::collection::vec(any_event(), 1..60),
    ) {
        let mut world = World::new();
        for event in events {
            match event {
                Event::Arrive(gpu_count) => world.arrive(gpu_count),
                Event::Leave(node, gpu) => world.leave(NODES[node], gpu),
            }
        }
    }
}
