//! The API server: what is, one stream of changes for each kind, and the binding's one write.
//!
//! A watch shows the changes of its kind in order, later; a list shows what is. What one watch shows
//! says nothing about how far another has come.

use std::sync::Arc;

use berth_extender_core::bind;
use berth_extender_core::fixtures::RESOURCE;
use berth_extender_core::pod::PodRecord;
use berth_topology::names;
use berth_topology::node::NodeTopology;
use k8s_openapi::api::core::v1::{Binding, Pod};

use crate::setting::{NODES_MAX, PODS_MAX};
use crate::stock::{Key, Stock, node_name};

/// GPUs of one node by the number in their UUID.
pub type Mask = u16;

/// All objects.
#[derive(Debug)]
pub struct Api {
    /// By number; absent before it is created and after it is gone.
    pub pods: Vec<Option<PodObject>>,
    /// By number; absent while there is no such Node.
    pub nodes: [Option<NodeView>; NODES_MAX],
    /// By node.
    pub topologies: [Option<Arc<NodeTopology>>; NODES_MAX],
    /// Renewals of the agents' Leases by node; absent without one.
    pub leases: [Option<usize>; NODES_MAX],
    /// The schedulers' Lease.
    pub leader: Option<LeaderView>,
    /// Changes of pods.
    pub pod_log: Vec<Change<PodView>>,
    /// Changes of Nodes.
    pub node_log: Vec<Change<(usize, Option<NodeView>)>>,
    /// Changes of NodeTopologies.
    pub topology_log: Vec<Change<(usize, Option<Arc<NodeTopology>>)>>,
    /// Changes of the agents' Leases.
    pub lease_log: Vec<Change<(usize, Option<usize>)>>,
    /// Changes of the schedulers' Lease.
    pub leader_log: Vec<Change<LeaderView>>,
    /// Whether a binding's uid is compared. A sabotage switches it off.
    pub checks_uid: bool,
}

/// One change, and when it was made.
#[derive(Clone, Debug)]
pub struct Change<T> {
    /// In the world's milliseconds.
    pub at_ms: u64,
    /// What it made.
    pub value: T,
}

/// A pod as it is now.
#[derive(Clone, Debug)]
pub struct PodObject {
    /// Which.
    pub key: Key,
    /// The object.
    pub pod: Arc<Pod>,
    /// What an index keeps of it.
    pub record: PodRecord,
    /// The node it is bound to.
    pub node: Option<usize>,
    /// GPUs that its assignment names.
    pub intent: Mask,
    /// It carries an assignment.
    pub is_ours: bool,
    /// It was deleted, and its kubelet has not ended it yet.
    pub is_terminating: bool,
    /// Succeeded or Failed.
    pub is_finished: bool,
}

/// A pod as a watch shows it.
#[derive(Clone, Debug)]
pub enum PodView {
    /// It is so now.
    Is {
        /// Which.
        key: Key,
        /// What an index keeps of it.
        record: PodRecord,
        /// The node it is bound to.
        node: Option<usize>,
        /// It was deleted and runs its last moments.
        is_terminating: bool,
    },
    /// It is gone.
    Gone(Key),
}

/// A Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Condition Ready.
    pub is_ready: bool,
    /// How often it was poked.
    pub pokes: usize,
}

/// The schedulers' Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderView {
    /// The pair that holds it, and which of its scheduler's processes; absent when it was released.
    pub holder: Option<(usize, usize)>,
    /// Grows with each write.
    pub version: u64,
    /// How often the holder changed.
    pub transitions: i32,
    /// When the holder took it, by the holder's clock.
    pub acquired_ms: u64,
    /// When it was renewed, by the holder's clock.
    pub renewed_ms: u64,
    /// The last term of which an extender said that its bindings are over.
    pub ended: Option<i32>,
}

/// Why a binding was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum No {
    /// 404.
    NotFound,
    /// 409: another uid, bound already, or being deleted.
    Conflict,
}

// === impl Api ===

impl Default for Api {
    fn default() -> Self {
        Self {
            pods: vec![None; PODS_MAX],
            nodes: [None; NODES_MAX],
            topologies: [const { None }; NODES_MAX],
            leases: [None; NODES_MAX],
            leader: None,
            pod_log: Vec::new(),
            node_log: Vec::new(),
            topology_log: Vec::new(),
            lease_log: Vec::new(),
            leader_log: Vec::new(),
            checks_uid: true,
        }
    }
}

impl Api {
    /// The pod, if it is still that incarnation.
    #[must_use]
    pub fn pod(&self, key: Key) -> Option<&PodObject> {
        self.pods[key.number].as_ref().filter(|pod| pod.key == key)
    }

    /// Pods that are there.
    pub fn live(&self) -> impl Iterator<Item = &PodObject> {
        self.pods.iter().flatten()
    }

    /// A pod is created, pending.
    pub fn create(&mut self, key: Key, now_ms: u64) {
        let stock = Stock::get();
        self.pods[key.number] = Some(PodObject {
            key,
            pod: stock.pod(key).clone(),
            record: stock.record(key).clone(),
            node: None,
            intent: 0,
            is_ours: false,
            is_terminating: false,
            is_finished: false,
        });
        self.show(key.number, now_ms);
    }

