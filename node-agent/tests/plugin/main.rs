//! The device plugin at its sockets: a kubelet's and an API server's sides are played to it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod api_server;
mod kubelet;

use std::path::Path;
use std::time::{Duration, Instant};

use berth_node_agent::assemble::assemble;
use berth_node_agent::history::SharedHistory;
use berth_node_agent::plugin::answer::{DeviceList, Wording};
use berth_node_agent::plugin::api::{DevicePluginOptions, Empty, HEALTHY, UNHEALTHY};
use berth_node_agent::plugin::pod_resources::{ContainerDevices, PodResourcesSocket};
use berth_node_agent::plugin::{self, Settings};
use berth_node_agent::probe::{Probe, Source};
use berth_node_agent::publish::{Given, Observation};
use berth_topology::assignment::{Assignment, ContainerAssignment, Rank};
use berth_topology::gpu::{HealthState, Mig, MigInstance, Xid};
use berth_topology::ids::PodUid;
use berth_topology::names;
use berth_topology::node::Status;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;

use api_server::ApiServer;
use kubelet::{Kubelet, PATIENCE};

const RESOURCE: &str = "nvidia.com/gpu";
/// Long enough for a plugin that does not wait to be wrong.
const BRIEFLY: Duration = Duration::from_millis(300);

/// An agent on a DGX H100 with a folder, an API server and nothing else.
struct Stage {
    folder: TempDir,
    api: ApiServer,
    observations: watch::Sender<Option<Observation>>,
    given: watch::Receiver<Option<Given>>,
    _agent: JoinSet<()>,
}

// === impl Stage ===

impl Stage {
    fn new(serves: bool) -> Self {
        let history = SharedHistory::default();
        history.recall(None, None);
        Self::with_history(serves, history)
    }

    fn with_history(serves: bool, history: SharedHistory) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let api = ApiServer::start();
        let (observations, observed) = watch::channel(None);
        let (giver, given) = watch::channel(None);
        let settings = Settings {
            serves,
            resource: RESOURCE.to_owned(),
            numa_hints: true,
            folder: folder.path().to_owned(),
            pod_resources: Some(PodResourcesSocket(folder.path().join("pod-resources.sock"))),
            wording: Wording {
                lists: vec![DeviceList::Envvar],
                control_files: None,
            },
            tally: std::sync::Arc::default(),
            recall_wait_max: PATIENCE,
        };
        let mut agent = JoinSet::new();
        let client = api.client();
        let giving = (giver, history);
        agent.spawn(plugin::run(settings, client, "n1".into(), observed, giving));
        let stage = Self {
            folder,
            api,
            observations,
            given,
            _agent: agent,
        };
        stage.observe(|_| {});
        stage
    }

    /// The probe sees the machine with that change.
    fn observe(&self, change: impl FnOnce(&mut Status)) {
        let mut status = dgx_h100();
        change(&mut status);
        let at = tokio::time::Instant::now();
        self.observations
            .send_replace(Some(Observation { status, at }));
    }

    fn kubelet(&self) -> Kubelet {
        Kubelet::start(self.folder.path())
    }

    /// Waits until what the agent would publish is as wanted.
    async fn until_given(&self, what: &str, wanted: impl Fn(&Given) -> bool) -> Given {
        let is_wanted = |given: &Option<Given>| given.as_ref().is_some_and(&wanted);
        let mut given = self.given.clone();
        let waited = tokio::time::timeout(PATIENCE, given.wait_for(is_wanted)).await;
        match waited {
            Ok(given) => given.unwrap().clone().unwrap(),
            Err(_) => panic!("{what} did not come; last: {:?}", self.given.borrow()),
        }
    }

    async fn until_another_owns_it(&self) -> Given {
        let is_others = |given: &Given| {
            let mut owners = given.plugins.iter().map(|plugin| plugin.owner.as_str());
            owners.any(|owner| owner == "other")
        };
        self.until_given("another owner", is_others).await
    }
}

fn dgx_h100() -> Status {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../machines/dgx-h100.raw.json");
    assemble(&Probe::new(Source::Recorded(path)).read().unwrap())
}

fn uuids(numbers: &[usize]) -> Vec<String> {
    let status = dgx_h100();
    let uuid = |number: &usize| status.gpus[*number].uuid.to_string();
    numbers.iter().map(uuid).collect()
}

