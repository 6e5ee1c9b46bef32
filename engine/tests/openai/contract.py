#!/usr/bin/env python3
"""What the openai client relies on, asked of a running engine by the client itself.

contract.py URL: the engine to talk to; it lets 32 requests wait and takes 1,024 tokens.
Each check is a function; prints one line for each and ends with 1 where one fails.
"""

import asyncio
import json
import sys
import time
import traceback

import openai

URL = sys.argv[1]
MODEL = "smollm2"
# Loading and computing take their time on a busy machine.
PATIENCE_S = 300
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def client(**more):
    more = {"base_url": f"{URL}/v1", "api_key": "none", "timeout": PATIENCE_S, "max_retries": 0, **more}
    return openai.OpenAI(**more)


def user(text):
    return [{"role": "user", "content": text}]


def chat(text="What is the capital of France?", **more):
    more = {"model": MODEL, "temperature": 0, "max_tokens": 8, **more}
    return client().chat.completions.create(messages=user(text), **more)


def complete(prompt="The capital of France is", **more):
    more = {"model": MODEL, "temperature": 0, "max_tokens": 6, **more}
    return client().completions.create(prompt=prompt, **more)


def refused(kind, call, param=None, code=None):
    """The call raises exactly this class; its param and code are these."""
    try:
        call()
    except kind as error:
        assert type(error) is kind, f"{type(error)} is more than {kind}"
        assert error.param == param, f"param {error.param!r}, not {param!r}"
        # The client makes a string of it.
        assert error.code == str(code), f"code {error.code!r}, not {code!r}"
        assert error.type and error.message, error
        assert error.request_id, "the request has no id"
        return error
    raise AssertionError(f"{kind} was not raised")


# === whole answers ===


@check
def a_chat_has_text_reason_and_usage():
    answer = chat()
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.model == MODEL and answer.created > 1_700_000_000 and answer.system_fingerprint
    assert choice.message.role == "assistant" and choice.message.content, choice
    assert choice.finish_reason == "length" and choice.logprobs is None
    usage = answer.usage
    assert usage.completion_tokens == 8 and usage.prompt_tokens > 8
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens >= 0
    assert answer._request_id, "x-request-id is not there"


@check
def a_completion_has_text_reason_and_usage():
    answer = complete()
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert "Paris" in answer.choices[0].text and answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 6
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0


@check
def an_answer_that_ends_by_itself_says_stop():
    answer = chat("Say only: hello", max_tokens=100)
    assert answer.choices[0].finish_reason == "stop", answer
    assert "<|" not in answer.choices[0].message.content


@check
def stop_strings_end_an_answer_and_are_not_in_it():
    whole = complete(max_tokens=12).choices[0].text
    stop = whole[5:8]
    for stops in (stop, ["no such text", stop]):
        choice = complete(max_tokens=12, stop=stops).choices[0]
        assert choice.finish_reason == "stop" and choice.text == whole[: whole.find(stop)], choice
    kept = complete(max_tokens=12, stop=stop, extra_body={"include_stop_str_in_output": True})
    assert kept.choices[0].text == whole[: whole.find(stop) + len(stop)]


@check
def prompts_may_be_token_ids_and_lists():
    ids = complete(max_tokens=1, extra_body={"return_token_ids": True}).choices[0].prompt_token_ids
    assert complete(ids).choices[0].text == complete().choices[0].text
    assert complete(ids).usage.prompt_tokens == len(ids)
    both = complete([ids, ids[:3]])
    assert [choice.index for choice in both.choices] == [0, 1]
    assert both.choices[0].text == complete().choices[0].text
    texts = complete(["The capital of France is", "One, two,"])
    assert len(texts.choices) == 2 and texts.usage.completion_tokens == 12


@check
def a_prompt_that_comes_again_is_found_in_the_cache():
    prompt = "One, two, three, four, five, six, seven, eight, nine, ten. " * 8
    details = lambda: complete(prompt, max_tokens=2).usage
    first, again = details(), details()
    assert again.prompt_tokens == first.prompt_tokens > 64
    assert 0 < again.prompt_tokens_details.cached_tokens < again.prompt_tokens, again


@check
def echo_puts_the_prompt_first():
    alone = complete().choices[0].text
    assert complete(echo=True).choices[0].text == "The capital of France is" + alone


# === sampling ===


@check
def n_choices_of_a_seed_differ_and_repeat():
    texts = lambda seed: [
        choice.message.content
        for choice in chat("Tell me a story.", n=3, seed=seed, temperature=1.5).choices
    ]
    first = texts(7)
    assert len(set(first)) > 1, first
    assert first == texts(7) and first != texts(8)


