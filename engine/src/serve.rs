//! `berth-engine serve`: from arguments to a server that ends when it is told to, or must.

use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix_web::dev::ServerHandle;
use actix_web::web::Data;
use berth_engine_core::schedule::Limits;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::app::App;
use crate::args::ServeArgs;
use crate::budget::Budget;
use crate::http;
use crate::http::error::describe;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::model::{self, Model};
use crate::step_loop::{self, Setup};
use crate::team;

/// How often draining looks whether it is done.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// Why serving ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model cannot be run as asked.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// The address is taken or is none.
    #[error("listening on {address} (--host and --port choose another address)")]
    Listen {
        /// Host and port.
        address: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The system gives no threads, signals or sockets.
    #[error("starting the server")]
    Start(#[source] io::Error),
    /// The engine ended by itself: a rank failed, or could not load.
    #[error("running the engine")]
    Engine(#[source] team::Error),
    /// The step loop panicked.
    #[error("the step loop ended unexpectedly")]
    Panic,
}

/// How the engine ended; closed without a word after a panic.
type Ending = oneshot::Receiver<Result<(), team::Error>>;

/// A server and an engine that run.
pub(crate) struct Running {
    pub(crate) server: actix_web::dev::Server,
    pub(crate) lifecycle: Arc<Lifecycle>,
    ending: Ending,
}

/// Serves until SIGTERM or Ctrl-C, then finishes what is in flight.
///
/// # Errors
/// When it cannot start, or the engine fails.
pub fn serve(args: &ServeArgs) -> Result<(), Error> {
    let model = model::open(&args.model)?;
    let listener = listen(args)?;
    log_start(&model, &listener);
    actix_web::rt::System::new().block_on(async {
        let running = start(args, model, listener)?;
        supervise(running, args.shutdown_timeout).await
    })
}

pub(crate) fn start(
    args: &ServeArgs,
    model: Model,
    listener: TcpListener,
) -> Result<Running, Error> {
    let lifecycle = Arc::new(Lifecycle::new(args.stall_timeout));
    let limits = Limits {
        max_waiting: args.max_waiting_requests,
        ..model.limits
    };
    let names = match args.served_model_name.as_slice() {
        [] => vec![model.name, args.model.model.display().to_string()],
        names => names.to_vec(),
    };
    let metrics = Arc::new(Metrics::new(&names[0], &limits, args.legacy_metrics));
    let (inbox, ending) = step_loop::spawn(Setup {
        limits,
        places: model.places,
        load: model.load,
        lifecycle: Arc::clone(&lifecycle),
        metrics: Arc::clone(&metrics),
    })
    .map_err(Error::Start)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let app = Data::new(App {
        names,
        text: model.text,
        vocab_size: model.vocab_size,
        limits,
        created_s: now.as_secs(),
        lifecycle: Arc::clone(&lifecycle),
        metrics,
        inbox,
        memory: Budget::new(args.max_request_memory),
        slow_client_timeout: args.slow_client_timeout,
        next_id: AtomicU64::new(0),
    });
    let server = http::server(listener, app, args.slow_client_timeout).map_err(Error::Start)?;
    Ok(Running {
        server,
        lifecycle,
        ending,
    })
}

fn listen(args: &ServeArgs) -> Result<TcpListener, Error> {
    let address = format!("{}:{}", args.host, args.port);
    let bind = || {
        let addresses: Vec<_> = (args.host.as_str(), args.port).to_socket_addrs()?.collect();
        TcpListener::bind(addresses.as_slice())
    };
    bind().map_err(|source| Error::Listen { address, source })
}

fn log_start(model: &Model, listener: &TcpListener) {
    let Limits {
        max_model_len,
        block_size,
        block_count,
        ..
    } = model.limits;
    let (ranks, origin) = (model.places.places.len(), model.places.origin.label());
    tracing::info!(
        model = model.name,
        ranks,
        origin,
        max_model_len,
        block_size,
        block_count,
        kv_cache_tokens = block_size.saturating_mul(block_count as usize),
        "model is sound"
    );
    if let Ok(address) = listener.local_addr() {
        tracing::info!("listening on http://{address}");
    }
}

/// Waits for whatever ends the server: a signal, or the engine itself.
async fn supervise(running: Running, shutdown_timeout: Duration) -> Result<(), Error> {
    let Running {
        server,
        lifecycle,
        mut ending,
    } = running;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Start)?;
    let handle = server.handle();
    let served = actix_web::rt::spawn(server);
    let outcome = tokio::select! {
        ended = &mut ending => Some(failure(ended)),
        () = either(&mut terminate, &mut interrupt) => None,
    };
    if let Some(error) = outcome {
        // Clients in flight see their answers break off; probes see why until the end.
        lifecycle.fail(describe(&error));
        stop(&handle, served).await;
        return Err(error);
    }
    lifecycle.drain();
    tracing::info!(in_flight = lifecycle.in_flight_count(), "draining");
    tokio::select! {
        () = drained(&lifecycle, shutdown_timeout) => {}
        () = either(&mut terminate, &mut interrupt) => tracing::warn!("asked again: ending now"),
    }
    stop(&handle, served).await;
    tracing::info!("ended");
    Ok(())
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

async fn drained(lifecycle: &Lifecycle, timeout: Duration) {
    let deadline = Instant::now() + timeout;
    while lifecycle.in_flight_count() > 0 {
        if Instant::now() >= deadline {
            let count = lifecycle.in_flight_count();
            tracing::warn!(count, "requests did not finish in time and are cut off");
            return;
        }
        tokio::time::sleep(DRAIN_POLL).await;
    }
}

async fn stop(handle: &ServerHandle, served: tokio::task::JoinHandle<io::Result<()>>) {
    handle.stop(true).await;
    if let Ok(Err(error)) = served.await {
        tracing::warn!(%error, "the server ended with an error");
    }
}

/// The loop ends by itself only when it fails: its inbox is open while the server is there.
fn failure(ended: Result<Result<(), team::Error>, oneshot::error::RecvError>) -> Error {
    match ended {
        Ok(Err(error)) => Error::Engine(error),
        Ok(Ok(())) | Err(_) => Error::Panic,
    }
}
