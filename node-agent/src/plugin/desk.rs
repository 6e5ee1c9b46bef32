//! Where the kubelet's questions about one resource are answered: collects what is known, lets the
//! pure parts decide, keeps the books.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use berth_topology::allocation::Allocation;
use berth_topology::assignment::ContainerAssignment;
use berth_topology::ids::{GpuUuid, NodeName};
use tokio::sync::watch;
use tracing::{info, warn};

use super::answer::{self, Wording};
use super::api::{
    AllocateRequest, AllocateResponse, ContainerAllocateResponse,
    ContainerPreferredAllocationRequest, ContainerPreferredAllocationResponse,
    PreferredAllocationRequest, PreferredAllocationResponse,
};
use super::books::Books;
use super::bound::BoundPods;
use super::checkpoint::Stamp;
use super::devices::View;
use super::gate::Gate;
use super::ledger::{self, Grant, Refusal};
use super::prefer::{Basis, Preference, Question, prefer};
use super::promises::{Promises, Waiting, Want};
use crate::tally::{Outcome, Tally};

/// Serves one resource.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) node: NodeName,
    pub(crate) resource: String,
    pub(crate) wording: Wording,
    pub(crate) view: watch::Receiver<View>,
    pub(crate) pods: Arc<BoundPods>,
    pub(crate) books: Arc<Books>,
    pub(crate) gate: Arc<Gate>,
    /// Containers of which it was said that they have other devices than they were promised.
    pub(crate) told: Mutex<BTreeSet<(String, String)>>,
    pub(crate) tally: Arc<Tally>,
}

/// What is known when the kubelet asks.
struct Known {
    rows: Vec<Allocation>,
    written: Option<Stamp>,
    promises: Promises,
}

// === impl Desk ===

impl Desk {
    /// The devices, as they change.
    pub(crate) fn devices(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Which devices each container should get.
    pub(crate) async fn prefer(
        &self,
        asked: PreferredAllocationRequest,
    ) -> PreferredAllocationResponse {
        let _serving = self.gate.serve().await;
        let mut answers = Vec::new();
        for request in asked.container_requests {
            answers.push(self.prefer_one(&question(request)).await);
        }
        PreferredAllocationResponse {
            container_responses: answers,
        }
    }

    /// What each container needs to use its devices.
    ///
    /// # Errors
    /// When a container that lives holds one of them: the kubelet then refuses the pod.
    pub(crate) async fn allocate(
        &self,
        asked: AllocateRequest,
    ) -> Result<AllocateResponse, Refusal> {
        let _serving = self.gate.serve().await;
        let mut answers = Vec::new();
        for request in asked.container_requests {
            let ids = request.devices_ids.iter();
            let devices = ids.map(|id| GpuUuid::from(id.as_str())).collect();
            answers.push(self.allocate_one(&devices).await?);
        }
        Ok(AllocateResponse {
            container_responses: answers,
        })
    }

    /// Says of each container once that it has other devices than it was promised. By the kubelet's
    /// book: when it asks it does not say for whom.
    pub(crate) fn tell_swaps(&self) {
        let swapped = self.known().promises.given.into_iter().filter(|given| {
            let is_promise = !given.promised.is_empty();
            is_promise && given.promised != given.devices
        });
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *told);
        for given in swapped {
            let key = (given.pod.clone(), given.container.clone());
            if !before.contains(&key) {
                warn!(
                    resource = self.resource,
                    pod = given.pod,
                    container = given.container,
                    devices = ?given.devices,
                    promised = ?given.promised,
                    "has other devices than it was promised"
                );
            }
            told.insert(key);
        }
        self.tally.mismatched(&self.resource, told.len());
    }

    async fn prefer_one(&self, question: &Question) -> ContainerPreferredAllocationResponse {
        let mut preference = self.preference(question);
        if preference.basis != Basis::Promise {
            // the pod may have been bound an instant ago
            self.pods.refresh().await;
            preference = self.preference(question);
        }
        let Preference {
            devices,
            basis,
            pod,
        } = preference;
        let device_ids: Vec<String> = devices.iter().map(GpuUuid::to_string).collect();
        info!(
            resource = self.resource,
            ?basis,
            pod,
            ?device_ids,
            "preferred"
        );
        ContainerPreferredAllocationResponse { device_ids }
    }

