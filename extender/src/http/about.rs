//! What people and autoscalers ask: why a pod is where it is, what all of that was decided from, and
//! what would be decided elsewhere. Every replica answers; what takes longer runs beside the workers.

use std::time::{Duration, Instant};

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::{self, Data, Payload};
use berth_extender_core::simulate as core;
use serde::Deserialize;

use super::Shared;

/// What `/simulate` may take, so that nobody slows the scheduler down with it.
const SIMULATE_TIME_MAX: Duration = Duration::from_secs(2);
const NOT_REMEMBERED: &str = "no decision about this pod is remembered: kube-scheduler has not asked about it, it asks for no GPUs, or it was long ago";
const NOT_REMEMBERED_HERE: &str = "no decision about this pod is remembered here: this replica does not lead, ask the one that does";

/// What is asked about a pod beside its name.
#[derive(Debug, Deserialize)]
pub(super) struct ExplainQuery {
    /// A node to be told in full.
    why_not: Option<String>,
}

/// Pods against machines that are given with the request. Changes nothing.
pub(super) async fn simulate(shared: Data<Shared>, payload: Payload) -> HttpResponse {
    let request: core::Request = match shared.body("simulate", payload).await {
        Ok((request, _)) => request,
        Err(refusal) => return refusal,
    };
    let resource = shared.service.resource.clone();
    let answered = web::block(move || {
        let started = Instant::now();
        let may_go_on = || started.elapsed() < SIMULATE_TIME_MAX;
        core::simulate(&request, &resource, may_go_on)
    });
    match answered.await {
        Ok(Ok(answer)) => HttpResponse::Ok().json(answer),
        Ok(Err(error)) => shared.bad_request("simulate", &error.to_string()),
        Err(error) => no_thread(&error),
    }
}

/// Why a pod is where it is, or nowhere.
pub(super) async fn explain(
    shared: Data<Shared>,
    path: web::Path<(String, String)>,
    query: web::Query<ExplainQuery>,
) -> HttpResponse {
    let (namespace, pod) = path.into_inner();
    let service = shared.service.clone();
    let node = query.into_inner().why_not;
    let explained = web::block(move || service.explain(&namespace, &pod, node.as_deref()));
    match explained.await {
        Ok(Some(explanation)) => HttpResponse::Ok().json(explanation),
        Ok(None) if shared.leadership.leads() => refused(StatusCode::NOT_FOUND, NOT_REMEMBERED),
        Ok(None) => refused(StatusCode::NOT_FOUND, NOT_REMEMBERED_HERE),
        Err(error) => no_thread(&error),
    }
}

/// Everything that decisions depend on, as one document.
pub(super) async fn snapshot(shared: Data<Shared>) -> HttpResponse {
    let (service, leads) = (shared.service.clone(), shared.leadership.leads());
    let written = web::block(move || {
        let archive = service.archive(leads).map_err(|error| error.to_string())?;
        serde_json::to_vec(&archive).map_err(|error| error.to_string())
    });
    match written.await {
        Ok(Ok(text)) => HttpResponse::Ok()
            .content_type("application/json")
            .body(text),
        Ok(Err(error)) => refused(StatusCode::INTERNAL_SERVER_ERROR, &error),
        Err(error) => no_thread(&error),
    }
}

fn no_thread(error: &actix_web::error::BlockingError) -> HttpResponse {
    refused(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
}

fn refused(status: StatusCode, error: &str) -> HttpResponse {
    HttpResponse::build(status).json(serde_json::json!({"error": error}))
}
