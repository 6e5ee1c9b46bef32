//! The HTTP side: decode, ask, encode.
//!
//! kube-scheduler takes only a 200 for an answer, so what cannot be read is answered with one that
//! says so. A replica that does not lead, or has not seen the cluster yet, says 503 and closes the
//! connection: kube-scheduler keeps connections, so readiness alone would protect nothing.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix_web::dev::Server;
use actix_web::http::header;
use actix_web::web::{self, Bytes, Data, PayloadConfig};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};

use berth_extender_core::simulate;

use crate::answer::Service;
use crate::lock;
use crate::metrics::Format;
use crate::wire;
use berth_extender_core::leader::Leader;

/// Whole nodes of a large cluster (`nodeCacheCapable: false`) are megabytes; beyond this it is no
/// scheduler that asks.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The scheduler and a few that scrape.
const CONNECTIONS_MAX: usize = 256;
/// Until a request's head must be there.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Two are plenty: kube-scheduler filters one pod at a time, and binds wait for the API server.
const WORKERS: usize = 2;

/// What the handlers share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Decides.
    pub service: Arc<Service>,
    /// Whether this replica may.
    pub leader: Arc<Mutex<Leader>>,
    /// Where binds run, so that they end even if kube-scheduler hangs up.
    pub runtime: tokio::runtime::Handle,
}

/// Where to listen.
#[derive(Debug)]
pub struct Listen {
    /// Address and port.
    pub address: String,
    /// TLS, where it is wanted.
    pub tls: Option<rustls::ServerConfig>,
}

/// A body, or why there is none.
type Body = Result<Bytes, actix_web::Error>;

/// Starts to serve. The server runs when it is awaited, and stops on SIGTERM or SIGINT.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve(listen: Listen, shared: Shared) -> io::Result<Server> {
    let app = move || {
        let limits = PayloadConfig::new(BODY_BYTES_MAX);
        App::new()
            .app_data(limits)
            .app_data(Data::new(shared.clone()))
            .configure(routes)
    };
    let server = HttpServer::new(app)
        .workers(WORKERS)
        .max_connections(CONNECTIONS_MAX)
        .client_request_timeout(HEAD_TIMEOUT)
        .shutdown_timeout(5);
    let server = match listen.tls {
        Some(tls) => server.bind_rustls_0_23(&listen.address, tls)?,
        None => server.bind(&listen.address)?,
    };
    for address in server.addrs() {
        tracing::info!(%address, "listening");
    }
    Ok(server.run())
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/filter", web::post().to(filter))
        .route("/prioritize", web::post().to(prioritize))
        .route("/preempt", web::post().to(preempt))
        .route("/bind", web::post().to(bind))
        .route("/simulate", web::post().to(simulate))
        .route("/metrics", web::get().to(metrics))
        .route("/healthz", web::get().to(healthz))
        .route("/readyz", web::get().to(readyz))
        .route("/explain/{namespace}/{pod}", web::get().to(explain));
}

async fn filter(shared: Data<Shared>, body: Body) -> HttpResponse {
    shared.answer("filter", body, |service, body| {
        match wire::decode("filter", body) {
            Ok(args) => (service.filter(args), true),
            Err(error) => (wire::FilterResult::failure(error.to_string()), false),
        }
    })
}

async fn prioritize(shared: Data<Shared>, body: Body) -> HttpResponse {
    shared.answer("prioritize", body, |service, body| {
        match wire::decode("prioritize", body) {
            Ok(args) => (service.prioritize(&args), true),
            Err(error) => {
                tracing::warn!(%error, "prioritize");
                (Vec::new(), false)
            }
        }
    })
}

async fn preempt(shared: Data<Shared>, body: Body) -> HttpResponse {
    shared.answer("preempt", body, |service, body| {
        match wire::decode("preempt", body) {
            Ok(args) => (service.preempt(&args), true),
            Err(error) => {
                tracing::warn!(%error, "preempt");
                (wire::PreemptionResult::default(), false)
            }
        }
    })
}

async fn bind(shared: Data<Shared>, body: Body) -> HttpResponse {
    if let Some(refusal) = shared.unavailable() {
        return refusal;
    }
    let started = Instant::now();
    let body = body.unwrap_or_default();
    let answer = match wire::decode::<wire::BindingArgs>("bind", &body) {
        Ok(args) => {
            let service = shared.service.clone();
            let task = shared
                .runtime
                .spawn(async move { service.bind(&args.request()).await });
            task.await.unwrap_or_else(|error| wire::BindingResult {
                error: error.to_string(),
            })
        }
        Err(error) => {
            shared.service.metrics.bad_request("bind");
            wire::BindingResult {
                error: error.to_string(),
            }
        }
    };
    shared.service.metrics.request("bind", started.elapsed());
    HttpResponse::Ok().json(answer)
}

async fn simulate(shared: Data<Shared>, body: Body) -> HttpResponse {
    let body = body.unwrap_or_default();
    let answer = wire::decode("simulate", &body).map_err(|error| error.to_string());
    let resource = &shared.service.resource;
    match answer.and_then(|request| {
        simulate::simulate(&request, resource).map_err(|error| error.to_string())
    }) {
        Ok(answer) => HttpResponse::Ok().json(answer),
        Err(error) => {
            shared.service.metrics.bad_request("simulate");
            HttpResponse::BadRequest().json(serde_json::json!({"error": error}))
        }
    }
}

async fn metrics(shared: Data<Shared>, request: HttpRequest) -> HttpResponse {
    let accept = request.headers().get(header::ACCEPT);
    let format = Format::of_accept(accept.and_then(|value| value.to_str().ok()));
    let text = shared.service.metrics_text(shared.leads(), format);
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

async fn explain(shared: Data<Shared>, path: web::Path<(String, String)>) -> HttpResponse {
    let (namespace, pod) = path.into_inner();
    match lock(&shared.service.decisions).get(&namespace, &pod) {
        Some(decision) => HttpResponse::Ok().json(decision),
        None => HttpResponse::NotFound()
            .json(serde_json::json!({"error": "no decision about this pod is remembered"})),
    }
}

// === impl Shared ===

impl Shared {
    fn leads(&self) -> bool {
        lock(&self.leader).leads(Instant::now())
    }

    /// The answer of a replica that must not decide.
    fn unavailable(&self) -> Option<HttpResponse> {
        let why = match (self.leads(), self.service.is_synced()) {
            (false, _) => "this replica's scheduler does not lead",
            (_, false) => "the cluster has not been listed yet",
            (true, true) => return None,
        };
        Some(HttpResponse::ServiceUnavailable().force_close().body(why))
    }

    /// Times, counts and encodes what `decide` says of the body. It says whether it could be read.
    fn answer<T: serde::Serialize>(
        &self,
        verb: &'static str,
        body: Body,
        decide: impl FnOnce(&Service, &[u8]) -> (T, bool),
    ) -> HttpResponse {
        if let Some(refusal) = self.unavailable() {
            return refusal;
        }
        let started = Instant::now();
        let (answer, was_read) = decide(&self.service, &body.unwrap_or_default());
        if !was_read {
            self.service.metrics.bad_request(verb);
        }
        let response = HttpResponse::Ok().json(answer);
        self.service.metrics.request(verb, started.elapsed());
        response
    }
}

#[cfg(test)]
pub(crate) mod tests;
