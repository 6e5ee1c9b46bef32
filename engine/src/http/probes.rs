//! What machines ask: health, readiness, metrics, the model's name, the version.

use actix_web::HttpResponse;
use actix_web::http::header::RETRY_AFTER;
use actix_web::web::Data;
use serde_json::json;

use super::error::ApiError;
use crate::app::App;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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
    let model = |name: &String| {
        json!({
            "id": name,
            "object": "model",
            "created": app.created_s,
            "owned_by": "berth",
            "root": app.name(),
            "parent": null,
            "max_model_len": app.limits.max_model_len,
        })
    };
    let models: Vec<_> = app.names.iter().map(model).collect();
    HttpResponse::Ok().json(json!({"object": "list", "data": models}))
}

pub(super) async fn metrics(app: Data<App>) -> Result<HttpResponse, ApiError> {
    let text = app
        .metrics
        .render(app.lifecycle.heartbeat_age())
        .map_err(|error| ApiError::Internal(format!("writing the metrics: {error}")))?;
    Ok(HttpResponse::Ok().content_type(OPENMETRICS).body(text))
}

fn unavailable(status: &str, reason: &str) -> HttpResponse {
    HttpResponse::ServiceUnavailable()
        .insert_header((RETRY_AFTER, 1))
        .json(json!({"status": status, "reason": reason}))
}