/// Bound to `n1`, promised those GPUs in rank order.
fn pod(name: &str, ranks: &[usize]) -> Pod {
    let numbered = uuids(ranks).into_iter().enumerate();
    let main = ContainerAssignment {
        ranks: numbered
            .map(|(rank, gpu)| Rank {
                rank,
                gpu: Some(gpu.as_str().into()),
                ..Rank::default()
            })
            .collect(),
        ..ContainerAssignment::default()
    };
    let uid = format!("uid-{name}");
    let assignment = Assignment {
        schema: names::SCHEMA.to_owned(),
        pod_uid: Some(PodUid(uid.clone())),
        node: Some("n1".into()),
        topology_hash: None,
        containers: [("main".to_owned(), main)].into(),
    };
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "default", "uid": uid,
            "annotations": {names::ASSIGNMENT: assignment.encode()},
        },
        "spec": {"nodeName": "n1", "containers": [{
            "name": "main", "resources": {"limits": {RESOURCE: ranks.len().to_string()}},
        }]},
    }))
    .unwrap()
}

fn ended(pod: Pod) -> Pod {
    let mut pod = pod;
    pod.status = Some(serde_json::from_value(json!({"phase": "Succeeded"})).unwrap());
    pod
}

#[tokio::test]
async fn the_gpus_that_were_promised_are_the_gpus_that_arrive_in_rank_order() {
    let stage = Stage::new(true);
    let kubelet = stage.kubelet();
    let seen = kubelet.until_registered().await;
    assert_eq!(seen.registered[0].resource_name, RESOURCE);
    assert_eq!(
        seen.options
            .map(|options| options.get_preferred_allocation_available),
        Some(true)
    );
    let devices = &seen.devices[RESOURCE].devices;
    let nodes = devices
        .iter()
        .map(|device| device.topology.as_ref().unwrap().nodes[0].id);
    assert_eq!(nodes.collect::<Vec<_>>(), [0, 0, 0, 0, 1, 1, 1, 1]);

    stage.api.apply(pod("a", &[6, 3, 4, 1]));
    stage.api.apply(pod("b", &[0, 7]));
    for (name, ranks) in [("a", vec![6, 3, 4, 1]), ("b", vec![0, 7])] {
        let answer = kubelet.admit(name, "main", ranks.len()).await.unwrap();
        assert_eq!(
            answer.envs["NVIDIA_VISIBLE_DEVICES"],
            uuids(&ranks).join(",")
        );
        let told = ContainerAssignment::decode(&answer.envs["BERTH_ALLOCATION"]).unwrap();
        let told: Vec<String> = told.gpus().map(ToString::to_string).collect();
        assert_eq!(told, uuids(&ranks));
    }

    let given = stage
        .until_given("both allocations with their CPUs", |given| {
            let rows = &given.allocations;
            rows.len() == 2 && rows.iter().all(|row| row.cpus.is_some())
        })
        .await;
    let b = &given.allocations[1];
    assert_eq!(b.pod_uid, Some("uid-b".into()));
    assert_eq!((b.name.as_str(), b.container.as_str()), ("b", "main"));
    let mut held: Vec<String> = b.devices.iter().map(ToString::to_string).collect();
    held.sort();
    let mut promised = uuids(&[0, 7]);
    promised.sort();
    assert_eq!(held, promised);
    assert_eq!(b.cpus.as_ref().unwrap().to_string(), "2-3");
    let plugin = &given.plugins[0];
    assert_eq!(plugin.owner.as_str(), "berth");
    assert!(plugin.registered && plugin.exact);

    stage.api.apply(ended(pod("a", &[6, 3, 4, 1])));
    stage.api.delete(pod("b", &[0, 7]));
    stage
        .until_given("nothing held", |given| given.allocations.is_empty())
        .await;
}

