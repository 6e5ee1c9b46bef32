//! Pods, and the machines that run them.

use crate::api::Mask;
use crate::machine::Admission;
use crate::setting::{LIVES_MAX, PODS_MAX};
use crate::stock::Key;
use crate::world::World;

impl World {
    /// A pod is created, if there is none of that number and lives are left.
    pub fn create(&mut self, number: usize) {
        let life = self.lives[number];
        if self.api.pods[number].is_some() || life >= LIVES_MAX {
            return;
        }
        self.lives[number] += 1;
        let key = Key {
            number,
            life,
            claim: self.setting.claims[number],
        };
        self.api.create(key, self.now_ms);
        self.say(|| format!("{key} is created, for {:?}", key.claim()));
    }

    /// Somebody deletes a pod.
    pub fn delete(&mut self, number: usize) {
        if let Some(pod) = &self.api.pods[number] {
            let key = pod.key;
            self.say(|| format!("{key} is deleted"));
            self.api.delete(number, self.now_ms);
        }
    }

    /// Somebody else binds a pod.
    pub fn bind_strangely(&mut self, number: usize, node: usize) {
        let is_pending = self.api.pods[number]
            .as_ref()
            .is_some_and(|pod| pod.is_pending());
        if is_pending && self.api.nodes[node].is_some() {
            self.say(|| format!("p{number} is bound to n{node} by a stranger"));
            self.api.bind_strangely(number, node, self.now_ms);
        }
    }

    /// A node's kubelet starts one pod that was bound to it. Whether there was one.
    pub fn admit(&mut self, node: usize) -> bool {
        let waiting: Vec<usize> = (0..PODS_MAX)
            .filter(|number| {
                self.api.pods[*number].as_ref().is_some_and(|pod| {
                    pod.is_holding()
                        && pod.node == Some(node)
                        && !pod.is_terminating
                        && self.machines[node].held_by(pod.key).is_none()
                })
            })
            .collect();
        let Some(number) = self.rng.pick(&waiting).copied() else {
            return false;
        };
        let Some(pod) = self.api.pods[number].clone() else {
            return false;
        };
        let others: Vec<Mask> = waiting
            .iter()
            .filter(|other| **other != number)
            .filter_map(|other| self.api.pods[*other].as_ref().map(|pod| pod.intent))
            .collect();
        let kubelet = self.setting.kubelet;
        let admission = self.machines[node].admit(&pod, kubelet, &others, &mut self.rng);
        let key = pod.key;
        self.say(|| format!("n{node}'s kubelet takes {key}: {admission:?}"));
        if self.setting.is_exact() && admission != Admission::AsPromised {
            self.violate(|| {
                format!("{key} cannot have what it was promised on n{node}: {admission:?}")
            });
        }
        if admission == Admission::Rejected {
            self.api.finish(number, "Failed", self.now_ms);
        }
        true
    }

    /// A kubelet ends a pod that was deleted, and the object goes. Whether there was one.
    pub fn end_terminating(&mut self) -> bool {
        let ending: Vec<usize> = (0..PODS_MAX)
            .filter(|number| {
                self.api.pods[*number]
                    .as_ref()
                    .is_some_and(|pod| pod.is_terminating)
            })
            .collect();
        let Some(number) = self.rng.pick(&ending).copied() else {
            return false;
        };
        self.release(number);
        self.say(|| format!("p{number} has ended and is gone"));
        self.api.remove(number, self.now_ms);
        true
    }

    /// A running pod ends by itself.
    pub fn finish(&mut self, number: usize) {
        let runs = self.api.pods[number].as_ref().is_some_and(|pod| {
            pod.is_holding()
                && pod
                    .node
                    .is_some_and(|node| self.machines[node].held_by(pod.key).is_some())
        });
        if runs {
            self.release(number);
            self.say(|| format!("p{number} has succeeded"));
            self.api.finish(number, "Succeeded", self.now_ms);
        }
    }

    pub(super) fn release(&mut self, number: usize) {
        if let Some(pod) = &self.api.pods[number]
            && let Some(node) = pod.node
        {
            self.machines[node].release(pod.key);
        }
    }

    /// An agent reads its machine.
    pub fn agent_reads(&mut self, node: usize) {
        if self.machines[node].has_agent {
            self.machines[node].read = Some(self.machines[node].look());
        }
    }

    /// An agent writes what it has read.
    pub fn agent_writes(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        if machine.has_agent
            && self.api.nodes[node].is_some()
            && let Some(reading) = machine.read.take()
        {
            let object = machine.object(&reading);
            self.say(|| format!("n{node}'s agent publishes {reading:?}"));
            self.api.set_topology(node, Some(object), self.now_ms);
        }
    }
}
