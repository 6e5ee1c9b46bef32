//! The HTTP server: which path leads where, and what every answer has.

use std::any::Any;
use std::future::{Ready, ready};
use std::io;
use std::net::TcpListener;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{Server, ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::{Next, from_fn};
use actix_web::rt::net::TcpStream;
use actix_web::web::{self, Data};
use actix_web::{App as Routes, FromRequest, HttpMessage, HttpRequest, HttpServer};
use futures::FutureExt as _;
use socket2::SockRef;
use uuid::Uuid;

use crate::app::App;
use error::ApiError;

mod body;
mod chat;
mod completions;
pub(crate) mod error;
mod fields;
mod logprobs;
pub(crate) mod options;
mod probes;
mod reply;
mod stream;

#[cfg(test)]
mod tests;

/// Handlers wait for the step loop rather than compute.
const WORKERS_MAX: usize = 4;
/// Seconds for open connections to close once nothing is in flight any more.
const CLOSE_TIMEOUT_S: u64 = 2;
/// Of each worker. More requests than may wait are answered 429; more connections wait to be accepted.
const CONNECTIONS_MAX: usize = 8192;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The client's name for its request, or ours.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

/// Binds nothing itself: the listener is there before the model is loaded, so that probes are
/// answered from the start.
pub(crate) fn server(
    listener: TcpListener,
    app: Data<App>,
    slow_client_timeout: Duration,
) -> io::Result<Server> {
    let workers = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(WORKERS_MAX);
    let routes = move || {
        Routes::new()
            .app_data(app.clone())
            .wrap(from_fn(survive_panics))
            .wrap(from_fn(with_request_id))
            .configure(routes)
            .default_service(web::to(no_such_route))
    };
    let server = HttpServer::new(routes)
        .workers(workers)
        .max_connections(CONNECTIONS_MAX)
        .on_connect(move |stream, _| bound_silence(stream, slow_client_timeout))
        .disable_signals()
        .shutdown_timeout(CLOSE_TIMEOUT_S)
        // A client that closes its end wants no answer: its sequence must not go on.
        .h1_allow_half_closed(false)
        .listen(listener)?;
    Ok(server.run())
}

fn routes(config: &mut web::ServiceConfig) {
    let post = |path, handler: actix_web::Route| {
        web::resource(path)
            .route(handler)
            .default_service(web::to(wrong_method))
    };
    let get = post;
    config
        .service(post("/v1/chat/completions", web::post().to(chat::create)))
        .service(post("/v1/completions", web::post().to(completions::create)))
        .service(get("/v1/models", web::get().to(probes::models)))
        // A name may be a path.
        .service(get("/v1/models/{name:.+}", web::get().to(probes::model)))
        .service(get("/health", web::get().to(probes::health)))
        .service(get("/ready", web::get().to(probes::ready)))
        .service(get("/version", web::get().to(probes::version)))
        .service(get("/metrics", web::get().to(probes::metrics)));
}

/// The kernel ends a connection whose client takes nothing for so long: its window is closed, or it does
/// not acknowledge. actix times no answers, so a client that reads nothing would be kept for ever.
fn bound_silence(stream: &dyn Any, timeout: Duration) {
    let Some(stream) = stream.downcast_ref::<TcpStream>() else {
        return tracing::error!("a connection of a kind that cannot be bounded");
    };
    if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(timeout)) {
        tracing::warn!(%error, "a client that does not read will not be cut off");
    }
}

/// A panic ends its own request, with an answer.
async fn survive_panics<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, actix_web::Error> {
    let answer = AssertUnwindSafe(next.call(request)).catch_unwind().await;
    answer.unwrap_or_else(|_| {
        tracing::error!("a request panicked");
        Err(ApiError::Internal("this request met a fault of the server".to_owned()).into())
    })
}

async fn no_such_route(request: HttpRequest) -> Result<&'static str, ApiError> {
    Err(ApiError::UnknownRoute(
        request.path().chars().take(200).collect(),
    ))
}

async fn wrong_method(request: HttpRequest) -> Result<&'static str, ApiError> {
    Err(ApiError::Method(request.path().to_owned()))
}

/// Every answer carries the request's id, the client's own where it sent one.
async fn with_request_id<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, actix_web::Error> {
    let sent = request
        .headers()
        .get(&REQUEST_ID)
        .and_then(|id| id.to_str().ok());
    let id = sent
        .filter(|id| is_request_id(id))
        .map_or_else(random_id, str::to_owned);
    request.extensions_mut().insert(RequestId(id.clone()));
    match next.call(request).await {
        Ok(mut response) => {
            insert_request_id(response.headers_mut(), &id);
            Ok(response)
        }
        // The server makes its answer of the error: of this one now.
        Err(error) => {
            let mut response = error.error_response();
            insert_request_id(response.headers_mut(), &id);
            Err(InternalError::from_response(error, response).into())
        }
    }
}

fn insert_request_id(headers: &mut HeaderMap, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
}

pub(crate) fn is_request_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= REQUEST_ID_BYTES_MAX
        && id.bytes().all(|byte| byte.is_ascii_graphic())
}

fn random_id() -> String {
    Uuid::new_v4().simple().to_string()
}

impl FromRequest for RequestId {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut actix_web::dev::Payload) -> Self::Future {
        let id = request.extensions().get::<Self>().cloned();
        ready(Ok(id.unwrap_or_else(|| Self(random_id()))))
    }
}
