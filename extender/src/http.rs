//! The HTTP side: decode, ask, encode.
//!
//! kube-scheduler takes only a 200 for an answer. A request that cannot be granted gets one that says
//! so; a body that is no request gets a 4xx. A replica that does not lead, or does not know yet what
//! the one before it did, says 503 and closes the connection: kube-scheduler keeps connections, so
//! readiness alone would protect nothing.
//!
//! Whoever connects gets so much and no more: connections, time for the head (`connections`) and for the
//! body (`body`), bytes, and depth and number of JSON values (`wire`).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::dev::Server;
use actix_web::http::header;
use actix_web::web::{self, Data, Payload};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};

use berth_extender_core::leader::Standing;

use crate::answer::Service;
use crate::leadership::Leadership;
use crate::metrics::Format;
use crate::tls::Identity;
use crate::wire;

mod about;
mod body;
mod connections;

pub use body::Budget;
pub use connections::Connections;

/// Of each worker: the scheduler's bindings at once and a few that scrape. Each is two files of the 1,024
/// that a process may have open on many machines.
const CONNECTIONS_MAX: usize = 160;
/// Until a connection's first head must be there; `connections` times those after it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may wait for its next request. kube-scheduler opens another.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Until TLS must be agreed on.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Two are plenty: kube-scheduler filters one pod at a time, and binds wait for the API server.
const WORKERS: usize = 2;
/// Once told to end, how long requests under way may take, in seconds: as long as kube-scheduler waits.
const SHUTDOWN_SECONDS: u64 = 5;

/// What the handlers share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Decides.
    pub service: Arc<Service>,
    /// Whether this replica may.
    pub leadership: Arc<Leadership>,
    /// Where binds run, so that they end even if kube-scheduler hangs up.
    pub runtime: tokio::runtime::Handle,
    /// What bodies take.
    pub bodies: Budget,
    /// Who is connected.
    pub connections: Arc<Connections>,
    /// What is shown to callers, where TLS is used.
    pub identity: Option<Arc<Identity>>,
}

/// Where to listen.
#[derive(Debug)]
pub struct Listen {
    /// Address and port.
    pub address: String,
    /// TLS, where it is wanted.
    pub tls: Option<rustls::ServerConfig>,
}

/// Starts to serve. The server runs when it is awaited, and stops when its handle says so.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve(listen: Listen, shared: Shared) -> io::Result<Server> {
    let (server, addresses) = start(listen, shared)?;
    for address in addresses {
        tracing::info!(%address, "listening");
    }
    Ok(server)
}

fn start(listen: Listen, shared: Shared) -> io::Result<(Server, Vec<SocketAddr>)> {
    let connections = shared.connections.clone();
    let app = move || {
        App::new()
            .app_data(Data::new(shared.clone()))
            .wrap_fn(connections::answer)
            .configure(routes)
    };
    let server = HttpServer::new(app)
        .on_connect(move |stream, data| connections.accepted(stream, data))
        .workers(WORKERS)
        .disable_signals()
        .max_connections(CONNECTIONS_MAX)
        .client_request_timeout(HEAD_TIMEOUT)
        .tls_handshake_timeout(HANDSHAKE_TIMEOUT)
        .keep_alive(IDLE_TIMEOUT)
        .shutdown_timeout(SHUTDOWN_SECONDS);
    let server = match listen.tls {
        Some(tls) => server.bind_rustls_0_23(&listen.address, tls)?,
        None => server.bind(&listen.address)?,
    };
    let addresses = server.addrs();
    Ok((server.run(), addresses))
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/filter", web::post().to(filter))
        .route("/prioritize", web::post().to(prioritize))
        .route("/preempt", web::post().to(preempt))
        .route("/bind", web::post().to(bind))
        .route("/simulate", web::post().to(about::simulate))
        .route("/metrics", web::get().to(metrics))
        .route("/healthz", web::get().to(healthz))
        .route("/readyz", web::get().to(readyz))
        .route("/snapshot", web::get().to(about::snapshot))
        .route("/explain/{namespace}/{pod}", web::get().to(about::explain));
}

/// Whole nodes go back as they came, so the body is needed to the end.
async fn filter(shared: Data<Shared>, payload: Payload) -> HttpResponse {
    let answer = |service: &Service, args: &wire::ExtenderArgs, body: &[u8]| match service
        .filter(args)
        .encode(body)
    {
        Ok(answer) => HttpResponse::Ok()
            .content_type("application/json")
            .body(answer),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    };
    shared.answer("filter", payload, answer).await
}

