//! Plays the kubelet at its sockets: the calls, their order and its book are those of Kubernetes
//! 1.37.1 (`pkg/kubelet/cm/devicemanager`).

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_node_agent::plugin::api::{
    AllocateRequest, AllocateResponse, ContainerAllocateRequest, ContainerAllocateResponse,
    ContainerPreferredAllocationRequest, DevicePluginOptions, Empty, HEALTHY, ListAndWatchResponse,
    PreferredAllocationRequest, PreferredAllocationResponse, RegisterRequest,
};
use berth_node_agent::plugin::channel;
use berth_node_agent::plugin::checkpoint;
use berth_node_agent::plugin::pod_resources::{
    AllocatableResourcesResponse, ContainerDevices, ContainerResources, ListPodResourcesResponse,
    Nothing, PodResources,
};
use http::uri::PathAndQuery;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::client::Grpc as Client;
use tonic::server::Grpc;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

const PLUGIN: &str = "v1beta1.DevicePlugin";
/// Anything that takes longer does not come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One run of a kubelet. Dropped, it is dead: its connections end, its files stay.
pub(crate) struct Kubelet {
    pub(crate) folder: PathBuf,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    folder: PathBuf,
    state: Mutex<State>,
    /// Registrations and the devices that came with them, newest last.
    seen: watch::Sender<Seen>,
    streams: tokio::sync::Mutex<JoinSet<()>>,
}

/// What plugins told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) registered: Vec<RegisterRequest>,
    pub(crate) options: Option<DevicePluginOptions>,
    /// The first list of all, by resource.
    pub(crate) first: BTreeMap<String, ListAndWatchResponse>,
    /// The last list, by resource.
    pub(crate) devices: BTreeMap<String, ListAndWatchResponse>,
}

/// Its book.
#[derive(Default)]
struct State {
    /// By pod uid and container.
    given: BTreeMap<(String, String), BTreeSet<String>>,
    /// What PodResources answers besides.
    extra_allocatable: Vec<ContainerDevices>,
    names: BTreeMap<String, String>,
    /// How long PodResources takes, and how often it was asked.
    answers_after: Duration,
    asking: usize,
    asked: usize,
}

// === impl Kubelet ===

