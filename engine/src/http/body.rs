//! A request's body: bounded, counted against the memory of all requests, and one JSON object.

use actix_web::dev::Payload;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::web::{BytesMut, Data};
use actix_web::{FromRequest, HttpRequest};
use futures::StreamExt as _;
use futures::future::LocalBoxFuture;
use tokio::time::timeout;

use super::error::ApiError;
use super::fields::Fields;
use crate::app::App;
use crate::budget::Share;
use values::parsed_bytes;

mod values;

/// A text of 4 MiB, the longest that is encoded, with room for escapes and token ids.
const BODY_BYTES_MAX: usize = 16 << 20;
/// A text is there as it came, parsed, rendered, and as tokens.
const TEXT_FACTOR: usize = 6;
/// A million token ids, and far more than any conversation has.
const PARSED_BYTES_MAX: usize = 192 << 20;

/// What a handler of POST gets.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) fields: Fields,
    /// Held until the body is forgotten.
    pub(super) share: Share,
}

// === impl Body ===

impl FromRequest for Body {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let app = request.app_data::<Data<App>>().cloned();
        let declared = declared_bytes(request);
        let payload = payload.take();
        Box::pin(async move {
            let app =
                app.ok_or_else(|| ApiError::Internal("the server has no model".to_owned()))?;
            check_declared(&app, declared)?;
            let (bytes, mut share) = timeout(app.slow_client_timeout, read(&app, payload))
                .await
                .map_err(|_| ApiError::Slow(app.slow_client_timeout))??;
            share.add(share_of_parsed(&app, &bytes)?);
            Ok(Self {
                fields: Fields::parse(&bytes)?,
                share,
            })
        })
    }
}

fn declared_bytes(request: &HttpRequest) -> Option<usize> {
    let header = request.headers().get(CONTENT_LENGTH)?;
    header.to_str().ok()?.parse().ok()
}

/// Before the first byte is read. Nothing is held for what was only announced.
fn check_declared(app: &App, declared: Option<usize>) -> Result<(), ApiError> {
    let bytes = declared.unwrap_or(0);
    if bytes > BODY_BYTES_MAX {
        return Err(too_large());
    }
    app.check_memory(bytes.saturating_mul(TEXT_FACTOR))
}

async fn read(app: &App, mut payload: Payload) -> Result<(BytesMut, Share), ApiError> {
    let mut body = BytesMut::new();
    let mut share = app.take_memory(0)?;
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| ApiError::Invalid {
            message: format!("reading the body: {error}"),
            param: None,
        })?;
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(too_large());
        }
        share.add(app.take_memory(chunk.len().saturating_mul(TEXT_FACTOR))?);
        body.extend_from_slice(&chunk);
    }
    Ok((body, share))
}

/// Before it is parsed.
fn share_of_parsed(app: &App, body: &[u8]) -> Result<Share, ApiError> {
    let bytes = parsed_bytes(body);
    if bytes > PARSED_BYTES_MAX {
        return Err(ApiError::Invalid {
            message: "the request body has more values than are allowed".to_owned(),
            param: None,
        });
    }
    app.take_memory(bytes)
}

fn too_large() -> ApiError {
    ApiError::TooLarge {
        bytes_max: BODY_BYTES_MAX,
    }
}
