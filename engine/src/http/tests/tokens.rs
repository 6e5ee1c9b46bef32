//! What is shown of tokens: log-probabilities, ids, the prompt itself.

use expect_test::expect;
use serde_json::json;

use super::fixture::Fixture;
use super::{CHAT, COMPLETIONS, chat, check_completion, completion};

#[test]
fn a_chat_tells_how_likely_each_token_was() {
    let server = Fixture::start();
    let more = json!({"max_tokens": 2, "logprobs": true, "top_logprobs": 1});
    let body = server.post(CHAT, &chat(more)).json();
    expect![[r#"{"content":[{"bytes":[97],"logprob":-0.5,"token":"a","top_logprobs":[{"bytes":[97],"logprob":-0.25,"token":"a"}]},{"bytes":[98],"logprob":-0.5,"token":"b","top_logprobs":[{"bytes":[97],"logprob":-0.25,"token":"a"}]}],"refusal":null}"#]]
        .assert_eq(&body["choices"][0]["logprobs"].to_string());
}

#[test]
fn a_completion_tells_how_likely_each_token_was() {
    let server = Fixture::start();
    let body = server.post(
        COMPLETIONS,
        &completion(json!({"max_tokens": 2, "logprobs": 1})),
    );
    expect![[r#"{"text_offset":[0,1],"token_logprobs":[-0.5,-0.5],"tokens":["a","b"],"top_logprobs":[{"a":-0.25},{"a":-0.25,"b":-0.5}]}"#]]
        .assert_eq(&body.json()["choices"][0]["logprobs"].to_string());
    let more = json!({"max_tokens": 1, "logprobs": 0, "return_tokens_as_token_ids": true});
    let body = server.post(COMPLETIONS, &completion(more));
    expect![[r#"{"text_offset":[0],"token_logprobs":[-0.5],"tokens":["token_id:0"],"top_logprobs":[{"token_id:0":-0.5}]}"#]]
        .assert_eq(&body.json()["choices"][0]["logprobs"].to_string());
}

#[test]
fn a_stream_tells_of_each_token_even_where_its_text_is_held_back() {
    let server = Fixture::start();
    let more = json!({"max_tokens": 5, "stop": "cd", "logprobs": 0, "return_token_ids": true,
                      "stream": true});
    let answer = server.post(COMPLETIONS, &completion(more));
    expect![[r#"
        data: {"choices":[{"finish_reason":null,"index":0,"logprobs":{"text_offset":[0],"token_logprobs":[-0.5],"tokens":["a"],"top_logprobs":[{"a":-0.5}]},"prompt_token_ids":[7,8],"stop_reason":null,"text":"","token_ids":[0]}],"object":"text_completion"}

        data: {"choices":[{"finish_reason":null,"index":0,"logprobs":{"text_offset":[1],"token_logprobs":[-0.5],"tokens":["b"],"top_logprobs":[{"b":-0.5}]},"stop_reason":null,"text":"a","token_ids":[1]}],"object":"text_completion"}

        data: {"choices":[{"finish_reason":null,"index":0,"logprobs":{"text_offset":[2],"token_logprobs":[-0.5],"tokens":["c"],"top_logprobs":[{"c":-0.5}]},"stop_reason":null,"text":"b","token_ids":[2]}],"object":"text_completion"}

        data: {"choices":[{"finish_reason":"stop","index":0,"logprobs":{"text_offset":[3],"token_logprobs":[-0.5],"tokens":["d"],"top_logprobs":[{"d":-0.5}]},"stop_reason":"cd","text":"","token_ids":[3]}],"object":"text_completion"}

        data: [DONE]

    "#]]
    .assert_eq(&answer.events());
}

#[test]
fn the_ids_of_prompt_and_output_are_told() {
    let server = Fixture::start();
    let more = json!({"max_tokens": 2, "return_token_ids": true});
    let body = server.post(COMPLETIONS, &completion(more.clone())).json();
    let choice = &body["choices"][0];
    assert_eq!(choice["prompt_token_ids"], json!([7, 8]));
    assert_eq!(choice["token_ids"], json!([0, 1]));
    let body = server.post(CHAT, &chat(more)).json();
    assert_eq!(body["prompt_token_ids"].as_array().unwrap().len(), 8);
    assert_eq!(body["choices"][0]["token_ids"], json!([0, 1]));
}

#[test]
fn an_answer_can_begin_with_its_prompt_or_a_part_of_it() {
    let server = Fixture::start();
    let check = |more, expected| check_completion(&server, more, expected);
    check(json!({"echo": true, "max_tokens": 2}), "hiab/length/null");
    check(
        json!({"prompt": [[7], [8, 9]], "echo": true, "max_tokens": 1}),
        "ha/length/null ija/length/null",
    );
    check(
        json!({"prompt": "hello", "truncate_prompt_tokens": 2, "echo": true, "max_tokens": 1}),
        "loa/length/null",
    );
    let long = "x".repeat(300);
    check(
        json!({"prompt": long, "truncate_prompt_tokens": -1, "max_tokens": 3}),
        "abc/length/null",
    );
    let more = json!({"echo": true, "max_tokens": 2, "stream": true});
    let events = server.post(COMPLETIONS, &completion(more)).events();
    assert!(events.contains(r#""text":"hia""#), "{events}");
}

#[test]
fn a_chat_can_go_on_with_its_last_message() {
    let server = Fixture::start();
    let messages =
        json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "so "}]);
    let more = json!({"messages": messages, "add_generation_prompt": false, "max_tokens": 1,
                      "continue_final_message": true, "echo": true, "return_token_ids": true});
    let body = server.post(CHAT, &chat(more)).json();
    assert_eq!(body["choices"][0]["message"]["content"], "so a");
    // "user q" and "assistant so ".
    assert_eq!(body["prompt_token_ids"].as_array().unwrap().len(), 6 + 13);
}

#[test]
fn usage_can_come_with_every_chunk() {
    let server = Fixture::start();
    let more = json!({"max_tokens": 2, "stream": true,
                      "stream_options": {"include_usage": true, "continuous_usage_stats": true}});
    let events = server.post(COMPLETIONS, &completion(more)).events();
    let counts = [1, 2, 2].map(|count| format!("\"completion_tokens\":{count},"));
    let mut rest = events.as_str();
    for count in counts {
        let (_, after) = rest.split_once(&count).unwrap();
        rest = after;
    }
}