impl Kubelet {
    /// Starts as a kubelet does: reads its book, removes every socket in its folder, then listens.
    pub(crate) fn start(folder: &Path) -> Self {
        let is_socket = |path: &Path| path.extension().is_some_and(|ending| ending == "sock");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if is_socket(&path) {
                std::fs::remove_file(path).unwrap();
            }
        }
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            ..Shared::default()
        });
        let mut tasks = JoinSet::new();
        let registration = shared.clone();
        tasks.spawn(serve(folder.join("kubelet.sock"), move |request| {
            let shared = registration.clone();
            async move { shared.registration(request).await }
        }));
        let lister = shared.clone();
        tasks.spawn(serve(folder.join("pod-resources.sock"), move |request| {
            let shared = lister.clone();
            async move { shared.pod_resources(request).await }
        }));
        Self {
            folder: folder.to_owned(),
            shared,
            _tasks: tasks,
        }
    }

    /// What plugins told so far.
    pub(crate) fn seen(&self) -> Seen {
        self.shared.seen.borrow().clone()
    }

    /// Waits until what plugins told is as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let mut seen = self.shared.seen.subscribe();
        let waited = tokio::time::timeout(PATIENCE, seen.wait_for(wanted)).await;
        let last = self.shared.seen.borrow().clone();
        match waited {
            Ok(found) => found.unwrap().clone(),
            Err(_) => panic!("{what} did not come; seen: {last:?}"),
        }
    }

    pub(crate) async fn until_registered(&self) -> Seen {
        self.until("a registration with devices", |seen| {
            !seen.registered.is_empty() && !seen.devices.is_empty()
        })
        .await
    }

    /// Asks for a preference, then gives that, as for one container without NUMA affinity. The book
    /// is written afterwards.
    pub(crate) async fn admit(
        &self,
        pod: &str,
        container: &str,
        size: usize,
    ) -> Result<ContainerAllocateResponse, channel::Error> {
        let preferred = self.prefer(size).await?;
        self.give(pod, container, &preferred).await
    }

    pub(crate) async fn prefer(&self, size: usize) -> Result<BTreeSet<String>, channel::Error> {
        let request = PreferredAllocationRequest {
            container_requests: vec![ContainerPreferredAllocationRequest {
                available_device_ids: self.free().into_iter().collect(),
                must_include_device_ids: Vec::new(),
                allocation_size: i32::try_from(size).unwrap(),
            }],
        };
        let answer: PreferredAllocationResponse =
            self.call("GetPreferredAllocation", request).await?;
        Ok(answer.container_responses[0]
            .device_ids
            .iter()
            .cloned()
            .collect())
    }

    pub(crate) async fn give(
        &self,
        pod: &str,
        container: &str,
        devices: &BTreeSet<String>,
    ) -> Result<ContainerAllocateResponse, channel::Error> {
        let answer = self.allocate(devices).await?;
        let mut state = self.shared.state.lock().unwrap();
        let key = (format!("uid-{pod}"), container.to_owned());
        state.names.insert(key.0.clone(), pod.to_owned());
        state.given.insert(key, devices.clone());
        drop(state);
        self.shared.write_checkpoint();
        Ok(answer)
    }

    /// Allocate alone: its set has another order than the preference.
    pub(crate) async fn allocate(
        &self,
        devices: &BTreeSet<String>,
    ) -> Result<ContainerAllocateResponse, channel::Error> {
        let request = AllocateRequest {
            container_requests: vec![ContainerAllocateRequest {
                devices_ids: devices.iter().rev().cloned().collect(),
            }],
        };
        let answer: AllocateResponse = self.call("Allocate", request).await?;
        Ok(answer.container_responses[0].clone())
    }

    /// Another plugin's devices.
    pub(crate) fn set_allocatable(&self, devices: Vec<ContainerDevices>) {
        self.shared.state.lock().unwrap().extra_allocatable = devices;
    }

    /// How long PodResources takes from now on.
    pub(crate) fn answer_after(&self, delay: Duration) {
        self.shared.state.lock().unwrap().answers_after = delay;
    }

    /// Calls of PodResources: under way, and in all.
    pub(crate) fn asked(&self) -> (usize, usize) {
        let state = self.shared.state.lock().unwrap();
        (state.asking, state.asked)
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, channel::Error>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let endpoint = self.shared.seen.borrow().registered[0].endpoint.clone();
        channel::call(
            &self.folder.join(endpoint),
            PLUGIN,
            method,
            request,
            PATIENCE,
        )
        .await
    }

    fn free(&self) -> BTreeSet<String> {
        let seen = self.shared.seen.borrow();
        let devices = seen.devices.values().flat_map(|list| &list.devices);
        let healthy = devices.filter(|device| device.health == HEALTHY);
        let state = self.shared.state.lock().unwrap();
        let held: BTreeSet<&String> = state.given.values().flatten().collect();
        healthy
            .map(|device| device.id.clone())
            .filter(|id| !held.contains(id))
            .collect()
    }
}

impl Drop for Kubelet {
    /// Its streams hold what is shared, and would outlive it.
    fn drop(&mut self) {
        if let Ok(mut streams) = self.shared.streams.try_lock() {
            streams.abort_all();
        }
    }
}

// === impl Shared ===

