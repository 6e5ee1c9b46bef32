//! Connections between two requests: none may take longer to its next one than is said here.
//!
//! actix closes a connection that is silent, and times a connection's first head. It times neither the
//! heads after that nor how slowly an answer is taken, so whoever lets either drip would hold a
//! connection for ever. Here each connection is known by a second handle of its socket, and by how many
//! requests are being answered on it; one that has been without any for too long is shut down from
//! below.

use std::any::Any;
use std::future::Future;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::dev::{Extensions, Service, ServiceRequest};
use actix_web::rt::net::TcpStream as Accepted;
use tokio::time::{MissedTickBehavior, interval};

use super::{HEAD_TIMEOUT, IDLE_TIMEOUT};
use crate::lock;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// All that are open.
#[derive(Debug)]
pub struct Connections {
    all: Mutex<Vec<Weak<Connection>>>,
    /// Longest from one request's answer to the next request's whole head.
    between_max: Duration,
}

#[derive(Debug)]
struct Connection {
    socket: TcpStream,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    answering: usize,
    /// When the last answer was handed over, or the connection began.
    since: Instant,
}

/// A request that is being answered.
struct Answering(Arc<Connection>);

// === impl Connections ===

impl Default for Connections {
    /// As long as a silent one may wait, and then a head's time.
    fn default() -> Self {
        Self::new(IDLE_TIMEOUT + HEAD_TIMEOUT)
    }
}

impl Connections {
    /// None yet.
    #[must_use]
    pub fn new(between_max: Duration) -> Self {
        Self {
            all: Mutex::default(),
            between_max,
        }
    }

    /// Shuts down what has been without a request for too long, for ever.
    pub async fn sweep(self: Arc<Self>) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(Instant::now());
        }
    }

    /// How many were shut down.
    pub(super) fn look(&self, now: Instant) -> usize {
        let mut all = lock(&self.all);
        all.retain(|one| one.strong_count() > 0);
        let late = all.iter().filter_map(Weak::upgrade);
        let late = late.filter(|one| one.is_late(self.between_max, now));
        late.map(|one| one.shut_down()).count()
    }

    /// A connection was accepted, with TLS agreed on where it is used.
    pub(super) fn accepted(&self, stream: &dyn Any, data: &mut Extensions) {
        let tls = stream.downcast_ref::<TlsStream<Accepted>>();
        let plain = tls.map(|tls| tls.get_ref().0);
        let Some(plain) = plain.or_else(|| stream.downcast_ref()) else {
            return tracing::error!("a connection of a kind that cannot be watched");
        };
        match plain.as_fd().try_clone_to_owned() {
            Ok(socket) => {
                let one = Arc::new(Connection::new(socket.into()));
                lock(&self.all).push(Arc::downgrade(&one));
                data.insert(one);
            }
            Err(error) => tracing::warn!(%error, "a connection that cannot be watched"),
        }
    }
}

/// Answers, and notes on the connection that it is doing so.
pub(super) fn answer<S: Service<ServiceRequest>>(
    request: ServiceRequest,
    service: &S,
) -> impl Future<Output = Result<S::Response, S::Error>> + use<S> {
    let connection = request.conn_data::<Arc<Connection>>();
    let answering = connection.cloned().map(Answering::begin);
    let answer = service.call(request);
    async move {
        let answer = answer.await;
        drop(answering);
        answer
    }
}

// === impl Connection ===

impl Connection {
    fn new(socket: TcpStream) -> Self {
        let state = State {
            answering: 0,
            since: Instant::now(),
        };
        Self {
            socket,
            state: Mutex::new(state),
        }
    }

    fn is_late(&self, between_max: Duration, now: Instant) -> bool {
        let state = *lock(&self.state);
        state.answering == 0 && now.saturating_duration_since(state.since) > between_max
    }

    /// actix reads the end, and closes it.
    fn shut_down(&self) {
        if let Err(error) = self.socket.shutdown(Shutdown::Both) {
            tracing::debug!(%error, "shutting a connection down");
        }
    }
}

// === impl Answering ===

impl Answering {
    fn begin(connection: Arc<Connection>) -> Self {
        lock(&connection.state).answering += 1;
        Self(connection)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.answering -= 1;
        state.since = Instant::now();
    }
}

#[cfg(test)]
mod tests;