    /// The binding subresource: compares the uid, refuses a pod that is bound or being deleted, and
    /// writes node and annotations in one.
    ///
    /// # Errors
    /// As the API server's.
    pub fn bind(
        &mut self,
        number: usize,
        node: usize,
        binding: &Binding,
        now_ms: u64,
    ) -> Result<(), No> {
        let checks_uid = self.checks_uid;
        let object = self.pods[number].as_mut().ok_or(No::NotFound)?;
        let is_same = binding.metadata.uid == object.pod.metadata.uid;
        if (checks_uid && !is_same) || object.node.is_some() || object.is_terminating {
            return Err(No::Conflict);
        }
        let annotations = binding.metadata.annotations.clone().unwrap_or_default();
        object.is_ours = annotations.contains_key(names::ASSIGNMENT);
        let pod = Arc::make_mut(&mut object.pod);
        pod.metadata
            .annotations
            .get_or_insert_default()
            .extend(annotations);
        pod.spec.get_or_insert_default().node_name = Some(node_name(node));
        object.node = Some(node);
        object.reread();
        self.show(number, now_ms);
        Ok(())
    }

    /// Somebody who needs no extender binds the pod, or a static pod appears.
    pub fn bind_strangely(&mut self, number: usize, node: usize, now_ms: u64) {
        let key = self.pods[number].as_ref().map(|pod| pod.key);
        let uid = key.map(Key::uid).unwrap_or_default();
        let request = bind::Request {
            uid,
            ..bind::Request::default()
        };
        // A pod that is bound or being deleted stays as it is.
        let _ = self.bind(number, node, &bind::binding(&request, None), now_ms);
    }

    /// Somebody deletes the pod: at once where it is not bound, else its kubelet ends it first.
    pub fn delete(&mut self, number: usize, now_ms: u64) {
        let Some(object) = &mut self.pods[number] else {
            return;
        };
        if object.node.is_none() || object.is_finished {
            self.remove(number, now_ms);
        } else if !object.is_terminating {
            object.is_terminating = true;
            Arc::make_mut(&mut object.pod).metadata.deletion_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                    k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
                ));
            object.reread();
            self.show(number, now_ms);
        }
    }

    /// The object goes.
    pub fn remove(&mut self, number: usize, now_ms: u64) {
        if let Some(object) = self.pods[number].take() {
            self.pod_log.push(Change {
                at_ms: now_ms,
                value: PodView::Gone(object.key),
            });
        }
    }

    /// The kubelet reports that it has ended.
    pub fn finish(&mut self, number: usize, phase: &str, now_ms: u64) {
        let Some(object) = &mut self.pods[number] else {
            return;
        };
        object.is_finished = true;
        Arc::make_mut(&mut object.pod)
            .status
            .get_or_insert_default()
            .phase = Some(phase.to_owned());
        object.reread();
        self.show(number, now_ms);
    }

    /// A Node is there, changes or goes.
    pub fn set_node(&mut self, node: usize, view: Option<NodeView>, now_ms: u64) {
        self.nodes[node] = view;
        self.node_log.push(Change {
            at_ms: now_ms,
            value: (node, view),
        });
    }

    /// A NodeTopology is written or goes.
    pub fn set_topology(&mut self, node: usize, view: Option<Arc<NodeTopology>>, now_ms: u64) {
        self.topologies[node].clone_from(&view);
        self.topology_log.push(Change {
            at_ms: now_ms,
            value: (node, view),
        });
    }

    /// An agent renews its Lease.
    pub fn renew(&mut self, node: usize, now_ms: u64) {
        let renewal = self.leases[node].map_or(0, |renewal| renewal + 1);
        self.leases[node] = Some(renewal);
        self.lease_log.push(Change {
            at_ms: now_ms,
            value: (node, Some(renewal)),
        });
    }

    /// The schedulers' Lease is renewed, released or taken.
    pub fn set_leader(&mut self, view: LeaderView, now_ms: u64) {
        self.leader = Some(view);
        self.leader_log.push(Change {
            at_ms: now_ms,
            value: view,
        });
    }

    fn show(&mut self, number: usize, now_ms: u64) {
        if let Some(object) = &self.pods[number] {
            self.pod_log.push(Change {
                at_ms: now_ms,
                value: object.view(),
            });
        }
    }
}

// === impl PodObject ===

impl PodObject {
    /// Bound, not ended: it holds what it was given.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.node.is_some() && !self.is_finished
    }

    /// It waits for a node.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.node.is_none() && !self.is_terminating && !self.is_finished
    }

    /// As a watch would show it.
    #[must_use]
    pub fn view(&self) -> PodView {
        PodView::Is {
            key: self.key,
            record: self.record.clone(),
            node: self.node,
            is_terminating: self.is_terminating,
        }
    }

    fn reread(&mut self) {
        if let Some(record) = PodRecord::read(&self.pod, RESOURCE) {
            self.record = record;
        }
        self.intent = mask_of(self.record.holder.intent.values().flatten());
    }
}

/// GPUs by the number at the end of their UUIDs.
pub fn mask_of<'a>(gpus: impl IntoIterator<Item = &'a berth_topology::ids::GpuUuid>) -> Mask {
    let number = |gpu: &berth_topology::ids::GpuUuid| {
        gpu.as_str()
            .bytes()
            .last()
            .map_or(0, |digit| u32::from(digit.wrapping_sub(b'0')))
    };
    gpus.into_iter()
        .fold(0, |mask, gpu| mask | 1 << number(gpu))
}
