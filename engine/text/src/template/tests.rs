//! Templates of the kinds that models bring, and what goes wrong in them.

use std::time::{Duration, UNIX_EPOCH};

use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

const CHATML: &str = "\
{%- if messages[0].role != 'system' %}
{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}
{%- endif %}
{% for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}
{% endfor %}
{% if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}";

fn special() -> SpecialTokens {
    let token = |text: &str| Some(text.to_owned());
    SpecialTokens {
        bos: token("<s>"),
        eos: token("</s>"),
        ..SpecialTokens::default()
    }
}

/// 7 March 2024, 12:00 UTC.
fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_709_812_800)
}

fn render(source: &str, messages: &Json, prompt: bool) -> Result<String, RenderError> {
    let template = ChatTemplate::new(source, &special()).unwrap();
    template.render(&Conversation {
        messages: messages.as_array().unwrap(),
        add_generation_prompt: prompt,
        tools: None,
        variables: None,
        now: noon(),
    })
}

#[track_caller]
fn check(source: &str, messages: &Json, expected: Expect) {
    expected.assert_eq(&render(source, messages, true).unwrap());
}

#[track_caller]
fn check_refused(source: &str, messages: &Json, expected: Expect) {
    let error = render(source, messages, true).unwrap_err();
    let source = std::error::Error::source(&error);
    let cause = source
        .map(|source| format!(": {source}"))
        .unwrap_or_default();
    expected.assert_eq(&format!("{error}{cause}"));
}

fn hello() -> Json {
    json!([{"role": "user", "content": "Hi"}])
}