#[tokio::test]
async fn a_pod_that_the_watch_has_not_told_of_is_asked_for_once() {
    let stage = Stage::new(true);
    let kubelet = stage.kubelet();
    kubelet.until_registered().await;
    stage.api.stall_watch();
    let before = stage.api.lists();
    stage.api.apply(pod("a", &[5, 2]));
    let answer = kubelet.admit("a", "main", 2).await.unwrap();
    assert_eq!(
        answer.envs["NVIDIA_VISIBLE_DEVICES"],
        uuids(&[5, 2]).join(",")
    );
    assert_eq!(stage.api.lists(), before + 1);
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_keeps_no_pod_waiting() {
    let stage = Stage::new(true);
    let kubelet = stage.kubelet();
    kubelet.until_registered().await;
    stage.api.fall_silent();
    let asked = Instant::now();
    let preferred = kubelet.prefer(2).await.unwrap();
    println!("answered after {:?}", asked.elapsed());
    let first: Vec<String> = uuids(&[0, 1]);
    assert_eq!(preferred, first.into_iter().collect());
}

#[tokio::test]
async fn a_kubelet_that_was_started_again_is_told_again_and_nothing_is_given_twice() {
    let stage = Stage::new(true);
    let kubelet = stage.kubelet();
    kubelet.until_registered().await;
    stage.api.apply(pod("a", &[0, 1]));
    kubelet.admit("a", "main", 2).await.unwrap();
    drop(kubelet);

    let started = Instant::now();
    let kubelet = stage.kubelet();
    kubelet.until_registered().await;
    println!("registered again after {:?}", started.elapsed());
    let refused = kubelet
        .allocate(&uuids(&[1, 2]).into_iter().collect())
        .await;
    let message = refused.unwrap_err().to_string();
    assert!(
        message.contains("still held by container main of pod default/a"),
        "{message}"
    );

    stage.api.apply(ended(pod("a", &[0, 1])));
    kubelet
        .allocate(&uuids(&[1, 2]).into_iter().collect())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_plugin_that_was_started_again_goes_by_what_the_kubelet_wrote() {
    let stage = Stage::new(true);
    let kubelet = stage.kubelet();
    kubelet.until_registered().await;
    for (name, ranks) in [("a", [0, 1]), ("b", [2, 3])] {
        stage.api.apply(pod(name, &ranks));
    }
    kubelet.admit("a", "main", 2).await.unwrap();
    let Stage {
        folder,
        api,
        observations,
        ..
    } = stage;
    drop(observations);
    kubelet
        .until("the end of the stream", |seen| seen.devices.is_empty())
        .await;

    let (observations, observed) = watch::channel(None);
    let (giver, _given) = watch::channel(None);
    let settings = Settings {
        serves: true,
        resource: RESOURCE.to_owned(),
        numa_hints: false,
        folder: folder.path().to_owned(),
        pod_resources: None,
        wording: Wording {
            lists: vec![DeviceList::Envvar],
            control_files: None,
        },
        tally: std::sync::Arc::default(),
        // nobody recalls anything here: the kubelet is served all the same
        recall_wait_max: Duration::ZERO,
    };
    let mut agent = JoinSet::new();
    agent.spawn(plugin::run(
        settings,
        api.client(),
        "n1".into(),
        observed,
        (giver, SharedHistory::default()),
    ));
    let at = tokio::time::Instant::now();
    let status = dgx_h100();
    observations.send_replace(Some(Observation { status, at }));
    let seen = kubelet
        .until("the second registration", |seen| {
            seen.registered.len() > 1 && !seen.devices.is_empty()
        })
        .await;
    let has_nodes = seen.devices[RESOURCE]
        .devices
        .iter()
        .any(|device| device.topology.is_some());
    assert!(!has_nodes, "NUMA nodes are told without hints");
    let answer = kubelet.admit("b", "main", 2).await.unwrap();
    assert_eq!(
        answer.envs["NVIDIA_VISIBLE_DEVICES"],
        uuids(&[2, 3]).join(",")
    );
}

#[tokio::test]
async fn a_gpu_that_fails_is_listed_as_unhealthy_at_once_and_comes_back() {
    let stage = Stage::new(true);
    let kubelet = stage.kubelet();
    kubelet.until_registered().await;
    stage.observe(|status| status.gpus[3].health.state = HealthState::Failed);
    let health = |wanted: &'static str| {
        move |seen: &kubelet::Seen| {
            let list = seen.devices.get(RESOURCE);
            list.is_some_and(|list| list.devices[3].health == wanted)
        }
    };
    kubelet.until("an unhealthy GPU", health(UNHEALTHY)).await;
    stage.observe(|_| {});
    kubelet.until("a healthy GPU", health(HEALTHY)).await;
    // off the bus: it stays listed
    stage.observe(|status| {
        status.gpus.remove(3);
    });
    kubelet.until("a lost GPU", health(UNHEALTHY)).await;
}

#[tokio::test]
async fn what_an_earlier_run_knew_of_a_gpu_is_in_the_first_list() {
    let history = SharedHistory::default();
    let stage = Stage::with_history(true, history.clone());
    let kubelet = stage.kubelet();
    let too_early = tokio::time::timeout(BRIEFLY, kubelet.until_registered()).await;
    assert!(too_early.is_err(), "it lists what it does not know yet");
    let mut published = dgx_h100();
    published.gpus[3].health.xids = vec![Xid {
        code: 95,
        at: "2026-01-01T00:00:00Z".to_owned(),
        driver_load: None,
    }];
    history.recall(Some(&published), published.boot_id.as_deref());
    let is_listed = |seen: &kubelet::Seen| seen.first.contains_key(RESOURCE);
    let seen = kubelet.until("the first list", is_listed).await;
    let health = |number: usize| seen.first[RESOURCE].devices[number].health.clone();
    assert_eq!([health(2), health(3)], [HEALTHY, UNHEALTHY]);
}

#[tokio::test]
async fn mig_instances_are_devices_of_a_resource_of_their_own() {
    let stage = Stage::new(true);
    let kubelet = stage.kubelet();
    stage.observe(|status| {
        let instance = |number: usize| MigInstance {
            uuid: format!("MIG-{number}").as_str().into(),
            profile: "1g.10gb".to_owned(),
            ..MigInstance::default()
        };
        status.gpus[7].mig = Some(Mig {
            mode: "enabled".to_owned(),
            instances: (0..7).map(instance).collect(),
        });
    });
    let seen = kubelet
        .until("both resources", |seen| {
            let counts = seen.devices.values().map(|list| list.devices.len());
            counts.collect::<Vec<_>>() == [7, 7]
        })
        .await;
    let names: Vec<&String> = seen.devices.keys().collect();
    assert_eq!(names, [RESOURCE, "nvidia.com/mig-1g.10gb"]);
}

#[tokio::test]
async fn while_nvidias_plugin_answers_ours_does_not_register_and_says_so() {
    let stage = Stage::new(true);
    let path = stage.folder.path().join("nvidia-gpu.sock");
    let mut rival = JoinSet::new();
    rival.spawn(kubelet::serve(path.clone(), |request| async {
        let options = |_: tonic::Request<Empty>| async {
            Ok(tonic::Response::new(DevicePluginOptions::default()))
        };
        type Codec = tonic_prost::ProstCodec<DevicePluginOptions, Empty>;
        let mut grpc = tonic::server::Grpc::new(Codec::default());
        Ok(grpc.unary(tower::service_fn(options), request).await)
    }));
    // started after the kubelet, as a plugin is
    let kubelet = {
        let aside = stage.folder.path().join("aside");
        while !path.exists() {
            tokio::task::yield_now().await;
        }
        std::fs::rename(&path, &aside).unwrap();
        let kubelet = stage.kubelet();
        std::fs::rename(&aside, &path).unwrap();
        kubelet
    };
    let given = stage.until_another_owns_it().await;
    assert!(!given.plugins[0].exact);
    drop(rival);
    std::fs::remove_file(&path).unwrap();
    kubelet.until_registered().await;
    stage
        .until_given("our own", |given| {
            given.plugins[0].registered && given.plugins[0].exact
        })
        .await;
}

#[tokio::test]
async fn devices_that_the_kubelet_has_from_somebody_else_are_left_to_it() {
    let stage = Stage::new(true);
    let kubelet = stage.kubelet();
    kubelet.set_allocatable(vec![ContainerDevices {
        resource_name: RESOURCE.to_owned(),
        device_ids: uuids(&[0, 1]),
    }]);
    stage.until_another_owns_it().await;
    assert!(kubelet.seen().registered.is_empty());
    kubelet.set_allocatable(Vec::new());
    kubelet.until_registered().await;
}

#[tokio::test]
async fn beside_another_plugin_the_agent_only_tells_what_was_given() {
    let stage = Stage::new(false);
    let kubelet = stage.kubelet();
    let shares = uuids(&[0])
        .into_iter()
        .flat_map(|uuid| (0..4).map(move |share| format!("{uuid}::{share}")));
    kubelet.set_allocatable(vec![ContainerDevices {
        resource_name: RESOURCE.to_owned(),
        device_ids: shares.collect(),
    }]);
    let given = stage.until_another_owns_it().await;
    assert_eq!(given.shares.values().copied().collect::<Vec<_>>(), [4]);
    assert!(
        !stage
            .folder
            .path()
            .join("berth-nvidia.com_gpu.sock")
            .exists()
    );
}

#[tokio::test]
async fn podresources_is_never_asked_while_an_allocation_is_served() {
    let stage = Stage::new(true);
    let kubelet = stage.kubelet();
    kubelet.until_registered().await;
    kubelet.answer_after(Duration::from_millis(200));
    stage.api.apply(pod("a", &[0, 1]));
    let deadline = Instant::now() + PATIENCE;
    while kubelet.asked().0 == 0 {
        assert!(Instant::now() < deadline, "PodResources is not asked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let preferred = kubelet.prefer(2).await.unwrap();
    assert_eq!(
        kubelet.asked().0,
        0,
        "a call was under way when the answer came"
    );
    let before = kubelet.asked().1;
    kubelet.give("a", "main", &preferred).await.unwrap();
    assert_eq!(kubelet.asked(), (0, before), "asked between the two calls");
}
