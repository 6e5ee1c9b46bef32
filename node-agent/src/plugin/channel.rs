//! One gRPC call over a unix socket, with a deadline.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens, or the path is not a socket.
    #[error("cannot connect to {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// No answer in time.
    #[error("{method} at {path} took longer than {within_ms} ms")]
    Late {
        /// The socket.
        path: PathBuf,
        /// What was called.
        method: String,
        /// The deadline.
        within_ms: u128,
    },
    /// The other side said no.
    #[error("{method} at {path} failed: {message}")]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What was called.
        method: String,
        /// In its words, cut at 256 characters.
        message: String,
    },
}

/// Connects, asks, and hangs up.
///
/// # Errors
/// When there is no answer within `within`.
pub async fn call<Q, A>(
    path: &Path,
    service: &'static str,
    method: &'static str,
    request: Q,
    within: Duration,
) -> Result<A, Error>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let asked = tokio::time::timeout(within, ask(path, service, method, request));
    asked.await.unwrap_or_else(|_| {
        Err(Error::Late {
            path: path.to_owned(),
            method: format!("{service}/{method}"),
            within_ms: within.as_millis(),
        })
    })
}

async fn ask<Q, A>(
    path: &Path,
    service: &'static str,
    method: &'static str,
    request: Q,
) -> Result<A, Error>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let unreachable = |source| Error::Connect {
        path: path.to_owned(),
        source,
    };
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display()));
    let channel = endpoint.map_err(unreachable)?.connect().await;
    let mut client = Grpc::new(channel.map_err(unreachable)?);
    let failed = |message: String| Error::Answer {
        path: path.to_owned(),
        method: format!("{service}/{method}"),
        message: message.chars().take(256).collect(),
    };
    client.ready().await.map_err(unreachable)?;
    let called = PathAndQuery::try_from(format!("/{service}/{method}"))
        .map_err(|error| failed(error.to_string()))?;
    let codec = ProstCodec::<Q, A>::default();
    let answer = client.unary(tonic::Request::new(request), called, codec);
    let answer = answer.await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| failed(format!("{:?}: {}", status.code(), status.message())))
}
