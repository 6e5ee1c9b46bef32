//! What one seed's world is made of, and what may go wrong in it.

use crate::rng::Rng;

/// Pods by number; a pod created again under its number is another incarnation.
pub const PODS_MAX: usize = 10;
/// Nodes by number.
pub const NODES_MAX: usize = 3;
/// Incarnations of one pod.
pub const LIVES_MAX: usize = 3;
/// GPUs that a node may have.
pub const GPU_COUNTS: [usize; 3] = [2, 4, 8];

/// One seed's world before anything happens.
#[derive(Clone, Debug)]
pub struct Setting {
    /// GPUs of each node.
    pub gpu_counts: Vec<usize>,
    /// What each pod asks, as a number of [`crate::stock::CLAIMS`].
    pub claims: Vec<usize>,
    /// Things that happen before everything gets well again.
    pub event_count: usize,
    /// Which replicas and schedulers there are.
    pub control: Control,
    /// What the kubelets give.
    pub kubelet: Kubelet,
    /// Pods that somebody else binds, without an assignment.
    pub has_strangers: bool,
    /// GPUs break and recover.
    pub gpus_fail: bool,
    /// Nodes vanish and come back, renumbered.
    pub nodes_vanish: bool,
    /// Extenders and schedulers are killed.
    pub programs_die: bool,
    /// Agents fall silent, publish late, or name no uid.
    pub agents_fail: bool,
    /// kube-scheduler counts GPUs itself.
    pub is_counted_in_tree: bool,
    /// Time may jump by more than a second.
    pub time_jumps: bool,
}

/// Who schedules, and who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// One scheduler and one extender that always leads.
    Single,
    /// Two schedulers of different names, one extender that always leads.
    TwoSchedulers,
    /// Two pairs of scheduler and extender, one Lease.
    TwoReplicas,
}

/// What the kubelets give to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kubelet {
    /// What was promised, as with Berth's device plugin.
    Promised,
    /// Now and then what was promised to another pod, of equal size.
    Swaps,
    /// Anything that is free.
    Other,
}

// === impl Setting ===

impl Setting {
    /// The world of that seed.
    pub fn draw(rng: &mut Rng) -> Self {
        let node_count = 1 + rng.below(NODES_MAX);
        let pod_count = 4 + rng.below(PODS_MAX - 3);
        let kubelet = match rng.below(4) {
            0 | 1 => Kubelet::Promised,
            2 => Kubelet::Swaps,
            _ => Kubelet::Other,
        };
        let claim_count = match kubelet {
            // An init container's own GPUs are promised to nobody: the last claim has one.
            Kubelet::Promised => crate::stock::CLAIMS.len() - 1,
            Kubelet::Swaps | Kubelet::Other => crate::stock::CLAIMS.len(),
        };
        let control = match rng.below(5) {
            0 | 1 => Control::Single,
            2 => Control::TwoSchedulers,
            _ => Control::TwoReplicas,
        };
        let gpu_count = |rng: &mut Rng| GPU_COUNTS[[0, 1, 1, 2][rng.below(4)]];
        Self {
            gpu_counts: (0..node_count).map(|_| gpu_count(rng)).collect(),
            claims: (0..pod_count).map(|_| rng.below(claim_count)).collect(),
            event_count: 20 + rng.below(41),
            control,
            kubelet,
            has_strangers: rng.percent(25),
            gpus_fail: rng.percent(20),
            nodes_vanish: rng.percent(20),
            programs_die: rng.percent(50),
            agents_fail: rng.percent(40),
            is_counted_in_tree: rng.percent(50),
            time_jumps: rng.percent(60),
        }
    }

    /// Whether every promise must come true, GPU by GPU: nobody but us gives any away.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.kubelet == Kubelet::Promised && !self.has_strangers && !self.gpus_fail
    }
}
