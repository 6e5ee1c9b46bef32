//! Interleavings of filters, binds, answers, watch events and deletions.

use std::collections::BTreeSet;

use berth_topology::node::NodeTopology;
use k8s_openapi::api::core::v1::Pod;

use super::*;
use crate::fixtures::*;

fn assigned(pod: &Pod) -> Vec<String> {
    let text = &pod.metadata.annotations.as_ref().unwrap()[names::ASSIGNMENT];
    let gpus = Assignment::decode(text).unwrap();
    gpus.gpus().map(ToString::to_string).collect()
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Event {
    Filter(usize),
    Bind(usize, usize),
    /// The API server has done a bind, or has refused it.
    Answer(usize, bool),
    /// The watch shows the pod as it is.
    Watch(usize),
    Delete(usize),
}

fn any_event() -> impl proptest::strategy::Strategy<Value = Event> {
    use proptest::prelude::*;
    let pod = 0_usize..10;
    prop_oneof![
        pod.clone().prop_map(Event::Filter),
        (pod.clone(), 0_usize..2).prop_map(|(pod, node)| Event::Bind(pod, node)),
        (pod.clone(), any::<bool>()).prop_map(|(pod, done)| Event::Answer(pod, done)),
        pod.clone().prop_map(Event::Watch),
        pod.prop_map(Event::Delete),
    ]
}

/// The cluster as it really is, beside the index as it sees it.
struct World {
    index: Index,
    pods: Vec<Pod>,
    /// Binds on their way: node and annotation.
    sent: Vec<Option<(String, Arc<str>)>>,
}

impl World {
    fn new() -> Self {
        let mut index = cluster(&["a", "b"]);
        let pods: Vec<Pod> = (0..10)
            .map(|number| pod(&format!("p{number}"), 1 + number % 4))
            .collect();
        for pod in &pods {
            index.apply_pod(pod);
        }
        Self {
            index,
            sent: vec![None; pods.len()],
            pods,
        }
    }

    fn play(&mut self, event: Event) {
        match event {
            Event::Filter(number) => {
                let _ = decide::filter(
                    &snapshot(&mut self.index),
                    &ask(&self.pods[number]),
                    &["a", "b"],
                );
            }
            Event::Bind(number, node) => self.bind(number, ["a", "b"][node]),
            Event::Answer(number, is_done) => self.answer(number, is_done),
            Event::Watch(number) => self.index.apply_pod(&self.pods[number]),
            Event::Delete(number) if self.sent[number].is_none() => {
                let uid = self.pods[number].metadata.uid.clone().unwrap();
                self.index.delete_pod(&uid);
                self.pods[number].spec.as_mut().unwrap().node_name = None;
                self.pods[number].metadata.annotations = None;
                self.pods[number].metadata.uid = Some(format!("{uid}+"));
            }
            Event::Delete(_) => {}
        }
    }

    fn bind(&mut self, number: usize, node: &str) {
        let request = Request {
            namespace: "ns".to_owned(),
            name: format!("p{number}"),
            uid: PodUid(self.pods[number].metadata.uid.clone().unwrap()),
            node: node.to_owned(),
        };
        let record = PodRecord::read(&self.pods[number], RESOURCE);
        let prepared = prepare(&mut self.index, &request, record.as_ref(), Instant::now());
        if let Ok(Prepared::Post {
            annotation: Some(annotation),
        }) = prepared
        {
            self.sent[number] = Some((node.to_owned(), annotation));
        }
    }

    fn answer(&mut self, number: usize, is_done: bool) {
        let Some((node, annotation)) = self.sent[number].take() else {
            return;
        };
        let uid = PodUid(self.pods[number].metadata.uid.clone().unwrap());
        if is_done {
            let annotations = self.pods[number]
                .metadata
                .annotations
                .get_or_insert_default();
            annotations.insert(names::ASSIGNMENT.to_owned(), annotation.to_string());
            self.pods[number].spec.as_mut().unwrap().node_name = Some(node);
            self.index.note(&uid, State::Written(Instant::now()));
        } else {
            self.index.release(&uid);
        }
    }

    /// GPUs that bound pods and binds under way hold on a node, one by one.
    fn held(&self, node: &str) -> Vec<String> {
        let bound = self
            .pods
            .iter()
            .filter(|pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some(node));
        let sent = self.sent.iter().flatten().filter(|(to, _)| to == node);
        let of_text = |text: &str| {
            Assignment::decode(text)
                .unwrap()
                .gpus()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        bound
            .flat_map(assigned)
            .chain(sent.flat_map(|(_, text)| of_text(text)))
            .collect()
    }
}

proptest::proptest! {
    /// Whatever order requests, answers and watch events come in, no GPU is given twice, and what is
    /// held and what is free is the whole node.
    #[test]
    fn no_interleaving_gives_a_gpu_twice(events in proptest::collection::vec(any_event(), 0..60)) {
        let mut world = World::new();
        for event in events {
            world.play(event);
            for node in ["a", "b"] {
                let held = world.held(node);
                let distinct: BTreeSet<_> = held.iter().collect();
                proptest::prop_assert_eq!(distinct.len(), held.len());
                let room = snapshot(&mut world.index).node(node).unwrap().room;
                proptest::prop_assert_eq!(room.unknown_count, 0);
                proptest::prop_assert_eq!(room.free.len() + held.len(), 8);
            }
        }
    }
}

#[test]
fn a_pod_that_wants_mig_instances_is_bound_to_instances_by_their_uuids() {
    let machine = NodeTopology::new("n", partitioned("n", &[3, 4]));
    let mut index = cluster_of(MIG_RESOURCE, &[machine, topology("whole")]);
    let pod = pod_of(MIG_RESOURCE, "p", 2);
    let ask = |pod: &Pod| Ask::of_pod(pod, MIG_RESOURCE);
    let seen = snapshot(&mut index);
    let verdicts = decide::filter(&seen, &ask(&pod), &["n", "whole"]);
    use decide::Outcome::{Fits, Refused};
    assert_eq!(verdicts.outcomes, [Fits(10), Refused(0)]);
    assert_eq!(verdicts.reasons[0].kind(), "TooFewGpus");

    index.apply_pod(&pod);
    let request = Request {
        namespace: "ns".to_owned(),
        name: "p".to_owned(),
        uid: "u-p".into(),
        node: "n".to_owned(),
    };
    let prepared = prepare(&mut index, &request, None, Instant::now());
    let Ok(Prepared::Post {
        annotation: Some(text),
    }) = prepared
    else {
        panic!("{prepared:?}");
    };
    let told = annotated(pod.clone(), names::ASSIGNMENT, &text);
    assert_eq!(assigned(&told), ["MIG-n-3-0", "MIG-n-3-1"]);

    // Four of six are left, whether the bind is confirmed yet or not.
    for is_confirmed in [false, true] {
        if is_confirmed {
            settle(&mut index, &request.uid, &Ok(()), Instant::now());
            index.apply_pod(&bound_by_other(told.clone(), "n"));
        }
        let seen = snapshot(&mut index);
        let fits = |count| {
            let next = pod_of(MIG_RESOURCE, "next", count);
            decide::judge(&seen, &ask(&next), "n").is_ok()
        };
        assert!(fits(4) && !fits(5), "confirmed: {is_confirmed}");
    }
}
