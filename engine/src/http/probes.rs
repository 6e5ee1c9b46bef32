//! What machines ask: health, readiness, metrics, the model's name, the version.

use actix_web::http::header::{ACCEPT, HeaderValue, RETRY_AFTER};
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::error::ApiError;
use crate::app::App;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// 200 only while the step loop makes progress.
pub(super) async fn health(app: Data<App>) -> HttpResponse {
    match app.lifecycle.health() {
        Ok(()) => HttpResponse::Ok().json(json!({"status": "ok"})),
        Err(reason) => unavailable("unhealthy", &reason),
    }
}

/// 200 only while requests are taken: loaded, not draining, healthy.
pub(super) async fn ready(app: Data<App>) -> HttpResponse {
    let admitted = app.admit().map(drop).map_err(|error| error.to_string());
    match admitted.and_then(|()| app.lifecycle.health()) {
        Ok(()) => HttpResponse::Ok().json(json!({"status": "ready"})),
        Err(reason) => unavailable("not ready", &reason),
    }
}

pub(super) async fn version() -> HttpResponse {
    HttpResponse::Ok().json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

pub(super) async fn models(app: Data<App>) -> HttpResponse {
    let models: Vec<_> = app.names.iter().map(|name| describe(&app, name)).collect();
    HttpResponse::Ok().json(json!({"object": "list", "data": models}))
}

pub(super) async fn model(app: Data<App>, name: Path<String>) -> Result<HttpResponse, ApiError> {
    let name = name.into_inner();
    app.check_model(Some(name.clone()))?;
    Ok(HttpResponse::Ok().json(describe(&app, &name)))
}

fn describe(app: &App, name: &str) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": app.created_s,
        "owned_by": "berth",
        "root": app.name(),
        "parent": null,
        "max_model_len": app.limits.max_model_len,
    })
}

/// In OpenMetrics to those who ask for it, as Prometheus does.
pub(super) async fn metrics(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let accepted = request.headers().get(ACCEPT).map(HeaderValue::as_bytes);
    let age = app.lifecycle.heartbeat_age();
    let (kind, text) = if String::from_utf8_lossy(accepted.unwrap_or_default())
        .contains("application/openmetrics-text")
    {
        (OPENMETRICS, app.metrics.render(age))
    } else {
        (PLAIN, app.metrics.render_plain(age))
    };
    let text = text.map_err(|error| ApiError::Internal(format!("writing the metrics: {error}")))?;
    Ok(HttpResponse::Ok().content_type(kind).body(text))
}

fn unavailable(status: &str, reason: &str) -> HttpResponse {
    HttpResponse::ServiceUnavailable()
        .insert_header((RETRY_AFTER, 1))
        .json(json!({"status": status, "reason": reason}))
}
