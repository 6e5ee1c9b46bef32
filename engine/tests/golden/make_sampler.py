#!/usr/bin/env python3
"""Writes sampler.json: what Hugging Face's LogitsProcessors leave of some rows of logits.

Needs torch and transformers; run it with their versions to see that nothing changed:
    python3 make_sampler.py > sampler.json
The processors come in the order in which vLLM applies its own (v1/sample/sampler.py).
"""

import json

import torch
import transformers
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

VOCAB = 24
EOS = 5
NEUTRAL = {
    "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
    "bad_words": [], "logit_bias": [], "min_tokens": 0,
}
SETTINGS = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.5},
    {"top_k": 5},
    {"top_p": 0.7},
    {"min_p": 0.1},
    {"repetition_penalty": 1.4},
    {"repetition_penalty": 0.7, "temperature": 0.8},
    {"bad_words": [[3], [1, 2, 4], [9, 9]]},
    {"logit_bias": [[2, 3.5], [7, -100.0], [11, 1.25]]},
    {"min_tokens": 4},
    {"temperature": 1.5, "min_p": 0.05, "top_k": 9, "top_p": 0.9},
    {"temperature": 0.7, "repetition_penalty": 1.2, "top_k": 6, "top_p": 0.8, "min_tokens": 9,
     "bad_words": [[2, 0]], "logit_bias": [[6, 2.0]]},
    {"temperature": 0.3, "top_p": 0.5, "repetition_penalty": 3.0},
]


def processors(settings, prompt_length):
    made = []
    if settings["bad_words"]:
        made.append(NoBadWordsLogitsProcessor(settings["bad_words"], eos_token_id=EOS))
    if settings["min_tokens"]:
        made.append(MinNewTokensLengthLogitsProcessor(prompt_length, settings["min_tokens"], EOS))
    if settings["logit_bias"]:
        bias = [[[token], value] for token, value in settings["logit_bias"]]
        made.append(SequenceBiasLogitsProcessor(bias))
    if settings["repetition_penalty"] != 1.0:
        made.append(RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]))
    greedy = len(made)
    if settings["temperature"] != 1.0:
        made.append(TemperatureLogitsWarper(settings["temperature"]))
    if settings["min_p"]:
        made.append(MinPLogitsWarper(settings["min_p"]))
    if settings["top_k"]:
        made.append(TopKLogitsWarper(settings["top_k"]))
    if settings["top_p"] != 1.0:
        made.append(TopPLogitsWarper(settings["top_p"]))
    return LogitsProcessorList(made[:greedy]), LogitsProcessorList(made[greedy:])


def case(index, settings):
    settings = NEUTRAL | settings
    generator = torch.Generator().manual_seed(index)
    logits = torch.randn(1, VOCAB, generator=generator) * 2
    prompt, output = [8, 3, 3, 0], [7, 1, 2]
    context = torch.tensor([prompt + output])
    masks, warpers = processors(settings, len(prompt))
    scores = masks(context, logits.clone())
    left = torch.softmax(warpers(context, scores.clone())[0].double(), dim=-1)
    logprobs = torch.log_softmax(logits[0].double(), dim=-1)
    return settings | {
        "logits": [round(value, 6) for value in logits[0].tolist()],
        "prompt": prompt,
        "output": output,
        "logprobs": [round(value, 5) for value in logprobs.tolist()],
        "greedy": int(scores[0].argmax()),
        "probabilities": [round(value, 6) for value in left.tolist()],
    }


def main():
    cases = [case(index, settings) for index, settings in enumerate(SETTINGS)]
    lines = ",\n".join("  " + json.dumps(one) for one in cases)
    made_by = f"transformers {transformers.__version__}, torch {torch.__version__}"
    print(f'{{"made_by": "{made_by}", "eos": {EOS}, "cases": [\n{lines}\n]}}')


if __name__ == "__main__":
    main()