    fn preference(&self, question: &Question) -> Preference {
        let known = self.known();
        prefer(question, &known.promises, &self.view.borrow().machine)
    }

    async fn allocate_one(
        &self,
        devices: &BTreeSet<GpuUuid>,
    ) -> Result<ContainerAllocateResponse, Refusal> {
        let mut known = self.known();
        if known.recipient(devices).is_none() || self.check(&known, devices).is_err() {
            // who holds a device may have ended an instant ago, who asks may have been bound then
            self.pods.refresh().await;
            known = self.known();
        }
        if let Err(refusal) = self.check(&known, devices) {
            warn!(resource = self.resource, %refusal, "not given");
            self.tally.allocated(&self.resource, Outcome::Refused);
            return Err(refusal);
        }
        let recipient = known.recipient(devices);
        let want = recipient.map(|(_, want)| want);
        let view = self.view.borrow();
        let ranks = answer::ranks(devices, want, &view.machine);
        let outcome = self.log(devices, recipient, &ranks);
        self.tally.allocated(&self.resource, outcome);
        self.books.grant(self.grant(&known, devices));
        Ok(answer::response(&ranks, &view.status, &self.wording))
    }

    fn known(&self) -> Known {
        let (rows, written) = self.books.rows();
        let promises = Promises::read(&self.pods.lock(), &self.node, &self.resource, &rows);
        Known {
            rows,
            written,
            promises,
        }
    }

    fn check(&self, known: &Known, devices: &BTreeSet<GpuUuid>) -> Result<(), Refusal> {
        let recipient = known.recipient(devices);
        let hands_on =
            |row: &Allocation| recipient.is_some_and(|(waiting, _)| waiting.hands_on(row));
        ledger::check(&known.rows, &self.resource, devices, hands_on)
    }

    fn grant(&self, known: &Known, devices: &BTreeSet<GpuUuid>) -> Grant {
        let recipient = known.recipient(devices);
        let (namespace, name) = recipient
            .and_then(|(waiting, _)| waiting.name.split_once('/'))
            .unwrap_or_default();
        Grant {
            row: Allocation {
                pod_uid: recipient.map(|(waiting, _)| waiting.pod.clone()),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                container: recipient.map_or_else(String::new, |(_, want)| want.container.clone()),
                resource: self.resource.clone(),
                devices: devices.iter().cloned().collect(),
                cpus: None,
            },
            written_before: known.written,
        }
    }

    fn log(
        &self,
        devices: &BTreeSet<GpuUuid>,
        recipient: Option<(&Waiting, &Want)>,
        ranks: &ContainerAssignment,
    ) -> Outcome {
        let order: Vec<&str> = ranks.gpus().map(GpuUuid::as_str).collect();
        let pod = recipient.map(|(waiting, _)| waiting.name.as_str());
        let promised = recipient.map(|(_, want)| want.promised());
        let promised = promised.filter(|promised| !promised.is_empty());
        match promised {
            Some(promised) if promised != *devices => {
                warn!(
                    resource = self.resource,
                    pod,
                    ?order,
                    ?promised,
                    "given, not as promised"
                );
                Outcome::Other
            }
            Some(_) => {
                info!(resource = self.resource, pod, ?order, "given as promised");
                Outcome::Promised
            }
            None => {
                info!(
                    resource = self.resource,
                    pod,
                    ?order,
                    "given, nothing was promised"
                );
                Outcome::Unpromised
            }
        }
    }
}

// === impl Known ===

impl Known {
    fn recipient(&self, devices: &BTreeSet<GpuUuid>) -> Option<(&Waiting, &Want)> {
        self.promises.recipient(devices, &self.rows)
    }
}

fn question(request: ContainerPreferredAllocationRequest) -> Question {
    let set = |ids: Vec<String>| ids.into_iter().map(GpuUuid).collect();
    Question {
        available: set(request.available_device_ids),
        must_include: set(request.must_include_device_ids),
        size: usize::try_from(request.allocation_size).unwrap_or(0),
    }
}