#[test]
fn chatml_opens_the_turn_of_the_assistant() {
    check(
        CHATML,
        &json!([{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}]),
        expect![[r#"
            <|im_start|>system
            S<|im_end|>
            <|im_start|>user
            Hi<|im_end|>
            <|im_start|>assistant
        "#]],
    );
    let closed = render(CHATML, &hello(), false).unwrap();
    assert_eq!(
        closed,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    );
}

#[test]
fn blocks_are_trimmed_as_hugging_face_does() {
    let source = "{% for m in messages %}\n    {% if true %}\n  x\n    {% endif %}\n{% endfor %}\n";
    assert_eq!(render(source, &hello(), true).unwrap(), "  x\n");
}

#[test]
fn special_tokens_and_python_methods_are_there() {
    check(
        "{{ bos_token }}{% for m in messages[::-1] %}{{ m.content.strip().upper() }}\
         {%- if m.role.startswith('us') %}{{ eos_token }}{% endif %}{% endfor %}\
         {% for key, value in {'a': 1}.items() %}{{ key }}{{ value }}{% endfor %}",
        &json!([{"role": "user", "content": " hi "}]),
        expect!["<s>HI</s>a1"],
    );
}

#[test]
fn loops_can_be_left_and_namespaces_kept() {
    check(
        "{% set ns = namespace(last=none) %}{% for m in messages %}\
         {% if m.role == 'tool' %}{% continue %}{% endif %}{% set ns.last = m.content %}\
         {% if loop.index0 == 2 %}{% break %}{% endif %}{% endfor %}{{ ns.last }}",
        &json!([{"role": "user", "content": "1"}, {"role": "tool", "content": "2"},
                {"role": "user", "content": "3"}, {"role": "user", "content": "4"}]),
        expect!["3"],
    );
}

#[test]
fn values_print_as_in_python() {
    check(
        "{{ none }} {{ true }} {{ missing }}|{{ missing is defined }} {{ 1.0 }} {{ messages|length }}",
        &hello(),
        expect!["None True |False 1.0 1"],
    );
}

#[test]
fn json_is_written_as_python_writes_it() {
    let source = "{{ {'b': none, 'a': [true, 1]} | tojson }}{{ [1, '<é>'] | tojson(indent=1) }}";
    check(
        source,
        &hello(),
        expect![[r#"
            {"b": null, "a": [true, 1]}[
             1,
             "<é>"
            ]"#]],
    );
}

#[test]
fn the_date_is_the_one_that_was_given() {
    check(
        "{{ strftime_now('%d %b %Y') }}",
        &hello(),
        expect!["07 Mar 2024"],
    );
    check_refused(
        "{{ strftime_now('%!') }}",
        &hello(),
        expect![[
            r#"rendering the chat template: invalid operation: strftime_now("%!"): strftime formatting failed: found unrecognized specifier directive `!` (in chat_template:1)"#
        ]],
    );
}

#[test]
fn parts_become_lines_and_null_nothing() {
    let parts = json!([{"type": "text", "text": "a"}, "b", {"type": "text", "text": "c"}]);
    check(
        "{{ messages[0].content }}",
        &json!([{"role": "u", "content": parts}]),
        expect![[r#"
        a
        b
        c"#]],
    );
    check(
        "[{{ messages[0].content }}]",
        &json!([{"role": "u", "content": null}]),
        expect!["[]"],
    );
    check(
        "[{{ messages[0].content }}]",
        &json!([{"role": "u"}]),
        expect!["[]"],
    );
}

#[test]
fn messages_that_are_none_are_refused_by_their_position() {
    let image = json!([{"type": "image_url", "image_url": {"url": "x"}}]);
    check_refused(
        CHATML,
        &json!([{"role": "user", "content": "a"}, {"role": "user", "content": image}]),
        expect![[r#"message 1 has a part of type "image_url": this model takes text only"#]],
    );
    check_refused(CHATML, &json!(["x"]), expect!["message 0 is not an object"]);
    check_refused(
        CHATML,
        &json!([{"content": "x"}]),
        expect!["message 0 has no role, which must be a string"],
    );
    check_refused(
        CHATML,
        &json!([{"role": "user", "content": 3}]),
        expect!["message 0 has content that is neither a string nor a list of parts"],
    );
}

#[test]
fn the_sentence_of_a_template_reaches_the_caller() {
    let macros = "{% macro check(m) %}{% if m.role == 'user' %}\
                  {{ raise_exception('Roles must alternate: ' ~ m.role) }}{% endif %}{% endmacro %}\
                  {% for m in messages %}{{ check(m) }}{% endfor %}";
    let error = render(macros, &hello(), true).unwrap_err();
    assert!(
        matches!(&error, RenderError::Refused(it) if it == "Roles must alternate: user"),
        "{error:?}"
    );
}

#[test]
fn other_failures_name_the_template_and_line() {
    check_refused(
        "\n{{ messages[0].content + 1 }}",
        &hello(),
        expect![
            "rendering the chat template: invalid operation: tried to use + operator on unsupported types string and number (in chat_template:2)"
        ],
    );
}

#[test]
fn a_template_that_does_not_end_is_stopped() {
    let endless = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}";
    let error = render(endless, &hello(), true).unwrap_err();
    assert!(matches!(error, RenderError::TooManySteps), "{error:?}");
}

#[test]
fn a_text_longer_than_any_context_is_stopped() {
    let long = "{% for a in range(90000) %}{{ 'x' * 100 }}{% endfor %}";
    let error = render(long, &hello(), true).unwrap_err();
    assert!(matches!(error, RenderError::TooLong), "{error:?}");
}

#[test]
fn templates_that_do_not_compile_are_refused() {
    let error = ChatTemplate::new("{% if %}", &special()).unwrap_err();
    assert!(matches!(error, TemplateError::Compile(_)), "{error:?}");
    let error = ChatTemplate::new(&" ".repeat(SOURCE_BYTES_MAX + 1), &special()).unwrap_err();
    assert!(matches!(error, TemplateError::TooLong { .. }), "{error:?}");
}

#[test]
fn tools_and_variables_are_seen_but_cannot_replace_the_messages() {
    let template = ChatTemplate::new(
        "{{ tools[0].name }} {{ enable_thinking }} {{ messages[0].content }}",
        &special(),
    )
    .unwrap();
    let variables = json!({"enable_thinking": false, "messages": "mine"});
    let messages = hello();
    let text = template
        .render(&Conversation {
            messages: messages.as_array().unwrap(),
            add_generation_prompt: false,
            tools: Some(&json!([{"name": "clock"}])),
            variables: variables.as_object(),
            now: noon(),
        })
        .unwrap();
    assert_eq!(text, "clock False Hi");
}