impl Shared {
    async fn registration(
        self: Arc<Self>,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Infallible> {
        let register = move |request: Request<RegisterRequest>| {
            let shared = self.clone();
            async move { shared.register(request.into_inner()).await }
        };
        let mut grpc = Grpc::new(ProstCodec::<Empty, RegisterRequest>::default());
        Ok(grpc.unary(service_fn(register), request).await)
    }

    /// Connects and asks for options before it answers; watches afterwards.
    async fn register(
        self: Arc<Self>,
        request: RegisterRequest,
    ) -> Result<Response<Empty>, Status> {
        let path = self.folder.join(&request.endpoint);
        let method = "GetDevicePluginOptions";
        let options: DevicePluginOptions = channel::call(&path, PLUGIN, method, Empty {}, PATIENCE)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        self.seen.send_modify(|seen| {
            seen.options = Some(options);
            seen.registered.push(request.clone());
        });
        let shared = self.clone();
        let mut streams = self.streams.lock().await;
        streams.spawn(async move {
            shared.watch(&path, &request.resource_name).await;
            shared.seen.send_modify(|seen| {
                seen.devices.remove(&request.resource_name);
            });
        });
        Ok(Response::new(Empty {}))
    }

    /// Until the plugin ends the stream.
    async fn watch(&self, path: &Path, resource: &str) {
        let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
        let Ok(channel) = endpoint.connect().await else {
            return;
        };
        let mut client = Client::new(channel);
        if client.ready().await.is_err() {
            return;
        }
        let method = PathAndQuery::from_static("/v1beta1.DevicePlugin/ListAndWatch");
        let codec = ProstCodec::<Empty, ListAndWatchResponse>::default();
        let stream = client.server_streaming(Request::new(Empty {}), method, codec);
        let Ok(stream) = stream.await else {
            return;
        };
        let mut stream = stream.into_inner();
        while let Ok(Some(list)) = stream.message().await {
            self.seen.send_modify(|seen| {
                let first = seen.first.entry(resource.to_owned());
                first.or_insert_with(|| list.clone());
                seen.devices.insert(resource.to_owned(), list);
            });
        }
    }

    async fn pod_resources(
        self: Arc<Self>,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Infallible> {
        if request.uri().path().ends_with("/List") {
            let list = move |_: Request<Nothing>| {
                let shared = self.clone();
                async move { Ok(Response::new(shared.list().await)) }
            };
            let mut grpc = Grpc::new(ProstCodec::<ListPodResourcesResponse, Nothing>::default());
            return Ok(grpc.unary(service_fn(list), request).await);
        }
        let allocatable = move |_: Request<Nothing>| {
            let devices = self.state.lock().unwrap().extra_allocatable.clone();
            async move { Ok(Response::new(AllocatableResourcesResponse { devices })) }
        };
        let mut grpc = Grpc::new(ProstCodec::<AllocatableResourcesResponse, Nothing>::default());
        Ok(grpc.unary(service_fn(allocatable), request).await)
    }

    async fn list(&self) -> ListPodResourcesResponse {
        let delay = {
            let mut state = self.state.lock().unwrap();
            state.asking += 1;
            state.asked += 1;
            state.answers_after
        };
        tokio::time::sleep(delay).await;
        let mut state = self.state.lock().unwrap();
        state.asking -= 1;
        let rows = state.given.iter().map(|((uid, container), devices)| {
            let one = |id: &String| ContainerDevices {
                resource_name: "nvidia.com/gpu".to_owned(),
                device_ids: vec![id.clone()],
            };
            PodResources {
                name: state.names[uid].clone(),
                namespace: "default".to_owned(),
                containers: vec![ContainerResources {
                    name: container.clone(),
                    devices: devices.iter().map(one).collect(),
                    cpu_ids: vec![2, 3],
                }],
            }
        });
        ListPodResourcesResponse {
            pod_resources: rows.collect(),
        }
    }

    fn write_checkpoint(&self) {
        let state = self.state.lock().unwrap();
        let rows = state.given.iter().map(|((uid, container), devices)| {
            json!({
                "PodUID": uid, "ContainerName": container, "ResourceName": "nvidia.com/gpu",
                "DeviceIDs": {"0": devices}, "AllocResp": "",
            })
        });
        let rows: Vec<_> = rows.collect();
        let text =
            json!({"Data": {"PodDeviceEntries": rows, "RegisteredDevices": {}}, "Checksum": 1});
        let new = self.folder.join(".new");
        std::fs::write(&new, text.to_string()).unwrap();
        std::fs::rename(new, self.folder.join(checkpoint::FILE)).unwrap();
    }
}

/// Serves one socket until it is dropped.
pub(crate) async fn serve<F, A>(path: PathBuf, answer: F)
where
    F: Fn(http::Request<Body>) -> A + Clone + Send + 'static,
    A: Future<Output = Result<http::Response<Body>, Infallible>> + Send + 'static,
{
    let listener = UnixListenerStream::new(UnixListener::bind(path).unwrap());
    let server = Server::builder().serve_with_incoming(service_fn(answer), listener);
    server.await.unwrap();
}
