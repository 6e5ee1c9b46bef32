#!/usr/bin/env python3
"""Makes smollm2-135m-instruct-q4_1.json: what Hugging Face transformers says, token by token.

    pip install torch transformers gguf
    python make_golden.py SmolLM2-135M-Instruct.Q4_1.gguf > smollm2-135m-instruct-q4_1.json

The GGUF file is dequantised to f32 by transformers' own loader and run greedily, end-of-text
tokens included. A prompt at whose any step the two best logits lie closer than GAP_MIN is left
out: there another order of summation may rightly choose the other token.
"""

import hashlib
import json
import pathlib
import sys

import torch
import transformers

TOKEN_COUNT = 64
GAP_MIN = 1e-3
CHATS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain in two sentences why the sky is blue.",
    "List three fruits and their colours.",
    "Translate to German: Good morning, my friend.",
    "What is 12 times 7? Show the steps.",
    "Write a short Python function that reverses a string.",
    "Who wrote Romeo and Juliet, and when?",
    "Give me a recipe for pancakes.",
    "Summarise: The quick brown fox jumps over the lazy dog because the dog did not move.",
]
TEXTS = [
    "Once upon a time, in a village by the river,",
    "def fibonacci(n):\n    ",
    "The three laws of thermodynamics are",
    "Zürich, naïve, 東京 and emoji 🙂 are words that",
]


def greedy(model, prompt):
    """Returns the tokens after `prompt` and the smallest gap between the two best logits."""
    tokens, gap_min, cache, ids = [], float("inf"), None, torch.tensor([prompt])
    for _ in range(TOKEN_COUNT):
        out = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        best = out.logits[0, -1].float().topk(2)
        gap_min = min(gap_min, (best.values[0] - best.values[1]).item())
        tokens.append(best.indices[0].item())
        ids = best.indices[:1].view(1, 1)
    return tokens, gap_min


def main(path):
    folder, file = str(path.parent), path.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.float32
    ).eval()
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    prompts = [
        (text, tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=True,
            return_dict=False))
        for text in CHATS
    ] + [(text, tokenizer(text)["input_ids"]) for text in TEXTS]
    cases = []
    for text, prompt in prompts:
        tokens, gap = greedy(model, prompt)
        verdict = "kept" if gap >= GAP_MIN else "left out"
        print(f"{verdict}: gap {gap:.2e}: {text!r} -> {tokenizer.decode(tokens)!r}", file=sys.stderr)
        if gap >= GAP_MIN:
            cases.append({"text": text, "prompt": prompt, "tokens": tokens, "gap": round(gap, 5)})
    head = {
        "model": file,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    lines = ",\n".join("  " + json.dumps(case, ensure_ascii=False) for case in cases)
    fields = "".join(f'"{key}": {json.dumps(value)},\n' for key, value in head.items())
    print("{\n" + fields + '"cases": [\n' + lines + "\n]}")


if __name__ == "__main__":
    with torch.no_grad():
        main(pathlib.Path(sys.argv[1]))