async fn prioritize(shared: Data<Shared>, payload: Payload) -> HttpResponse {
    let answer = |service: &Service, args: &wire::ExtenderArgs, _: &[u8]| {
        HttpResponse::Ok().json(service.prioritize(args))
    };
    shared.answer("prioritize", payload, answer).await
}

async fn preempt(shared: Data<Shared>, payload: Payload) -> HttpResponse {
    let answer = |service: &Service, args: &wire::PreemptionArgs, _: &[u8]| {
        HttpResponse::Ok().json(service.preempt(args))
    };
    shared.answer("preempt", payload, answer).await
}

async fn bind(shared: Data<Shared>, payload: Payload) -> HttpResponse {
    let args: wire::BindingArgs = match shared.request("bind", payload).await {
        Ok((args, _)) => args,
        Err(refusal) => return refusal,
    };
    let started = Instant::now();
    let service = shared.service.clone();
    let bind = async move { service.bind(&args.request()).await };
    let answer = shared.runtime.spawn(bind).await;
    let answer = answer.unwrap_or_else(|error| wire::BindingResult {
        error: error.to_string(),
    });
    shared.service.metrics.request("bind", started.elapsed());
    HttpResponse::Ok().json(answer)
}

async fn metrics(shared: Data<Shared>, request: HttpRequest) -> HttpResponse {
    let accept = request.headers().get(header::ACCEPT);
    let format = Format::of_accept(accept.and_then(|value| value.to_str().ok()));
    let identity = shared.identity.as_ref();
    let expiry = identity.and_then(|own| own.expires_at_seconds());
    shared.service.metrics.certificate_expires(expiry);
    let leads = shared.leadership.leads();
    let text = shared.service.metrics_text(leads, format);
    HttpResponse::Ok()
        .content_type(format.content_type())
        .body(text)
}

async fn healthz() -> HttpResponse {
    HttpResponse::Ok().body("ok")
}

/// Ready once the cluster was listed. A replica that does not lead is ready too: it stands by.
async fn readyz(shared: Data<Shared>) -> HttpResponse {
    match shared.service.is_synced() {
        true => HttpResponse::Ok().body("ok"),
        false => HttpResponse::ServiceUnavailable().body("the cluster has not been listed yet"),
    }
}

// === impl Shared ===

impl Shared {
    /// The answer of a replica that must not decide.
    fn unavailable(&self) -> Option<HttpResponse> {
        let why = match self.leadership.standing() {
            Standing::No(why) => why.to_string(),
            Standing::Serves if self.service.is_synced() => return None,
            Standing::Serves => "the cluster has not been listed yet".to_owned(),
        };
        Some(HttpResponse::ServiceUnavailable().force_close().body(why))
    }

    /// Times what `decide` says of the request, which it is given as it came, too.
    async fn answer<Q: wire::Bounded>(
        &self,
        verb: &'static str,
        payload: Payload,
        decide: impl FnOnce(&Service, &Q, &[u8]) -> HttpResponse,
    ) -> HttpResponse {
        let started = Instant::now();
        let (request, body) = match self.request(verb, payload).await {
            Ok(request) => request,
            Err(refusal) => return refusal,
        };
        let response = decide(&self.service, &request, &body.bytes);
        self.service.metrics.request(verb, started.elapsed());
        response
    }

    /// What kube-scheduler asks, unless this replica must not answer, before the body is read or after.
    async fn request<Q: wire::Bounded>(
        &self,
        verb: &'static str,
        payload: Payload,
    ) -> Result<(Q, body::Body), HttpResponse> {
        if let Some(refusal) = self.unavailable() {
            return Err(refusal);
        }
        let read = self.body(verb, payload).await?;
        self.unavailable().map_or(Ok(read), Err)
    }

    /// A body, decoded and as it came.
    async fn body<Q: wire::Bounded>(
        &self,
        verb: &'static str,
        payload: Payload,
    ) -> Result<(Q, body::Body), HttpResponse> {
        let body = body::read(payload, &self.bodies).await.map_err(|error| {
            self.service.metrics.bad_request(verb);
            tracing::warn!(verb, %error, "a body that is not taken");
            error.answer()
        })?;
        let request = wire::decode(verb, &body.bytes);
        let request = request.map_err(|error| self.bad_request(verb, &error.to_string()))?;
        Ok((request, body))
    }

    fn bad_request(&self, verb: &'static str, error: &str) -> HttpResponse {
        self.service.metrics.bad_request(verb);
        tracing::warn!(verb, error, "a body that is no request");
        HttpResponse::BadRequest().json(serde_json::json!({"error": error}))
    }
}

#[cfg(test)]
pub(crate) mod tests;
