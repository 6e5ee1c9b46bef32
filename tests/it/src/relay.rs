//! Stands between kube-scheduler and the extender, so that a story can act at the very moment between
//! filter and bind.
//!
//! Passes each request on unread but for its path. What happens to the next `/bind` is said by
//! [`Relay::at_next_bind`]; the story does the killing.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// Heads are short; more than this is not HTTP.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// As the extender's own limit at most.
const BODY_BYTES_MAX: usize = 64 << 20;

/// What is done with one request for a binding. Either way kube-scheduler gets no answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtBind {
    /// Not passed on: the extender never hears of it.
    HoldBack,
    /// Passed on, and the answer is thrown away.
    LoseAnswer,
}

/// The relay; dropping it closes it.
#[derive(Debug)]
pub struct Relay {
    /// Where kube-scheduler is to call.
    pub port: u16,
    trap: Arc<Mutex<Option<Trap>>>,
    accepting: AbortHandle,
}

/// Set by the story, taken by the request that it catches.
#[derive(Debug)]
struct Trap {
    at_bind: AtBind,
    caught: oneshot::Sender<Caught>,
}

/// A request for a binding that was caught. Its connection stays open until this is dropped.
#[derive(Debug)]
pub struct Caught {
    _open: oneshot::Sender<()>,
}

// === impl Relay ===

impl Relay {
    /// Listens on a free port and passes on to `to`.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(to: u16) -> Result<Self> {
        let port = crate::ports::free_port()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let trap = Arc::new(Mutex::new(None));
        let accepting = tokio::spawn(accept(listener, to, Arc::clone(&trap))).abort_handle();
        Ok(Self {
            port,
            trap,
            accepting,
        })
    }

    /// Catches the next request for a binding; resolves when it is caught (and, where its answer is to be
    /// lost, when the extender has answered).
    ///
    /// # Errors
    /// When the relay ends first.
    pub fn at_next_bind(&self, at_bind: AtBind) -> impl Future<Output = Result<Caught>> + use<> {
        let (caught, catching) = oneshot::channel();
        *self.trap.lock().unwrap_or_else(PoisonError::into_inner) = Some(Trap { at_bind, caught });
        async {
            catching
                .await
                .context("waiting for a request for a binding")
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, to: u16, trap: Arc<Mutex<Option<Trap>>>) {
    // Each connection's task ends when either side closes it.
    while let Ok((from, _)) = listener.accept().await {
        let trap = Arc::clone(&trap);
        tokio::spawn(async move {
            // A connection that breaks is what kube-scheduler is to see.
            drop(pass_on(from, to, &trap).await);
        });
    }
}

async fn pass_on(mut from: TcpStream, to: u16, trap: &Mutex<Option<Trap>>) -> Result<()> {
    loop {
        let request = read_message(&mut from).await?;
        let trapped = request
            .starts_with(b"POST /bind ")
            .then(|| trap.lock().unwrap_or_else(PoisonError::into_inner).take());
        match trapped.flatten() {
            None => from.write_all(&ask(to, &request).await?).await?,
            Some(trap) => return spring(trap, to, &request).await,
        }
    }
}

async fn spring(trap: Trap, to: u16, request: &[u8]) -> Result<()> {
    if trap.at_bind == AtBind::LoseAnswer {
        drop(ask(to, request).await?);
    }
    let (open, closed) = oneshot::channel();
    if trap.caught.send(Caught { _open: open }).is_ok() {
        // Ends with an error when the story lets go; there is nothing to read from it.
        drop(closed.await);
    }
    bail!("the story keeps the answer")
}

/// A connection for each request: the extender may have been killed since the last.
async fn ask(to: u16, request: &[u8]) -> Result<Vec<u8>> {
    let mut extender = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await?;
    extender.write_all(request).await?;
    read_message(&mut extender).await
}

/// One HTTP/1.1 message with a `Content-Length`, as both sides write them.
async fn read_message(from: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let mut message = Vec::new();
    while !message.ends_with(b"\r\n\r\n") {
        ensure!(message.len() < HEAD_BYTES_MAX, "the head has no end");
        message.push(from.read_u8().await?);
    }
    let length = content_length(&String::from_utf8_lossy(&message))?;
    ensure!(length <= BODY_BYTES_MAX, "a body of {length} bytes");
    let head_length = message.len();
    message.resize(head_length + length, 0);
    from.read_exact(&mut message[head_length..]).await?;
    Ok(message)
}

fn content_length(head: &str) -> Result<usize> {
    let lower = head.to_ascii_lowercase();
    let value = lower
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    Ok(value.map_or(Ok(0), |value| value.trim().parse())?)
}
