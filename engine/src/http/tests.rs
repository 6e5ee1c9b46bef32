//! The whole server over real sockets, on a model that spells the alphabet.

use std::time::{Duration, Instant};

use expect_test::expect;
use serde_json::{Value, json};

use fixture::{Answer, Fixture};

mod fields;
mod fixture;
mod stuck;
mod tokens;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn chat(more: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "hi"}], "temperature": 0});
    let fields = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    body
}

fn completion(more: Value) -> Value {
    let mut body = json!({"prompt": "hi", "temperature": 0});
    let fields = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    body
}

/// Waits for `condition`, with a bound that only a broken server reaches.
#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_chat_answers_with_text_reason_and_usage() {
    let server = Fixture::start();
    let body = server.post(CHAT, &chat(json!({"max_tokens": 5}))).json();
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "alphabet");
    assert!(body["system_fingerprint"].is_string() && body["created"].is_u64());
    expect![[r#"[{"finish_reason":"length","index":0,"logprobs":null,"message":{"content":"abcde","refusal":null,"role":"assistant"},"stop_reason":null}]"#]]
        .assert_eq(&body["choices"].to_string());
    expect![[r#"{"completion_tokens":5,"prompt_tokens":8,"prompt_tokens_details":{"cached_tokens":0},"total_tokens":13}"#]]
        .assert_eq(&body["usage"].to_string());
}

#[test]
fn a_chat_streams_role_text_reason_usage_and_done() {
    let server = Fixture::start();
    let more = json!({"max_tokens": 2, "stream": true, "stream_options": {"include_usage": true}});
    let answer = server.post(CHAT, &chat(more));
    assert_eq!(
        answer.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    expect![[r#"
        data: {"choices":[{"delta":{"content":"","role":"assistant"},"finish_reason":null,"index":0,"logprobs":null}],"object":"chat.completion.chunk","usage":null}

        data: {"choices":[{"delta":{"content":"a"},"finish_reason":null,"index":0,"logprobs":null,"stop_reason":null}],"object":"chat.completion.chunk","usage":null}

        data: {"choices":[{"delta":{"content":"b"},"finish_reason":"length","index":0,"logprobs":null,"stop_reason":null}],"object":"chat.completion.chunk","usage":null}

        data: {"choices":[],"object":"chat.completion.chunk","usage":{"completion_tokens":2,"prompt_tokens":8,"prompt_tokens_details":{"cached_tokens":0},"total_tokens":10}}

        data: [DONE]

    "#]]
    .assert_eq(&answer.events());
}

#[test]
fn a_completion_streams_text_without_usage_when_it_was_not_asked_for() {
    let server = Fixture::start();
    let answer = server.post(
        COMPLETIONS,
        &completion(json!({"max_tokens": 2, "stream": true})),
    );
    expect![[r#"
        data: {"choices":[{"finish_reason":null,"index":0,"logprobs":null,"stop_reason":null,"text":"a"}],"object":"text_completion"}

        data: {"choices":[{"finish_reason":"length","index":0,"logprobs":null,"stop_reason":null,"text":"b"}],"object":"text_completion"}

        data: [DONE]

    "#]]
    .assert_eq(&answer.events());
}

/// Text and reason of each choice: `text/reason/stop`.
fn choices(body: &Value) -> String {
    let one = |choice: &Value| {
        let text = choice["text"].as_str().unwrap();
        let reason = choice["finish_reason"].as_str().unwrap();
        format!("{text}/{reason}/{}", choice["stop_reason"])
    };
    body["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(one)
        .collect::<Vec<_>>()
        .join(" ")
}

#[track_caller]
fn check_completion(server: &Fixture, more: Value, expected: &str) {
    let answer = server.post(COMPLETIONS, &completion(more));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(choices(&answer.json()), expected);
}

#[test]
fn answers_end_where_they_were_asked_to() {
    let server = Fixture::start();
    let check = |more, expected| check_completion(&server, more, expected);
    check(json!({}), "abcdefghijklmnop/length/null");
    check(
        json!({"max_tokens": 99}),
        "abcdefghijklmnopqrstuvwxyzabcd/stop/null",
    );
    check(
        json!({"max_tokens": 32, "ignore_eos": true}),
        "abcdefghijklmnopqrstuvwxyzabcdf/length/null",
    );
    check(json!({"stop": "ef"}), "abcd/stop/\"ef\"");
    check(
        json!({"stop": ["zz", "gh"], "include_stop_str_in_output": true}),
        "abcdefgh/stop/\"gh\"",
    );
    check(json!({"stop_token_ids": [4, 5]}), "abcd/stop/4");
    check(
        json!({"stop_token_ids": [2], "min_tokens": 4, "max_tokens": 6}),
        "abddef/length/null",
    );
    check(
        json!({"stop": "b", "min_tokens": 3, "max_tokens": 30}),
        "abcdefghijklmnopqrstuvwxyza/stop/\"b\"",
    );
}

#[test]
fn prompts_come_in_four_forms_and_choices_in_their_order() {
    let server = Fixture::start();
    let check = |prompt: Value, choices: &str, prompt_tokens: u64| {
        let body = server.post(
            COMPLETIONS,
            &completion(json!({"prompt": prompt, "max_tokens": 1})),
        );
        assert_eq!(self::choices(&body.json()), choices);
        assert_eq!(body.json()["usage"]["prompt_tokens"], prompt_tokens);
    };
    check(json!("hey"), "a/length/null", 3);
    check(json!(["hey", "you"]), "a/length/null a/length/null", 6);
    check(json!([1, 2]), "a/length/null", 2);
    check(json!([[1, 2], [3]]), "a/length/null a/length/null", 3);
}

#[test]
fn choices_of_a_seeded_request_differ_and_repeat() {
    let server = Fixture::start();
    let more = json!({"n": 3, "seed": 1, "temperature": 1, "max_tokens": 3});
    check_completion(
        &server,
        more.clone(),
        "bcd/length/null cde/length/null def/length/null",
    );
    check_completion(
        &server,
        more,
        "bcd/length/null cde/length/null def/length/null",
    );
}

#[track_caller]
fn check_error(answer: &Answer, status: u16, kind: &str, param: Value, sentence: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    let error = &answer.json()["error"];
    assert_eq!(
        (&error["type"], &error["code"], &error["param"]),
        (&kind.into(), &status.into(), &param)
    );
    assert!(
        error["message"].as_str().unwrap().contains(sentence),
        "{error}"
    );
}

#[test]
fn what_cannot_be_answered_says_why_in_openais_form() {
    let server = Fixture::start();
    let chat_error = |more| server.post(CHAT, &chat(more));
    let bad = "BadRequestError";
    let check = check_error;
    check(
        &chat_error(json!({"model": "gpt-9"})),
        404,
        "NotFoundError",
        "model".into(),
        "`gpt-9`",
    );
    check(
        &chat_error(json!({"messages": []})),
        400,
        bad,
        "messages".into(),
        "at least one",
    );
    check(
        &chat_error(json!({"messages": [7]})),
        400,
        bad,
        "messages".into(),
        "message 0",
    );
    check(
        &chat_error(json!({"tools": [{}]})),
        400,
        bad,
        "tools".into(),
        "not implemented",
    );
    check(
        &chat_error(json!({"max_tokens": 9999})),
        400,
        bad,
        "max_tokens".into(),
        "room for",
    );
    check(
        &chat_error(json!({"min_tokens": 9999})),
        400,
        bad,
        "min_tokens".into(),
        "raise `max_tokens`",
    );
    check(
        &server.post(COMPLETIONS, &completion(json!({"min_tokens": 17}))),
        400,
        bad,
        "min_tokens".into(),
        "may have 16 tokens",
    );
}

#[test]
fn prompts_bodies_and_paths_that_cannot_be_used_are_refused() {
    let server = Fixture::start();
    let bad = "BadRequestError";
    let check = check_error;
    let long = completion(json!({"prompt": "x".repeat(300)}));
    check(
        &server.post(COMPLETIONS, &long),
        400,
        bad,
        "prompt".into(),
        "300 tokens",
    );
    let messages = json!([{"role": "user", "content": "x".repeat(300)}]);
    check(
        &server.post(CHAT, &chat(json!({ "messages": messages }))),
        400,
        bad,
        "messages".into(),
        "tokens",
    );
    let foreign = completion(json!({"prompt": [12345]}));
    check(
        &server.post(COMPLETIONS, &foreign),
        400,
        bad,
        "prompt".into(),
        "token 12345",
    );
    check(
        &server.send("POST", CHAT, "{\"messages\""),
        400,
        bad,
        Value::Null,
        "",
    );
    check(
        &server.send("GET", "/v2/nothing", ""),
        404,
        "NotFoundError",
        Value::Null,
        "/v2/nothing",
    );
    check(
        &server.send("GET", CHAT, ""),
        405,
        bad,
        Value::Null,
        "method",
    );
}

#[test]
fn unknown_fields_are_accepted_and_a_model_may_be_left_out_or_named() {
    let server = Fixture::start();
    let more = json!({"model": "alphabet", "nobody": "knows", "user": "me", "max_tokens": 1});
    assert_eq!(server.post(CHAT, &chat(more)).status, 200);
    let models = server.get("/v1/models").json();
    assert_eq!(models["data"][0]["id"], "alphabet");
    assert_eq!(models["data"][0]["max_model_len"], 256);
    assert!(server.get("/version").json()["version"].is_string());
}

#[test]
fn a_body_beyond_the_bound_is_refused_unread() {
    let server = Fixture::start();
    let body = format!("{{\"prompt\":\"{}\"}}", "x".repeat(17 << 20));
    assert_eq!(server.send("POST", COMPLETIONS, &body).status, 413);
}

#[test]
fn the_clients_request_id_comes_back() {
    let server = Fixture::start();
    let body = completion(json!({"max_tokens": 1})).to_string();
    let answer = server.send_with("POST", COMPLETIONS, "x-request-id: mine-7\r\n", &body);
    assert_eq!(answer.header("x-request-id"), Some("mine-7"));
    assert_eq!(answer.json()["id"], "cmpl-mine-7");
    let answer = server.send_with("GET", "/nowhere", "x-request-id: mine-8\r\n", "");
    assert_eq!(
        (answer.status, answer.header("x-request-id")),
        (404, Some("mine-8"))
    );
    assert!(server.get("/health").header("x-request-id").is_some());
}

#[test]
fn a_full_queue_answers_429_and_when_to_come_back() {
    let server = Fixture::start();
    // Nine sequences arrive together; eight may wait.
    let answer = server.post(COMPLETIONS, &completion(json!({"n": 9, "max_tokens": 1})));
    check_error(
        &answer,
        429,
        "RateLimitError",
        Value::Null,
        "8 requests are waiting already",
    );
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(
        server
            .get("/metrics")
            .body
            .contains("reason=\"queue_full\"} 1\n")
    );
    check_completion(&server, json!({"max_tokens": 1}), "a/length/null");
}

/// Many tokens, never an end of its own.
fn endless() -> Value {
    completion(json!({"max_tokens": 200, "ignore_eos": true}))
}

#[test]
fn a_client_that_leaves_frees_its_sequence() {
    for stream in [false, true] {
        let server = Fixture::start();
        server.model.hold(true);
        let mut body = endless();
        body["stream"] = stream.into();
        let open = server.post_open(COMPLETIONS, &body);
        eventually("the step is reached", || server.model.is_held());
        drop(open);
        let aborted = "finished_reason=\"abort\"} 1\n";
        eventually("the server notices", || {
            server.get("/metrics").body.contains(aborted)
        });
        server.model.hold(false);
        eventually("blocks are free", || {
            server.gauge("vllm:kv_cache_usage_perc") == Some(0.0)
        });
        assert_eq!(server.gauge("vllm:num_requests_running"), Some(0.0));
        // The step that was held is the last that computed for it.
        let generated = server.gauge("vllm:generation_tokens_total");
        assert!(generated <= Some(1.0), "{generated:?} tokens");
    }
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let server = Fixture::start_with(|args| args.max_waiting_requests = 1000);
    let mut body = endless();
    body["stream"] = true.into();
    // Several megabytes of events: more than sockets take in.
    body["n"] = 128.into();
    let _open = server.post_open(COMPLETIONS, &body);
    assert_eq!(
        server
            .post(COMPLETIONS, &completion(json!({"max_tokens": 3})))
            .status,
        200
    );
}

#[test]
fn probes_tell_loading_ready_draining_and_stalled_apart() {
    let server = Fixture::start_loading();
    assert_eq!(
        (server.get("/health").status, server.get("/ready").status),
        (503, 503)
    );
    let refused = server.post(CHAT, &chat(json!({})));
    check_error(
        &refused,
        503,
        "ServiceUnavailableError",
        Value::Null,
        "loading",
    );
    server.model.finish_loading();
    eventually("ready", || server.get("/ready").status == 200);
    assert_eq!(server.get("/health").status, 200);
    server.lifecycle.drain();
    assert_eq!(
        (server.get("/health").status, server.get("/ready").status),
        (200, 503)
    );
    let refused = server.post(CHAT, &chat(json!({})));
    check_error(
        &refused,
        503,
        "ServiceUnavailableError",
        Value::Null,
        "shutting down",
    );
    assert_eq!(refused.header("retry-after"), Some("1"));
}

#[test]
fn a_step_that_hangs_makes_the_engine_unhealthy_until_it_goes_on() {
    let server = Fixture::start_with(|args| args.stall_timeout = Duration::from_secs(2));
    server.model.hold(true);
    let _open = server.post_open(COMPLETIONS, &completion(json!({})));
    eventually("unhealthy", || server.get("/health").status == 503);
    assert!(server.get("/ready").body.contains("no progress"));
    server.model.hold(false);
    eventually("healthy again", || server.get("/health").status == 200);
}

#[test]
fn a_backend_that_fails_breaks_answers_off_with_an_error() {
    let server = Fixture::start();
    server.model.hold(true);
    let mut body = completion(json!({"stream": true}));
    let streaming = server.post_held(COMPLETIONS, &body);
    eventually("the step is reached", || server.model.is_held());
    body["stream"] = false.into();
    let whole = server.post_held(COMPLETIONS, &body);
    eventually("both arrived", || server.lifecycle.in_flight_count() == 2);
    server.model.fail();
    let (mut streamed, mut answered) = (None, None);
    eventually("both end", || {
        streamed = streamed.take().or_else(|| streaming.try_answer());
        answered = answered.take().or_else(|| whole.try_answer());
        streamed.is_some() && answered.is_some()
    });
    let events = streamed.unwrap().events();
    assert!(
        events.starts_with("data: {\"error\":{\"code\":500"),
        "{events}"
    );
    assert!(events.ends_with("data: [DONE]\n\n"), "{events}");
    check_error(
        &answered.unwrap(),
        500,
        "InternalServerError",
        Value::Null,
        "engine",
    );
}

#[test]
fn metrics_have_vllms_names_and_tell_where_ranks_run() {
    let server = Fixture::start();
    server.post(COMPLETIONS, &completion(json!({"max_tokens": 3})));
    let text = server.get("/metrics").body;
    let has = |line: &str| assert!(text.contains(line), "{line} is not in\n{text}");
    has("vllm:generation_tokens_total{model_name=\"alphabet\",engine=\"0\"} 3");
    has("vllm:prompt_tokens_total{model_name=\"alphabet\",engine=\"0\"} 2");
    has("vllm:num_preemptions_total");
    has(
        "vllm:time_to_first_token_seconds_bucket{model_name=\"alphabet\",engine=\"0\",le=\"0.001\"",
    );
    has("vllm:e2e_request_latency_seconds_count");
    has("vllm:cache_config_info{model_name=\"alphabet\",engine=\"0\",block_size=\"8\"");
    has("finished_reason=\"length\"} 1\n");
    let rank_series = |name: &str, rank: &str| {
        format!("{name}{{model_name=\"alphabet\",engine=\"0\",rank=\"{rank}\",")
    };
    for rank in ["0", "1"] {
        has(&format!(
            "{}state=\"ok\"}} 1",
            rank_series("berth_engine_rank_cpu_bind", rank)
        ));
        has(&rank_series("berth_engine_rank_info", rank));
    }
    has("# TYPE vllm:generation_tokens_total counter");
    has("finished_reason=\"abort\"} 0");
    assert!(!text.contains("# EOF"));
}

#[test]
fn a_request_of_many_answers_is_one_request() {
    let server = Fixture::start();
    server.post(COMPLETIONS, &completion(json!({"max_tokens": 1, "n": 3})));
    let counted = || server.gauge("vllm:request_params_n_count");
    eventually("counted", || counted() > Some(0.0));
    assert_eq!(counted(), Some(1.0));
    assert_eq!(server.gauge("vllm:request_params_n_sum"), Some(3.0));
}

#[test]
fn metrics_are_openmetrics_for_those_who_ask() {
    let server = Fixture::start();
    let accept = "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let answer = server.send_with("GET", "/metrics", accept, "");
    assert!(answer.body.ends_with("# EOF\n"));
    let kind = |answer: &Answer| answer.header("content-type").unwrap().to_owned();
    assert!(kind(&answer).starts_with("application/openmetrics-text"));
    assert!(kind(&server.get("/metrics")).starts_with("text/plain; version=0.0.4"));
}

#[test]
fn a_model_is_found_by_its_name() {
    let server = Fixture::start();
    let found = server.get("/v1/models/alphabet").json();
    assert_eq!(found, server.get("/v1/models").json()["data"][0]);
    let none = server.get("/v1/models/some/other");
    check_error(
        &none,
        404,
        "NotFoundError",
        "model".into(),
        "`some/other` does not exist",
    );
}
