//! What the shared fields may say.

use serde_json::json;

use super::*;

fn take_with(body: Value, defaults: &Defaults) -> Result<Options, ApiError> {
    let mut fields = Fields(body.as_object().unwrap().clone());
    Options::take(&mut fields, Endpoint::Chat, defaults)
}

fn take(body: Value) -> Result<Options, ApiError> {
    take_with(body, &Defaults::default())
}

#[track_caller]
fn check_refused(body: Value, param: &str, sentence: &str) {
    let error = take(body).unwrap_err();
    assert!(error.to_string().contains(sentence), "{error}");
    assert_eq!(error.body()["error"]["param"], param);
}

#[test]
fn values_out_of_range_are_named() {
    check_refused(json!({"temperature": -0.5}), "temperature", "0 or more");
    check_refused(json!({"top_p": 0}), "top_p", "above 0");
    check_refused(json!({"top_k": -2}), "top_k", "-1, 0 or");
    check_refused(json!({"n": 0}), "n", "at least 1 and at most 128");
    check_refused(json!({"max_tokens": 0}), "max_tokens", "at least 1");
    check_refused(
        json!({"max_tokens": 2, "min_tokens": 3}),
        "min_tokens",
        "above",
    );
    check_refused(
        json!({"stop": ["a", "b", "c", "d", "e"]}),
        "stop",
        "4 strings",
    );
    check_refused(json!({"stop": ""}), "stop", "empty");
    check_refused(json!({"stop": [1]}), "stop", "list of strings");
    check_refused(
        json!({"stream_options": {}}),
        "stream_options",
        "needs `stream`",
    );
    check_refused(
        json!({"stop_token_ids": [-1]}),
        "stop_token_ids",
        "invalid value",
    );
}

#[test]
fn defaults_are_vllms() {
    let options = take(json!({})).unwrap();
    assert_eq!(options.sampling, Sampling::default());
    assert_eq!(
        (
            options.max_tokens.count,
            options.min_tokens,
            options.choice_count
        ),
        (None, 0, 1)
    );
    assert!(options.skip_special && !options.stream && !options.include_stop);
}

#[test]
fn the_newer_name_of_max_tokens_wins_and_seeds_may_be_negative() {
    let body = json!({"max_tokens": 3, "max_completion_tokens": 5, "seed": -1, "top_k": -1});
    let options = take(body).unwrap();
    assert_eq!(options.max_tokens.count, Some(5));
    assert_eq!(options.max_tokens.field, "max_completion_tokens");
    assert_eq!((options.seed, options.sampling.top_k), (Some(u64::MAX), 0));
}
