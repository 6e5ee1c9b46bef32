//! The agent's own HTTP endpoint: `/metrics`, `/healthz`, `/readyz`. Nothing that is sent to it is read
//! but the path.
//!
//! The agent's work does not depend on it: an address that is taken is told once and tried again.

pub mod health;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::metrics;
use crate::tally::Tally;

/// Prometheus, the kubelet's two probes, and a person.
const CONNECTIONS_MAX: usize = 16;
/// The least that hyper takes; a head that is longer is answered with 431.
const HEAD_BYTES_MAX: usize = 8192;
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// From the first byte to the last of the answer. A connection serves one request.
const CONNECTION_WITHIN: Duration = Duration::from_secs(10);
/// Between two tries to take the address, and after a failure to accept.
const BIND_EVERY: Duration = Duration::from_secs(10);
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What is asked.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it tells.
    pub tally: Arc<Tally>,
    /// Between two probes: a probe that is due only in an hour is not late.
    pub poll_every: Duration,
}

// === impl Endpoint ===

impl Endpoint {
    /// For ever.
    pub async fn run(self) {
        let listener = self.listener().await;
        self.serve(listener).await;
    }

    async fn listener(&self) -> TcpListener {
        let mut told = false;
        loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => {
                    info!(address = %self.address, "metrics and health");
                    return listener;
                }
                Err(error) if !told => {
                    warn!(%error, address = %self.address, "cannot listen; trying again");
                    told = true;
                }
                Err(_) => {}
            }
            sleep(BIND_EVERY).await;
        }
    }

    /// Answers on a listener, for ever.
    pub async fn serve(self, listener: TcpListener) {
        let (endpoint, room) = (Arc::new(self), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match (accepted, room.clone().try_acquire_owned()) {
                (Ok((stream, _)), Ok(place)) => {
                    let endpoint = endpoint.clone();
                    connections.spawn(async move {
                        endpoint.connection(stream).await;
                        drop(place);
                    });
                }
                // closed: who is one too many may come again
                (Ok(_), Err(_)) => {}
                (Err(error), _) => {
                    debug!(%error, "cannot accept");
                    sleep(ACCEPT_AGAIN_AFTER).await;
                }
            }
        }
    }

    async fn connection(&self, stream: TcpStream) {
        let service = service_fn(|request: Request<Incoming>| {
            let response = self.answer(request.method(), request.uri().path());
            async move { Ok::<_, std::convert::Infallible>(response) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(HEAD_BYTES_MAX)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        match timeout(CONNECTION_WITHIN, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "a connection failed"),
            Err(_) => debug!("a connection took too long"),
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD".to_owned());
            let allowed = header::HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allowed);
            return response;
        }
        let (counts, now) = (self.tally.counts(), Instant::now());
        let verdict = |verdict: Result<(), health::Unwell>| match verdict {
            Ok(()) => plain(StatusCode::OK, "ok".to_owned()),
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why.to_string()),
        };
        match path {
            "/metrics" => plain(StatusCode::OK, metrics::page(&counts, now)),
            "/healthz" => {
                let since = self.tally.started_at();
                verdict(health::probes(&counts, since, now, self.poll_every))
            }
            "/readyz" => verdict(health::publishes(&counts, now)),
            _ => plain(
                StatusCode::NOT_FOUND,
                "/metrics, /healthz, /readyz".to_owned(),
            ),
        }
    }
}

fn plain(status: StatusCode, mut text: String) -> Response<Full<Bytes>> {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests;
