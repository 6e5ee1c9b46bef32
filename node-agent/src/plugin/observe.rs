//! What the kubelet gave, kept up to date for the NodeTopology.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use berth_topology::allocation::Allocation;
use berth_topology::ids::GpuUuid;
use berth_topology::kubelet::{Plugin, PluginOwner};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::books::Books;
use super::bound::BoundPods;
use super::channel;
use super::checkpoint;
use super::gate::Gate;
use super::pod_resources::{AllocatableResourcesResponse, PodResourcesSocket};
use super::session::Standing;
use super::{Settings, Standings};
use crate::publish::Given;

/// Between two looks at the kubelet's checkpoint, which costs one `stat` and a few kilobytes.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// PodResources is asked when a pod has changed, and else so often: it has no watch.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// After a change the kubelet needs a moment, and may have more to do.
const ASK_AFTER_CHANGE: Duration = Duration::from_secs(1);

/// Collects.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) settings: Settings,
    pub(crate) pods: Arc<BoundPods>,
    pub(crate) books: Arc<Books>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) standings: watch::Receiver<Standings>,
    /// Resources that the machine has devices of.
    pub(crate) resources: watch::Sender<BTreeSet<String>>,
}

/// When PodResources is asked next.
struct Schedule {
    asked_at: Option<Instant>,
    changed_at: Option<Instant>,
    was_answered: bool,
    trouble: Option<String>,
}

// === impl Observer ===