@check
def greedy_and_settings_that_come_to_the_same_agree():
    greedy = complete().choices[0].text
    same = [
        {"temperature": 1, "extra_body": {"top_k": 1}},
        {"temperature": 1, "extra_body": {"min_p": 1.0}},
        {"temperature": 1, "top_p": 1e-6},
        {"extra_body": {"repetition_penalty": 1.0}, "frequency_penalty": 0, "presence_penalty": 0},
    ]
    for settings in same:
        assert complete(**settings).choices[0].text == greedy, settings


@check
def bias_allowed_tokens_bad_words_and_penalties_change_what_is_chosen():
    first = complete(max_tokens=1, extra_body={"return_token_ids": True}).choices[0]
    token, text = first.token_ids[0], first.text
    assert complete(max_tokens=1, logit_bias={str(token): -100}).choices[0].text != text
    only = complete(max_tokens=4, extra_body={"allowed_token_ids": [token], "return_token_ids": True})
    assert only.choices[0].token_ids == [token] * 4, only
    assert complete(max_tokens=1, extra_body={"bad_words": [text.strip()]}).choices[0].text != text
    again = lambda **more: complete("a a a a a a a a", max_tokens=8, **more).choices[0].text
    assert again(extra_body={"repetition_penalty": 5.0}) != again()
    assert again(frequency_penalty=2.0, presence_penalty=2.0) != again()


@check
def an_answer_can_be_made_to_go_on():
    short = chat("Say only: hello", max_tokens=100).usage.completion_tokens
    long = chat("Say only: hello", max_tokens=short + 4, extra_body={"ignore_eos": True})
    assert long.usage.completion_tokens == short + 4 and long.choices[0].finish_reason == "length"
    least = chat("Say only: hello", max_tokens=100, extra_body={"min_tokens": short + 2})
    assert least.usage.completion_tokens >= short + 2


# === log-probabilities ===


@check
def a_chat_tells_logprobs():
    choice = chat(logprobs=True, top_logprobs=3).choices[0]
    content = choice.logprobs.content
    assert len(content) == 8
    assert "".join(one.token for one in content) == choice.message.content
    for one in content:
        assert bytes(one.bytes).decode() == one.token and one.logprob <= 0
        top = one.top_logprobs
        assert len(top) == 3 and top[0].token == one.token and top[0].logprob == one.logprob
        assert top[0].logprob >= top[1].logprob >= top[2].logprob
    assert chat(logprobs=True).choices[0].logprobs.content[0].top_logprobs == []


@check
def a_completion_tells_logprobs():
    choice = complete(logprobs=2).choices[0]
    told = choice.logprobs
    assert "".join(told.tokens) == choice.text
    assert len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset) == 6
    for index, (offset, token) in enumerate(zip(told.text_offset, told.tokens)):
        assert choice.text[offset : offset + len(token)] == token
        assert told.top_logprobs[index][token] == told.token_logprobs[index]
        assert len(told.top_logprobs[index]) == 2
    assert complete().choices[0].logprobs is None


@check
def logprobs_are_the_same_alone_and_in_company():
    told = lambda answer: [choice.logprobs.token_logprobs for choice in answer.choices]
    alone = told(complete(logprobs=0))
    others = ["One, two,", "The capital of France is", "Once upon a time"]
    assert told(complete(others, logprobs=0))[1] == alone[0]


# === streams ===


@check
def a_chat_streams_role_first_reason_last_then_usage():
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    *body, last = chunks
    assert body[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in body[1:])
    assert [chunk.choices[0].finish_reason for chunk in body][-1] == "length"
    assert all(chunk.choices[0].finish_reason is None for chunk in body[:-1])
    assert all(chunk.usage is None for chunk in body)
    assert last.choices == [] and last.usage.completion_tokens == 8
    text = "".join(chunk.choices[0].delta.content or "" for chunk in body)
    assert text == chat().choices[0].message.content


