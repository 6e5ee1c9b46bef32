//! A request's body: bounded, counted against the memory of all requests, and one JSON object.

use actix_web::dev::Payload;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::web::{BytesMut, Data};
use actix_web::{FromRequest, HttpRequest};
use futures::StreamExt as _;
use futures::future::LocalBoxFuture;

use super::error::ApiError;
use super::fields::Fields;
use crate::app::App;
use crate::budget::Share;

/// A text of 4 MiB, the longest that is encoded, with room for escapes and token ids.
const BODY_BYTES_MAX: usize = 16 << 20;
/// A parsed body takes several times its text: an id of five bytes becomes a value of 32.
const PARSED_FACTOR: usize = 6;

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
            let share = share(&app, declared)?;
            let bytes = read(payload).await?;
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

/// Before the first byte is read. A body of unknown length counts as the longest.
fn share(app: &App, declared: Option<usize>) -> Result<Share, ApiError> {
    let bytes = declared.unwrap_or(BODY_BYTES_MAX);
    if bytes > BODY_BYTES_MAX {
        return Err(too_large());
    }
    app.take_memory(bytes.saturating_mul(PARSED_FACTOR))
}

async fn read(mut payload: Payload) -> Result<BytesMut, ApiError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| ApiError::Invalid {
            message: format!("reading the body: {error}"),
            param: None,
        })?;
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn too_large() -> ApiError {
    ApiError::TooLarge {
        bytes_max: BODY_BYTES_MAX,
    }
}