impl Observer {
    /// Until nobody listens.
    pub(crate) async fn run(self, given: watch::Sender<Option<Given>>) {
        let mut schedule = Schedule {
            asked_at: None,
            changed_at: None,
            was_answered: false,
            trouble: None,
        };
        let mut changes = self.pods.changes();
        let mut allocatable = AllocatableResourcesResponse::default();
        let mut written = None;
        while !given.is_closed() {
            if changes.has_changed().unwrap_or(false) {
                changes.mark_unchanged();
                schedule.has_changed();
            }
            let (mut rows, modified) = self.books.rows();
            if modified != written {
                written = modified;
                schedule.has_changed();
            }
            if schedule.is_due()
                && let Some(socket) = &self.settings.pod_resources
            {
                self.ask(socket, &mut schedule, &mut allocatable).await;
                (rows, _) = self.books.rows();
            }
            if self.knows_enough(&schedule) {
                self.tell(&given, rows, &allocatable);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn tell(
        &self,
        given: &watch::Sender<Option<Given>>,
        rows: Vec<Allocation>,
        allocatable: &AllocatableResourcesResponse,
    ) {
        let now = self.given(rows, allocatable);
        given.send_if_modified(|known| {
            let has_changed = known.as_ref() != Some(&now);
            if has_changed {
                *known = Some(now);
            }
            has_changed
        });
    }

    /// Until then what an earlier run published stays: an allocation that is not listed is a GPU that
    /// may be promised again. Where PodResources does not answer, the checkpoint alone will do.
    fn knows_enough(&self, schedule: &Schedule) -> bool {
        let has_checkpoint = self.settings.serves && schedule.trouble.is_some();
        self.pods.lock().is_listed()
            && (self.settings.pod_resources.is_none() || schedule.was_answered || has_checkpoint)
    }

    /// Skipped while an allocation is served; the next look tries again.
    async fn ask(
        &self,
        socket: &PodResourcesSocket,
        schedule: &mut Schedule,
        allocatable: &mut AllocatableResourcesResponse,
    ) {
        let Some(_asking) = self.gate.try_ask() else {
            return;
        };
        schedule.asked_at = Some(Instant::now());
        schedule.changed_at = None;
        match self.ask_both(socket, allocatable).await {
            Ok(()) => {
                schedule.was_answered = true;
                schedule.trouble = None;
            }
            Err(error) => schedule.tell(format!("{:#}", anyhow::Error::from(error))),
        }
    }

    /// What others serve is only asked for where we do not: an allocation that we serve waits for one
    /// call at most.
    async fn ask_both(
        &self,
        socket: &PodResourcesSocket,
        allocatable: &mut AllocatableResourcesResponse,
    ) -> Result<(), channel::Error> {
        let list = socket.list().await?;
        self.books.list(&list.pod_resources);
        if !self.settings.serves {
            *allocatable = socket.allocatable().await?;
        }
        Ok(())
    }

    fn given(&self, rows: Vec<Allocation>, allocatable: &AllocatableResourcesResponse) -> Given {
        let resources = self.resources.borrow().clone();
        let standings = self.standings.borrow();
        let plugins = resources.iter().map(|resource| {
            let standing = standings.get(resource).map(|standing| standing.borrow());
            let others_serve = allocatable.devices_of(resource).next().is_some();
            let has_hints = self.settings.numa_hints;
            plugin(resource, standing.as_deref(), others_serve, has_hints)
        });
        Given {
            plugins: plugins.collect(),
            allocations: ours(rows, &resources),
            shares: shares(allocatable, &resources),
        }
    }
}

// === impl Schedule ===

impl Schedule {
    fn is_due(&self) -> bool {
        let since = |at: Option<Instant>| at.map(|at| at.elapsed());
        since(self.asked_at).is_none_or(|age| age >= ASK_EVERY)
            || since(self.changed_at).is_some_and(|age| age >= ASK_AFTER_CHANGE)
    }

    /// Counts from the first change: where one follows the other it is asked all the same.
    fn has_changed(&mut self) {
        self.changed_at.get_or_insert_with(Instant::now);
    }

    fn tell(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            warn!(trouble, "PodResources cannot be read");
            self.trouble = Some(trouble);
        }
    }
}

/// Who serves a resource. `standing` is ours, where we mean to serve it.
fn plugin(
    resource: &str,
    standing: Option<&Standing>,
    others_serve: bool,
    has_hints: bool,
) -> Plugin {
    let (owner, registered) = match standing {
        Some(Standing::Registered) => (PluginOwner::Berth, true),
        Some(Standing::Away) => (PluginOwner::Berth, false),
        Some(Standing::Refused(_)) => (PluginOwner::Other, true),
        None if others_serve => (PluginOwner::Other, true),
        None => (PluginOwner::None, false),
    };
    Plugin {
        resource: resource.to_owned(),
        owner,
        registered,
        exact: owner == PluginOwner::Berth,
        unaligned: owner == PluginOwner::Berth && !has_hints,
    }
}

/// GPUs, and whoever holds CPUs for itself.
fn ours(rows: Vec<Allocation>, resources: &BTreeSet<String>) -> Vec<Allocation> {
    let mut rows = rows;
    rows.retain(|row| resources.contains(&row.resource) || row.cpus.is_some());
    for row in &mut rows {
        if !resources.contains(&row.resource) {
            row.resource.clear();
            row.devices.clear();
        }
    }
    rows.dedup();
    rows
}

/// GPUs that the kubelet counts several times.
fn shares(
    allocatable: &AllocatableResourcesResponse,
    resources: &BTreeSet<String>,
) -> BTreeMap<GpuUuid, u32> {
    let mut shares = BTreeMap::new();
    let ids = resources
        .iter()
        .flat_map(|resource| allocatable.devices_of(resource));
    for id in ids.filter(|id| id.contains("::")) {
        *shares.entry(checkpoint::device(id)).or_insert(0) += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use berth_topology::cpus::CpuList;
    use expect_test::{Expect, expect};

    use super::super::pod_resources::ContainerDevices;
    use super::super::rivals::Rival;
    use super::*;

    #[track_caller]
    fn check(standing: Option<Standing>, others_serve: bool, expected: Expect) {
        let plugin = plugin("nvidia.com/gpu", standing.as_ref(), others_serve, true);
        assert!(!plugin.unaligned);
        let Plugin {
            owner,
            registered,
            exact,
            ..
        } = plugin;
        expected.assert_eq(&format!("{owner} registered={registered} exact={exact}"));
    }

    #[test]
    fn promises_are_exact_only_where_berths_plugin_serves() {
        check(
            Some(Standing::Registered),
            true,
            expect!["berth registered=true exact=true"],
        );
        check(
            Some(Standing::Away),
            false,
            expect!["berth registered=false exact=true"],
        );
        let rival = Rival::Devices {
            resource: "nvidia.com/gpu".to_owned(),
            count: 8,
        };
        check(
            Some(Standing::Refused(rival)),
            true,
            expect!["other registered=true exact=false"],
        );
        check(None, true, expect!["other registered=true exact=false"]);
        check(None, false, expect!["none registered=false exact=false"]);
    }

    #[test]
    fn a_gpu_that_is_listed_several_times_is_shared() {
        let allocatable = AllocatableResourcesResponse {
            devices: vec![ContainerDevices {
                resource_name: "nvidia.com/gpu".to_owned(),
                device_ids: ["GPU-a::0", "GPU-a::1", "GPU-b"]
                    .map(str::to_owned)
                    .to_vec(),
            }],
        };
        let resources = BTreeSet::from(["nvidia.com/gpu".to_owned()]);
        assert_eq!(
            shares(&allocatable, &resources),
            BTreeMap::from([(GpuUuid::from("GPU-a"), 2)])
        );
        assert!(shares(&allocatable, &BTreeSet::new()).is_empty());
    }

    #[test]
    fn other_resources_are_not_told_but_the_cpus_of_their_containers_are() {
        let row = |resource: &str, cpus: Option<&str>| Allocation {
            resource: resource.to_owned(),
            devices: vec!["x".into()],
            cpus: cpus.map(|cpus| cpus.parse::<CpuList>().expect("a list")),
            ..Allocation::default()
        };
        let resources = BTreeSet::from(["nvidia.com/gpu".to_owned()]);
        let rows = vec![
            row("nvidia.com/gpu", None),
            row("rdma/hca", None),
            row("rdma/hca", Some("0-3")),
        ];
        let told = ours(rows, &resources);
        let told: Vec<(&str, usize)> = told
            .iter()
            .map(|row| (row.resource.as_str(), row.devices.len()))
            .collect();
        assert_eq!(told, [("nvidia.com/gpu", 1), ("", 0)]);
    }
}
