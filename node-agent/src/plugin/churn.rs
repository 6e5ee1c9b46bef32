//! Pods that come and go in any order, played through the pure parts: every promise is kept, and no
//! GPU is held twice.

use std::collections::{BTreeMap, BTreeSet};

use berth_placement::Machine;
use berth_topology::allocation::Allocation;
use berth_topology::ids::GpuUuid;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;

use super::answer;
use super::fixtures::{self, RESOURCE, dgx_h100, gpus, node, numbers, pod, row, with_init};
use super::ledger;
use super::pods::Pods;
use super::prefer::{Basis, Question, prefer};
use super::promises::Promises;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// The extender binds a pod of so many GPUs, if they are free; some begin with an init container.
    Bind { size: usize, has_init: bool },
    /// The kubelet admits the pod that it learned of first.
    Admit,
    /// One of the pods that run ends.
    End { which: usize },
}

/// A node, its kubelet and the extender's idea of it.
struct World {
    machine: Machine,
    pods: Pods,
    /// Bound and not yet admitted, in order, with the promise.
    waiting: Vec<(Pod, Vec<GpuUuid>)>,
    running: Vec<Pod>,
    /// By pod: everything that its containers hold, kept by the kubelet.
    held: BTreeMap<String, Vec<Allocation>>,
    /// Bound so far.
    count: usize,
}

// === impl World ===

impl World {
    fn new() -> Self {
        Self {
            machine: Machine::new(&dgx_h100()),
            pods: Pods::default(),
            waiting: Vec::new(),
            running: Vec::new(),
            held: BTreeMap::new(),
            count: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Bind { size, has_init } => self.bind(*size, *has_init),
            Step::Admit if self.waiting.is_empty() => {}
            Step::Admit => self.admit(),
            Step::End { which } => self.end(*which),
        }
    }

    fn rows(&self) -> Vec<Allocation> {
        self.held.values().flatten().cloned().collect()
    }

    /// GPUs that nobody holds and nobody was promised, the highest first: not what anybody else
    /// would take.
    fn bind(&mut self, size: usize, has_init: bool) {
        let rows = self.rows();
        let held = rows.iter().flat_map(|row| &row.devices);
        let promised = self.waiting.iter().flat_map(|(_, promise)| promise);
        let taken: BTreeSet<&GpuUuid> = held.chain(promised).collect();
        let all = gpus("7 6 5 4 3 2 1 0");
        let free = all.into_iter().filter(|gpu| !taken.contains(gpu));
        let promise: Vec<GpuUuid> = free.take(size).collect();
        if promise.len() < size {
            return;
        }
        self.count += 1;
        let pod = pod(&format!("p{}", self.count), size);
        let pod = if has_init {
            with_init(pod, "init", size)
        } else {
            pod
        };
        let pod = fixtures::promised(pod, &numbers(&promise));
        self.pods.apply(pod.clone());
        self.waiting.push((pod, promise));
    }

    /// As the kubelet does it: init containers first, whose devices it uses again without a question.
    fn admit(&mut self) {
        let (pod, promise) = self.waiting.remove(0);
        let name = pod.metadata.name.clone().expect("a name");
        let has_init = pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.init_containers.is_some());
        let preferred = self.prefer(promise.len());
        let wanted: BTreeSet<GpuUuid> = promise.iter().cloned().collect();
        assert_eq!(preferred.0, wanted, "{name}: {:?}", preferred.1);
        if has_init {
            self.give(&name, "init", &promise);
        }
        self.give(&name, "main", &promise);
        self.running.push(pod);
    }

    fn prefer(&self, size: usize) -> (BTreeSet<GpuUuid>, Basis) {
        let rows = self.rows();
        let held: BTreeSet<&GpuUuid> = rows.iter().flat_map(|row| &row.devices).collect();
        let all = gpus("0 1 2 3 4 5 6 7").into_iter();
        let question = Question {
            available: all.filter(|gpu| !held.contains(gpu)).collect(),
            must_include: BTreeSet::new(),
            size,
        };
        let promises = Promises::read(&self.pods, &node(), RESOURCE, &rows);
        let preference = prefer(&question, &promises, &self.machine);
        (preference.devices, preference.basis)
    }

    fn give(&mut self, pod: &str, container: &str, promise: &[GpuUuid]) {
        let devices: &BTreeSet<GpuUuid> = &promise.iter().cloned().collect();
        let rows = self.rows();
        let promises = Promises::read(&self.pods, &node(), RESOURCE, &rows);
        let (waiting, want) = promises.recipient(devices, &rows).expect("somebody asks");
        assert_eq!(waiting.name, format!("default/{pod}"));
        assert_eq!(want.container, container);
        let hands_on = |row: &Allocation| waiting.hands_on(row);
        assert_eq!(ledger::check(&rows, RESOURCE, devices, hands_on), Ok(()));
        let ranks = answer::ranks(devices, Some(want), &self.machine);
        let ranks: Vec<GpuUuid> = ranks.gpus().cloned().collect();
        assert!(container == "init" || ranks == promise, "{ranks:?}");
        let text = numbers(devices);
        let held = self.held.entry(pod.to_owned()).or_default();
        held.push(row(pod, container, &text));
    }

    fn end(&mut self, which: usize) {
        if self.running.is_empty() {
            return;
        }
        let pod = self.running.remove(which % self.running.len());
        self.held
            .remove(&pod.metadata.name.clone().expect("a name"));
        self.pods.delete(&pod);
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1_usize..=4, any::<bool>()).prop_map(|(size, has_init)| Step::Bind { size, has_init }),
        3 => Just(Step::Admit),
        2 => any::<usize>().prop_map(|which| Step::End { which }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_promise_is_kept_and_no_gpu_is_held_twice(
        steps in proptest::collection::vec(any_step(), 1..40),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            let mut holders: BTreeMap<GpuUuid, &str> = BTreeMap::new();
            for (pod, rows) in &world.held {
                for gpu in rows.iter().flat_map(|row| &row.devices) {
                    let other = holders.insert(gpu.clone(), pod);
                    prop_assert!(other.is_none_or(|other| other == pod), "{gpu} is held twice");
                }
            }
        }
    }
}
