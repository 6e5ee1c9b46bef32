//! One request's body: read within bounds of size, of time, and of memory for all of them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::{Bytes, BytesMut, Payload};
use futures::StreamExt as _;
use tokio::time::timeout;

/// Whole nodes of a large cluster (`nodeCacheCapable: false`) are megabytes; beyond this it is no
/// scheduler that asks.
pub(super) const BYTES_MAX: usize = 32 << 20;
/// Of all bodies together.
const ALL_BYTES_MAX: usize = 96 << 20;
/// kube-scheduler gives up after 5 s by default, and then needs no answer any more.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What all bodies together take.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<AtomicUsize>);

/// A body, which counts as long as this lives.
#[derive(Debug)]
pub(super) struct Body {
    pub bytes: Bytes,
    _share: Share,
}

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// More than one body may have.
    #[error("the body is larger than {} MiB", BYTES_MAX >> 20)]
    TooLarge,
    /// More than all bodies may have.
    #[error("other requests' bodies take all the memory there is for bodies; try again")]
    Full,
    /// It does not come.
    #[error("the body was not there within {} s", TIMEOUT.as_secs())]
    Late,
    /// The connection broke, or the body is not what its head said.
    #[error("reading the body: {0}")]
    Broken(actix_web::error::PayloadError),
}

#[derive(Debug)]
struct Share {
    all: Arc<AtomicUsize>,
    byte_count: usize,
}

/// Reads a body. It is not read any further than the first bound that it breaks.
pub(super) async fn read(mut payload: Payload, budget: &Budget) -> Result<Body, Error> {
    let mut share = budget.share();
    let whole = async {
        let mut bytes = BytesMut::new();
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(Error::Broken)?;
            if bytes.len() + chunk.len() > BYTES_MAX {
                return Err(Error::TooLarge);
            }
            share.grow(chunk.len())?;
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    };
    let bytes = timeout(TIMEOUT, whole).await.map_err(|_| Error::Late)??;
    Ok(Body {
        bytes,
        _share: share,
    })
}

// === impl Budget ===

impl Budget {
    fn share(&self) -> Share {
        Share {
            all: self.0.clone(),
            byte_count: 0,
        }
    }
}

// === impl Share ===

impl Share {
    fn grow(&mut self, byte_count: usize) -> Result<(), Error> {
        let before = self.all.fetch_add(byte_count, Ordering::Relaxed);
        self.byte_count += byte_count;
        if before + byte_count > ALL_BYTES_MAX {
            return Err(Error::Full);
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.fetch_sub(self.byte_count, Ordering::Relaxed);
    }
}

// === impl Error ===

impl Error {
    /// The answer. What was not read cannot be skipped, so the connection ends with it.
    pub(super) fn answer(&self) -> HttpResponse {
        let status = match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Full => StatusCode::SERVICE_UNAVAILABLE,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_) => StatusCode::BAD_REQUEST,
        };
        HttpResponse::build(status)
            .force_close()
            .json(serde_json::json!({"error": self.to_string()}))
    }
}
