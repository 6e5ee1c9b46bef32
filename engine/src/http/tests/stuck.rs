//! What must not get stuck: hung steps, dead ranks, clients that do not read, memory, panics.

use std::io::Read as _;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::middleware::from_fn;
use actix_web::test::{TestRequest, call_service, init_service, try_call_service};
use actix_web::web;
use serde_json::{Value, json};

use super::fixture::Fixture;
use super::{COMPLETIONS, check_completion, check_error, completion, endless, eventually};
use crate::http::{Routes, survive_panics, with_request_id};

#[test]
fn a_step_that_hangs_is_seen_long_before_the_longest_that_a_step_may_take() {
    let server = Fixture::start_with(|args| args.stall_timeout = Duration::from_secs(100_000));
    check_completion(&server, json!({"max_tokens": 3}), "abc/length/null");
    server.model.hold(true);
    let _open = server.post_open(COMPLETIONS, &completion(json!({})));
    eventually("unhealthy", || server.get("/health").status == 503);
    assert!(server.get("/ready").body.contains("no progress"));
    server.model.hold(false);
    eventually("healthy again", || server.get("/health").status == 200);
}

#[test]
fn a_rank_that_dies_is_seen_at_once_and_breaks_answers_off() {
    let server = Fixture::start();
    server.model.hold(true);
    let mut body = endless();
    body["stream"] = true.into();
    let streaming = server.post_held(COMPLETIONS, &body);
    eventually("the step is reached", || server.model.is_held());
    server.model.kill_a_rank();
    let mut streamed = None;
    eventually("the stream ends", || {
        streamed = streaming.try_answer();
        streamed.is_some()
    });
    let events = streamed.unwrap().events();
    assert!(events.contains("\"code\":500"), "{events}");
    assert!(events.ends_with("data: [DONE]\n\n"), "{events}");
    let health = server.get("/health");
    assert_eq!(health.status, 503);
    assert!(health.body.contains("rank 1 ended"), "{}", health.body);
    let refused = server.post(COMPLETIONS, &completion(json!({})));
    let kind = "ServiceUnavailableError";
    check_error(&refused, 503, kind, Value::Null, "the engine failed");
    let page = server.get("/metrics").body;
    assert!(page.contains("finished_reason=\"error\"} 1\n"), "{page}");
}

#[test]
fn a_client_that_takes_nothing_is_cut_off_and_delays_nobody() {
    let server = Fixture::start_with(|args| {
        args.max_waiting_requests = 1000;
        args.slow_client_timeout = Duration::from_secs(1);
    });
    let mut body = endless();
    body["stream"] = true.into();
    // Some 30 MB of events: more than sockets take in.
    body["n"] = 128.into();
    body["logprobs"] = 20.into();
    let _open = server.post_open(COMPLETIONS, &body);
    check_completion(&server, json!({"max_tokens": 3}), "abc/length/null");
    // The answers are complete; only the client keeps the request.
    eventually("cut off", || server.lifecycle.in_flight_count() == 0);
    assert_eq!(server.gauge("vllm:num_requests_running"), Some(0.0));
    assert_eq!(server.gauge("vllm:kv_cache_usage_perc"), Some(0.0));
}

#[test]
fn bodies_and_prompts_beyond_the_memory_for_them_are_refused_and_may_come_again() {
    let server = Fixture::start_with(|args| args.max_request_memory = 10_000);
    let long = completion(json!({"max_tokens": 1, "nothing": "x".repeat(2000)}));
    let many = completion(json!({"max_tokens": 1, "nothing": vec![0; 100]}));
    let prompts = completion(json!({"max_tokens": 1, "n": 100, "prompt": "x".repeat(60)}));
    for body in [long, many, prompts] {
        let refused = server.post(COMPLETIONS, &body);
        let kind = "RateLimitError";
        check_error(&refused, 429, kind, Value::Null, "memory set aside");
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    for _ in 0..20 {
        check_completion(&server, json!({"max_tokens": 1}), "a/length/null");
    }
    let page = server.get("/metrics").body;
    assert!(page.contains("reason=\"memory\"} 3"), "{page}");
}

#[test]
fn a_body_that_does_not_come_holds_no_memory_and_is_given_up() {
    let server = Fixture::start_with(|args| {
        // What the longest body takes.
        args.max_request_memory = 6 * (16 << 20);
        args.slow_client_timeout = Duration::from_secs(1);
    });
    let mut open = server.announce(COMPLETIONS, 16 << 20);
    let _other = server.announce(COMPLETIONS, 16 << 20);
    check_completion(&server, json!({"max_tokens": 1}), "a/length/null");
    open.set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[test]
fn a_body_of_more_values_than_memory_is_set_aside_for_is_refused() {
    let server = Fixture::start();
    let body = format!("{{\"nothing\":[{}1]}}", "{},".repeat(1 << 18));
    let answer = server.send("POST", COMPLETIONS, &body);
    check_error(&answer, 400, "BadRequestError", Value::Null, "more values");
    let body = format!(
        "{{\"prompt\":\"hi\",\"max_tokens\":1,\"nothing\":[{}1]}}",
        "1,".repeat(1000)
    );
    assert_eq!(server.send("POST", COMPLETIONS, &body).status, 200);
}

#[test]
fn a_panic_ends_its_own_request_with_an_answer() {
    async fn panics() -> HttpResponse {
        panic!("a fault of ours, for this test")
    }
    actix_web::rt::System::new().block_on(async {
        let routes = Routes::new()
            .wrap(from_fn(survive_panics))
            .wrap(from_fn(with_request_id))
            .route("/panics", web::get().to(panics))
            .route("/answers", web::get().to(HttpResponse::Ok));
        let app = init_service(routes).await;
        for _ in 0..2 {
            let request = TestRequest::get().uri("/panics").to_request();
            // The server makes an answer of it.
            let error = try_call_service(&app, request).await.unwrap_err();
            let answer = error.error_response();
            assert_eq!(answer.status(), 500);
            assert!(answer.headers().contains_key("x-request-id"));
        }
        let request = TestRequest::get().uri("/answers").to_request();
        assert_eq!(call_service(&app, request).await.status(), 200);
    });
}
