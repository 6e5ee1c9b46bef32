//! The gRPC service `v1beta1.DevicePlugin`: decode, ask the desk, encode.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use futures::Stream;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::api::{
    AllocateRequest, AllocateResponse, DevicePluginOptions, Empty, ListAndWatchResponse,
    PreStartContainerResponse, PreferredAllocationRequest, PreferredAllocationResponse,
};
use super::desk::Desk;
use super::streams::Streams;

/// What this plugin can do.
pub(crate) const OPTIONS: DevicePluginOptions = DevicePluginOptions {
    pre_start_required: false,
    get_preferred_allocation_available: true,
};

/// What one socket serves.
#[derive(Clone)]
struct Served {
    desk: Arc<Desk>,
    streams: Arc<Streams>,
}

/// Serves on the socket at `path` until `closing` is true or its sender gone. A socket that is in
/// the way is removed: only this agent uses the name.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn bind(
    path: &Path,
    desk: Arc<Desk>,
    streams: Arc<Streams>,
    mut closing: watch::Receiver<bool>,
) -> std::io::Result<impl Future<Output = Result<(), tonic::transport::Error>> + Send + 'static> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let connections = UnixListenerStream::new(UnixListener::bind(path)?);
    let served = Served { desk, streams };
    let service = service_fn(move |request| answer(served.clone(), request));
    let closed = async move {
        let _ = closing.wait_for(|closing| *closing).await;
    };
    Ok(Server::builder().serve_with_incoming_shutdown(service, connections, closed))
}

async fn answer(
    served: Served,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, Infallible> {
    let method = request.uri().path().strip_prefix("/v1beta1.DevicePlugin/");
    let desk = served.desk.clone();
    let response = match method.unwrap_or_default() {
        "GetDevicePluginOptions" => {
            let options = |_: Request<Empty>| async { Ok(Response::new(OPTIONS)) };
            let mut grpc = Grpc::new(ProstCodec::<DevicePluginOptions, Empty>::default());
            grpc.unary(service_fn(options), request).await
        }
        "ListAndWatch" => {
            let watch = move |_: Request<Empty>| {
                let devices = list_and_watch(&served);
                async move { Ok(Response::new(devices)) }
            };
            let mut grpc = Grpc::new(ProstCodec::<ListAndWatchResponse, Empty>::default());
            grpc.server_streaming(service_fn(watch), request).await
        }
        "GetPreferredAllocation" => {
            let prefer = move |asked: Request<PreferredAllocationRequest>| {
                let desk = desk.clone();
                async move { Ok(Response::new(desk.prefer(asked.into_inner()).await)) }
            };
            type Codec = ProstCodec<PreferredAllocationResponse, PreferredAllocationRequest>;
            let mut grpc = Grpc::new(Codec::default());
            grpc.unary(service_fn(prefer), request).await
        }
        "Allocate" => {
            let allocate = move |asked: Request<AllocateRequest>| {
                let desk = desk.clone();
                async move {
                    let given = desk.allocate(asked.into_inner()).await;
                    let refused = |refusal: super::ledger::Refusal| {
                        Status::failed_precondition(refusal.to_string())
                    };
                    given.map(Response::new).map_err(refused)
                }
            };
            let mut grpc = Grpc::new(ProstCodec::<AllocateResponse, AllocateRequest>::default());
            grpc.unary(service_fn(allocate), request).await
        }
        "PreStartContainer" => {
            let start = |_: Request<super::api::PreStartContainerRequest>| async {
                Ok(Response::new(PreStartContainerResponse {}))
            };
            type Codec =
                ProstCodec<PreStartContainerResponse, super::api::PreStartContainerRequest>;
            let mut grpc = Grpc::new(Codec::default());
            grpc.unary(service_fn(start), request).await
        }
        _ => Status::unimplemented("not a method of v1beta1.DevicePlugin").into_http(),
    };
    Ok(response)
}

/// All devices now, and all again whenever one changes, until the session ends.
fn list_and_watch(
    served: &Served,
) -> impl Stream<Item = Result<ListAndWatchResponse, Status>> + Send + 'static + use<> {
    let open = served.streams.open();
    let devices = served.desk.devices();
    futures::stream::unfold(
        (open, devices, true),
        |(mut open, mut devices, is_first)| async move {
            if !is_first {
                tokio::select! {
                    changed = devices.changed() => changed.ok()?,
                    () = open.closed() => return None,
                }
            }
            let devices_now = devices.borrow_and_update().devices.clone();
            let answer = ListAndWatchResponse {
                devices: devices_now,
            };
            Some((Ok(answer), (open, devices, false)))
        },
    )
}