@check
def a_completion_streams_its_text_and_no_usage():
    chunks = list(complete(stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == complete().choices[0].text
    assert all(getattr(chunk, "usage", None) is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


@check
def a_stream_ends_with_done():
    raw = client().chat.completions.with_streaming_response.create(
        model=MODEL, messages=user("hi"), max_tokens=2, stream=True
    )
    with raw as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)
    assert all(json.loads(line[6:])["choices"] for line in lines[:-1])


@check
def streams_of_several_choices_are_told_apart():
    texts = {}
    for chunk in chat("Tell me a story.", n=2, seed=3, temperature=1.5, stream=True):
        for choice in chunk.choices:
            texts.setdefault(choice.index, "")
            texts[choice.index] += choice.delta.content or ""
    whole = chat("Tell me a story.", n=2, seed=3, temperature=1.5)
    assert texts == {choice.index: choice.message.content for choice in whole.choices}


@check
def a_stream_tells_logprobs():
    told = []
    for chunk in chat(stream=True, logprobs=True, top_logprobs=1):
        if chunk.choices[0].logprobs:
            told += chunk.choices[0].logprobs.content
    whole = chat(logprobs=True, top_logprobs=1).choices[0].logprobs.content
    assert told == whole


@check
def the_clients_stream_helper_puts_an_answer_together():
    with client().chat.completions.stream(
        model=MODEL, messages=user("Say only: hello"), max_tokens=100, temperature=0
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"content.delta", "content.done"} <= kinds and final.choices[0].message.content


@check
def many_streams_at_a_time_all_end():
    async def one(client, number):
        stream = await client.chat.completions.create(
            model=MODEL, messages=user(f"Count to {number}."), max_tokens=4, stream=True
        )
        return [chunk async for chunk in stream][-1].choices[0].finish_reason

    async def all_of_them():
        async with openai.AsyncOpenAI(
            base_url=f"{URL}/v1", api_key="none", timeout=PATIENCE_S
        ) as client:
            return await asyncio.gather(*(one(client, number) for number in range(12)))

    assert set(asyncio.run(all_of_them())) <= {"length", "stop"}


# === models and errors ===


@check
def models_are_listed_and_found():
    assert MODEL in [model.id for model in client().models.list()]
    assert client().models.retrieve(MODEL).object == "model"
    refused(openai.NotFoundError, lambda: client().models.retrieve("other"), "model", 404)


@check
def errors_have_the_clients_classes_and_name_the_field():
    bad = openai.BadRequestError
    refused(openai.NotFoundError, lambda: chat(model="other"), "model", 404)
    refused(bad, lambda: chat(temperature=-1), "temperature", 400)
    refused(bad, lambda: chat(max_tokens=10**6), "max_tokens", 400)
    refused(bad, lambda: chat(max_tokens=None, max_completion_tokens=10**6), "max_completion_tokens", 400)
    refused(bad, lambda: chat(top_logprobs=2), "top_logprobs", 400)
    refused(bad, lambda: chat(stop=["a"] * 5), "stop", 400)
    refused(bad, lambda: chat(response_format={"type": "json_object"}), "response_format", 400)
    refused(bad, lambda: chat("word " * 3000), "messages", 400)
    refused(bad, lambda: complete([10**6]), "prompt", 400)
    refused(bad, lambda: complete(logit_bias={"999999": 1}), "logit_bias", 400)
    refused(bad, lambda: complete(suffix="x"), "suffix", 400)
    assert chat(extra_body={"something_new": 1}).choices


@check
def a_refusal_comes_before_a_stream_begins():
    refused(openai.BadRequestError, lambda: chat(stream=True, temperature=-1), "temperature", 400)


@check
def a_full_queue_is_a_rate_limit_that_says_when_to_try_again():
    ask = lambda **more: client(**more).completions.create(model=MODEL, prompt=["a"] * 40, max_tokens=1)
    error = refused(openai.RateLimitError, ask, None, 429)
    assert error.response.headers["retry-after"] == "1"
    # The client waits as long as it was told to, and tries again.
    began = time.monotonic()
    refused(openai.RateLimitError, lambda: ask(max_retries=2), None, 429)
    assert time.monotonic() - began >= 2, "it did not wait"
    assert complete("a", max_tokens=1).choices


@check
def a_client_that_times_out_or_leaves_is_forgotten():
    hurried = client(timeout=0.5)
    try:
        hurried.chat.completions.create(
            model=MODEL, messages=user("Tell me a long story."), max_tokens=900,
            extra_body={"ignore_eos": True},
        )
        raise AssertionError("it answered in no time")
    except openai.APITimeoutError:
        pass
    stream = chat("Tell me a long story.", max_tokens=900, stream=True, extra_body={"ignore_eos": True})
    for _, chunk in zip(range(3), stream):
        assert chunk.choices
    stream.close()
    deadline = time.monotonic() + PATIENCE_S
    while running() != 0:
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.05)


def running():
    raw = client().with_options(base_url=URL)
    text = raw.get("/metrics", cast_to=str)
    line = next(line for line in text.splitlines() if line.startswith("vllm:num_requests_running{"))
    return float(line.rsplit(" ", 1)[1])


def main():
    failed = []
    for function in CHECKS:
        began = time.monotonic()
        try:
            function()
            verdict = "ok"
        except Exception:
            failed.append(function.__name__)
            verdict = "FAILED\n" + traceback.format_exc()
        print(f"{function.__name__} {verdict} ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"{len(CHECKS) - len(failed)} of {len(CHECKS)} hold, openai {openai.__version__}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
