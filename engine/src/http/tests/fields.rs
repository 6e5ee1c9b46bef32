//! Every field that OpenAI's or vLLM's requests have: it does something, or is refused by its name.

use serde_json::{Value, json};

use super::fixture::Fixture;
use super::{CHAT, COMPLETIONS, chat, completion};

/// What becomes of a field with this value, which is not its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Answered.
    Accepted,
    /// 400 with `param` being its name: it is not implemented, or the value is no good.
    Refused,
}

use Fate::{Accepted, Refused};

type Case = (&'static str, Value, Fate);

/// OpenAI's own, of both endpoints.
fn of_openai() -> Vec<Case> {
    vec![
        ("model", json!("alphabet"), Accepted),
        ("frequency_penalty", json!(0.5), Accepted),
        ("frequency_penalty", json!(2.5), Refused),
        ("logit_bias", json!({"3": 5}), Accepted),
        ("logit_bias", json!({"3": 101}), Refused),
        ("logit_bias", json!({"x": 1}), Refused),
        ("logit_bias", json!({"30": 1}), Refused),
        ("max_tokens", json!(2), Accepted),
        ("max_tokens", json!(-1), Refused),
        ("max_tokens", json!(1.5), Refused),
        ("max_tokens", json!(100_000), Refused),
        ("max_completion_tokens", json!(2), Accepted),
        ("max_completion_tokens", json!(100_000), Refused),
        ("n", json!(2), Accepted),
        ("n", json!(0), Refused),
        ("presence_penalty", json!(-0.5), Accepted),
        ("presence_penalty", json!(1e39), Refused),
        ("response_format", json!({"type": "json_object"}), Refused),
        ("seed", json!(7), Accepted),
        ("seed", json!("7"), Refused),
        ("stop", json!(["x", "y"]), Accepted),
        ("stop", json!({}), Refused),
        ("stream", json!("yes"), Refused),
        ("stream_options", json!({"include_usage": true}), Refused),
        ("temperature", json!(0.5), Accepted),
        ("temperature", json!(-1), Refused),
        ("top_p", json!(0.5), Accepted),
        ("top_p", json!(1.5), Refused),
        ("user", json!("me"), Accepted),
        ("user", json!(7), Refused),
        ("priority", json!(5), Accepted),
        ("priority", json!("high"), Refused),
        ("cache_salt", json!("s"), Accepted),
        ("cache_salt", json!(""), Refused),
        ("first_token_ms", json!(500), Accepted),
    ]
}

/// vLLM's and ours, of both endpoints.
fn of_vllm() -> Vec<Case> {
    vec![
        ("top_k", json!(3), Accepted),
        ("top_k", json!(1.5), Refused),
        ("min_p", json!(0.1), Accepted),
        ("min_p", json!(-0.1), Refused),
        ("repetition_penalty", json!(1.1), Accepted),
        ("repetition_penalty", json!(0), Refused),
        ("length_penalty", json!(0.5), Refused),
        ("use_beam_search", json!(true), Refused),
        ("stop_token_ids", json!([3]), Accepted),
        ("include_stop_str_in_output", json!(true), Accepted),
        ("ignore_eos", json!(true), Accepted),
        ("min_tokens", json!(1), Accepted),
        ("min_tokens", json!(-1), Refused),
        ("skip_special_tokens", json!(false), Accepted),
        ("spaces_between_special_tokens", json!(false), Refused),
        ("truncate_prompt_tokens", json!(1), Accepted),
        ("truncate_prompt_tokens", json!(0), Refused),
        ("prompt_logprobs", json!(1), Refused),
        ("allowed_token_ids", json!([1, 2]), Accepted),
        ("allowed_token_ids", json!([]), Refused),
        ("allowed_token_ids", json!([30]), Refused),
        ("bad_words", json!(["ab"]), Accepted),
        ("bad_words", json!([""]), Refused),
        ("echo", json!(true), Accepted),
        ("add_special_tokens", json!(true), Accepted),
        ("structured_outputs", json!({"regex": "a"}), Refused),
        ("request_id", json!("mine"), Accepted),
        ("request_id", json!(""), Refused),
        ("session_id", json!("s"), Refused),
        ("return_token_ids", json!(true), Accepted),
        ("return_tokens_as_token_ids", json!(true), Accepted),
        ("logprob_token_ids", json!([1]), Refused),
        ("kv_transfer_params", json!({"a": 1}), Refused),
        ("vllm_xargs", json!({"a": 1}), Refused),
        ("repetition_detection", json!({"a": 1}), Refused),
        ("thinking_token_budget", json!(1), Refused),
        ("stream_interval", json!(2), Refused),
        ("something_new", json!({"a": [1]}), Accepted),
    ]
}

fn of_chat() -> Vec<Case> {
    vec![
        ("messages", json!("hi"), Refused),
        ("logprobs", json!(true), Accepted),
        ("logprobs", json!(1), Refused),
        ("top_logprobs", json!(2), Refused),
        ("tools", json!([{"type": "function"}]), Refused),
        ("tool_choice", json!("auto"), Refused),
        ("parallel_tool_calls", json!(false), Refused),
        ("reasoning_effort", json!("low"), Refused),
        ("add_generation_prompt", json!(false), Accepted),
        ("continue_final_message", json!(true), Refused),
        ("documents", json!([{"a": "b"}]), Refused),
        ("chat_template", json!("{{ 1 }}"), Refused),
        ("chat_template_kwargs", json!({"thinking": false}), Accepted),
        ("chat_template_kwargs", json!([]), Refused),
    ]
}

fn of_completions() -> Vec<Case> {
    vec![
        ("prompt", json!({"a": 1}), Refused),
        ("prompt", json!([1, "a"]), Refused),
        ("prompt", json!("x".repeat(300)), Refused),
        ("logprobs", json!(2), Accepted),
        ("logprobs", json!(21), Refused),
        ("suffix", json!("x"), Refused),
        ("best_of", json!(2), Refused),
    ]
}

#[test]
fn each_field_does_something_or_is_refused_by_its_name() {
    let server = Fixture::start();
    let check = |path: &str, body: Value, (name, value, fate): Case| {
        let answer = server.post(path, &body);
        let shown = format!("{path} {name} {value}: {}", answer.body);
        match fate {
            Accepted => assert_eq!(answer.status, 200, "{shown}"),
            Refused => {
                assert_eq!(answer.status, 400, "{shown}");
                let error = &answer.json()["error"];
                assert_eq!(error["param"], *name, "{shown}");
                assert_eq!(error["code"], 400, "{shown}");
                assert_eq!(error["type"], "BadRequestError", "{shown}");
            }
        }
    };
    let with = |name: &str, value: &Value| json!({ name: value });
    let of_both = || of_openai().into_iter().chain(of_vllm());
    for case in of_both().chain(of_chat()) {
        check(CHAT, chat(with(case.0, &case.1)), case);
    }
    for case in of_both().chain(of_completions()) {
        check(COMPLETIONS, completion(with(case.0, &case.1)), case);
    }
}

#[test]
fn what_is_no_json_names_the_field_in_which_it_stops_being_one() {
    let server = Fixture::start();
    let deep = format!("{{\"messages\": {}", "[".repeat(100_000));
    let cases = [
        (
            r#"{"prompt": "a", "temperature": NaN}"#,
            json!("temperature"),
        ),
        (r#"{"prompt": "a", "top_p": -Infinity}"#, json!("top_p")),
        (r#"{"prompt": "\ud800"}"#, json!("prompt")),
        (deep.as_str(), json!("messages")),
        ("[]", Value::Null),
    ];
    for (body, param) in cases {
        let answer = server.send("POST", COMPLETIONS, body);
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert_eq!(answer.json()["error"]["param"], param, "{}", answer.body);
    }
}
