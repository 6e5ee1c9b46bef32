//! A machine: its shape, and which GPU stands at each position.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::ptr;
use std::sync::{Arc, Weak};

use berth_topology::ids::{GpuIndex, GpuUuid, NumaId};
use berth_topology::kubelet::PluginOwner;
use berth_topology::node::Status;

use crate::facts::Facts;
use crate::kubelet::Kubelet;
use crate::mix::Mix;
use crate::set::GpuSet;
use crate::shape::Shape;
use crate::units::Kind;

/// One machine, ready to be placed on. Immutable; share it by `Arc`, or clone it.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(crate) shape: Arc<Shape>,
    /// What decides, besides the device plugin, which GPUs a container gets.
    pub(crate) kubelet: Arc<Kubelet>,
    uuids: Arc<[GpuUuid]>,
    /// Resources that a DRA driver serves.
    dra: Arc<[String]>,
}

/// What all answers about a machine depend on, besides what is free: equal ones give equal answers.
/// Machines that were read by one [`Shapes`] and are wired and run alike have the same.
#[derive(Clone, Copy, Debug)]
pub struct MachineKind<'a> {
    shape: &'a Shape,
    kubelet: &'a Kubelet,
}

/// Shapes seen before, so that machines of equal hardware share one, and with it its answers.
///
/// Compared by what placement reads, never by the hash that an agent claims: a wrong hash must not
/// lend one machine the wiring of another.
#[derive(Clone, Debug, Default)]
pub struct Shapes {
    known: HashMap<Arc<Facts>, Weak<Shape>>,
    kubelets: HashSet<Arc<Kubelet>>,
    mix: Mix,
    units: Kind,
}

// === impl Machine ===

impl Machine {
    /// Reads what an agent published. Any status gives a machine; what is unknown counts as the
    /// worst. GPUs beyond the first [`crate::GPUS_MAX`] are not placed on.
    #[must_use]
    pub fn new(status: &Status) -> Self {
        Shapes::default().machine(status)
    }

    /// Its kind. [`fit_pod`](crate::fit_pod) and [`Machine::kept_permille`] know no more of a machine.
    #[must_use]
    pub fn kind(&self) -> MachineKind<'_> {
        MachineKind {
            shape: &self.shape,
            kubelet: &self.kubelet,
        }
    }

    /// GPUs that can be given to a container: healthy or degraded, whole and not shared.
    #[must_use]
    pub fn usable(&self) -> GpuSet {
        self.shape.usable
    }

    /// Every GPU, usable or not.
    #[must_use]
    pub fn all(&self) -> GpuSet {
        GpuSet::first(self.uuids.len())
    }

    /// The positions of those GPUs; ones that are not of this machine are left out.
    #[must_use]
    pub fn set_of<'a>(&self, uuids: impl IntoIterator<Item = &'a GpuUuid>) -> GpuSet {
        uuids
            .into_iter()
            .filter_map(|uuid| self.position(uuid))
            .collect()
    }

    /// Where that GPU stands.
    #[must_use]
    pub fn position(&self, uuid: &GpuUuid) -> Option<usize> {
        self.uuids.iter().position(|known| known == uuid)
    }

    /// The GPU at each position.
    #[must_use]
    pub fn uuids(&self) -> &[GpuUuid] {
        &self.uuids
    }

    /// The number that people know that GPU by.
    ///
    /// # Panics
    /// When there is no GPU at `position`.
    #[must_use]
    pub fn index(&self, position: usize) -> GpuIndex {
        self.shape.facts.gpus[position].index
    }

    /// NUMA nodes that have CPUs which are not reserved.
    #[must_use]
    pub fn numa_nodes_with_cpus(&self) -> Vec<NumaId> {
        self.shape.facts.numa.iter().map(|node| node.id).collect()
    }

    /// Whether a DRA driver hands out `resource` here, so that no set can be promised.
    #[must_use]
    pub fn is_dra_managed(&self, resource: &str) -> bool {
        self.dra.iter().any(|managed| managed == resource)
    }
}

// === impl MachineKind ===

impl PartialEq for MachineKind<'_> {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.shape, other.shape) && ptr::eq(self.kubelet, other.kubelet)
    }
}

impl Eq for MachineKind<'_> {}

impl Hash for MachineKind<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        ptr::hash(self.shape, state);
        ptr::hash(self.kubelet, state);
    }
}

// === impl Shapes ===

impl Shapes {
    /// Shapes whose sets are weighed by the groups of `mix` that stay possible beside them.
    #[must_use]
    pub fn with_mix(mix: Mix) -> Self {
        Self {
            mix,
            ..Self::default()
        }
    }

    /// The same for the units of that resource: MIG instances of a profile for
    /// `nvidia.com/mig-PROFILE`, whole GPUs for any other.
    #[must_use]
    pub fn of_resource(self, resource: &str) -> Self {
        Self {
            units: Kind::of_resource(resource),
            ..self
        }
    }

    /// As [`Machine::new`], sharing the shape of an equal machine that is still in use.
    pub fn machine(&mut self, status: &Status) -> Machine {
        let units = self.units.units(status);
        let facts = Facts::read(status, &units);
        let dra = status
            .plugins
            .iter()
            .filter(|plugin| plugin.owner == PluginOwner::Dra);
        let shape = self.shape(facts);
        Machine {
            kubelet: self.kubelet(Kubelet::read(status, &shape)),
            shape,
            uuids: units.iter().map(|unit| unit.uuid.clone()).collect(),
            dra: dra.map(|plugin| plugin.resource.clone()).collect(),
        }
    }

    fn kubelet(&mut self, kubelet: Kubelet) -> Arc<Kubelet> {
        if let Some(known) = self.kubelets.get(&kubelet) {
            return Arc::clone(known);
        }
        self.kubelets.retain(|known| Arc::strong_count(known) > 1);
        let kubelet = Arc::new(kubelet);
        self.kubelets.insert(Arc::clone(&kubelet));
        kubelet
    }

    fn shape(&mut self, facts: Facts) -> Arc<Shape> {
        if let Some(shape) = self.known.get(&facts).and_then(Weak::upgrade) {
            return shape;
        }
        self.known.retain(|_, shape| shape.strong_count() > 0);
        let facts = Arc::new(facts);
        let shape = Arc::new(Shape::new(Arc::clone(&facts), self.mix.clone()));
        self.known.insert(facts, Arc::downgrade(&shape));
        shape
    }
}
