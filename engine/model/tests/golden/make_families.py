#!/usr/bin/env python3
"""Makes families/*.json: what Hugging Face transformers says of a tiny model of each family.

    pip install torch transformers gguf
    python make_families.py families

A model's weights are not in its file: they are pseudo-random numbers that depend on the tensor's
name and are exact in bf16 (see `elements`), which the test makes again. Models run in f32, whole
sequences at a time; some logits are also given as they are where activations are rounded as the
CPU backend rounds them, which shows its arithmetic sharply. A prompt is left out where two best logits lie closer than GAP_MIN at any of
its steps, where a row's last chosen and first refused expert do, which rounding may
rightly choose otherwise, or where the text says the same all the time.
"""

import json
import math
import pathlib
import random
import sys

import gguf
import torch
import transformers

TOKEN_COUNT = 12
# Of the spread of a row's logits.
GAP_MIN = 0.1
ROUTER_GAP_MIN = 0.06
CASE_COUNT = 3
VOCAB = 128

BASE = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
GEMMA = {
    "head_dim": 32, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 24,
    "sliding_window": 9, "num_hidden_layers": 4, "tie_word_embeddings": True, "pad_token_id": 0,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
SHORT = [1.0, 1.0, 1.05, 1.1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.5, 1.75, 2.0]
LONG = [1.0, 1.1, 1.3, 1.6, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
PHI = {"pad_token_id": 0, "num_attention_heads": 2, "num_key_value_heads": 1}
MOE = {"num_experts_per_tok": 2, "output_router_logits": True}

FAMILIES = {
    "llama3": ("Llama", {"tie_word_embeddings": True, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32}}),
    "mistral": ("Mistral", {"sliding_window": 7, "rope_parameters": PLAIN}),
    "qwen2": ("Qwen2", {
        "use_sliding_window": True, "sliding_window": 11, "max_window_layers": 1,
        "layer_types": ["full_attention", "sliding_attention"], "rope_parameters": PLAIN}),
    "qwen2-yarn": ("Qwen2", {"rope_parameters": {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
        "original_max_position_embeddings": 32}}),
    "qwen3": ("Qwen3", {
        "head_dim": 32, "tie_word_embeddings": True, "rope_parameters": PLAIN}),
    "gemma2": ("Gemma2", {
        **GEMMA, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 1.5,
        "rope_parameters": PLAIN}),
    "gemma3": ("Gemma3", {**GEMMA, "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
        "sliding_attention": PLAIN}}),
    "phi3": ("Phi3", {**PHI, "sliding_window": 13, "rope_parameters": PLAIN}),
    "phi3-short": ("Phi3", {
        **PHI, "original_max_position_embeddings": 128, "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 128,
            "short_factor": SHORT, "long_factor": LONG}}),
    "phi3-long": ("Phi3", {
        **PHI, "original_max_position_embeddings": 16, "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 16,
            "short_factor": SHORT, "long_factor": LONG}}),
    "mixtral": ("Mixtral", {**MOE, "num_local_experts": 4, "rope_parameters": PLAIN}),
    "qwen3moe": ("Qwen3Moe", {
        **MOE, "head_dim": 32, "num_experts": 6, "moe_intermediate_size": 32,
        "norm_topk_prob": True, "rope_parameters": PLAIN}),
    "qwen3moe-mixed": ("Qwen3Moe", {
        **MOE, "head_dim": 32, "num_experts": 6, "moe_intermediate_size": 32,
        "norm_topk_prob": False, "mlp_only_layers": [0], "rope_parameters": PLAIN}),
}


def elements(name, count, around, scale):
    """`around` plus `count` multiples of `scale / 128` between -scale / 2 and scale / 2."""
    state, out = 2166136261, []
    for byte in name.encode():
        state = (state ^ byte) * 16777619 & 0xFFFFFFFF
    for _ in range(count):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        out.append(around + ((state >> 25) - 64) / 128 * scale)
    return out


def spread(name, shape, kind, is_tied):
    """What a tensor's elements lie around, and how far."""
    if name.endswith("norm.weight"):
        return (0.0 if kind.startswith("Gemma") else 1.0), 1.0
    if is_tied and "embed_tokens" in name:
        return 0.0, 0.25  # else the best next token is the last one
    is_wide = "embed_tokens" in name or "lm_head" in name or name.endswith("gate.weight")
    return 0.0, (1.0 if is_wide or len(shape) == 1 else 0.5)


def made(folder, kind, fields):
    """A model whose tensors, by the names of its files, are those of `elements`."""
    name = "Gemma3Text" if kind == "Gemma3" else kind
    config = getattr(transformers, f"{name}Config")(**{**BASE, **fields})
    cls = getattr(transformers, f"{kind}ForCausalLM")
    cls(config).save_pretrained(folder)
    from safetensors.torch import load_file, save_file
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        around, scale = spread(name, tensor.shape, kind, config.tie_word_embeddings)
        values = elements(name, tensor.numel(), around, scale)
        tensors[name] = torch.tensor(values, dtype=torch.float32).reshape(tensor.shape)
    save_file(tensors, path, metadata={"format": "pt"})
    model = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                experts_implementation="eager").eval()
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    config = json.loads((folder / "config.json").read_text())
    return model, config, {name: list(tensor.shape) for name, tensor in tensors.items()}


def rounded(tensor):
    return tensor.bfloat16().float()


def attend_rounded(module, query, key, value, *args, **kwargs):
    """The model's own attention over keys and values that were rounded to bf16."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    return eager(module, query, rounded(key), rounded(value), *args, **kwargs)


def run_rounded(model, tokens):
    """Logits where what products take, keys and values are rounded to bf16, as the CPU backend does."""
    plain = torch.nn.functional.linear
    transformers.AttentionInterface.register("rounded", attend_rounded)
    transformers.AttentionMaskInterface.register(
        "rounded", transformers.masking_utils.eager_mask)
    model.config._attn_implementation = "rounded"
    torch.nn.functional.linear = lambda x, weight, bias=None: plain(rounded(x), weight, bias)
    try:
        return run(model, tokens)[0]
    finally:
        torch.nn.functional.linear = plain
        model.config._attn_implementation = "eager"


def run(model, tokens):
    """Logits of all positions, and the least gap between experts that were and were not chosen."""
    out = model(input_ids=torch.tensor([tokens]), use_cache=False)
    gap = float("inf")
    for logits in getattr(out, "router_logits", None) or ():
        best = logits.float().topk(model.config.num_experts_per_tok + 1).values
        gap = min(gap, (best[:, -2] - best[:, -1]).min().item())
    return out.logits[0].float(), gap


def greedy(model, prompt):
    """The tokens after `prompt`, or None where rounding might choose otherwise."""
    tokens = []
    for _ in range(TOKEN_COUNT):
        logits, router_gap = run(model, prompt + tokens)
        best = logits[-1].topk(2)
        gap = (best.values[0] - best.values[1]) / logits[-1].std()
        if gap.item() < GAP_MIN or router_gap < ROUTER_GAP_MIN:
            return None
        tokens.append(best.indices[0].item())
    return tokens if len(set(tokens)) >= 4 else None


def cases(model):
    """Prompts with their greedy tokens; the first with logits of some positions."""
    source, found, tried = random.Random(7), [], 0
    while len(found) < CASE_COUNT:
        prompt = [source.randrange(3, VOCAB) for _ in range(source.randrange(28, 44))]
        tried += 1
        tokens = greedy(model, prompt)
        if tokens is None:
            continue
        case = {"prompt": prompt, "tokens": tokens}
        if not found:
            for name, logits in [
                ("logits", run(model, prompt)[0]), ("rounded", run_rounded(model, prompt))
            ]:
                case[name] = {
                    position: [round(value, 4) for value in logits[position].tolist()]
                    for position in [len(prompt) // 2, len(prompt) - 1]
                }
        found.append(case)
    return found, tried


ARCHITECTURES = {
    "Llama": "llama", "Mixtral": "llama", "Qwen2": "qwen2", "Qwen3": "qwen3", "Gemma2": "gemma2",
    "Gemma3": "gemma3", "Phi3": "phi3", "Qwen3Moe": "qwen3moe",
}


def as_gguf(name, kind, config, tensors):
    """How a GGUF file tells this model: keys, names of tensors, tensors that only it has. None
    where GGUF does not know the family, or its window."""
    if name in ("mistral", "qwen2", "qwen3moe-mixed"):
        return None
    arch = ARCHITECTURES[kind]
    number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == arch)
    names = gguf.get_tensor_name_map(number, config["num_hidden_layers"])
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rope = config["rope_parameters"]
    rope = rope.get("full_attention", rope)
    rotated = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    keys = {
        gguf.Keys.LLM.BLOCK_COUNT: config["num_hidden_layers"],
        gguf.Keys.LLM.CONTEXT_LENGTH: config["max_position_embeddings"],
        gguf.Keys.LLM.EMBEDDING_LENGTH: config["hidden_size"],
        gguf.Keys.LLM.FEED_FORWARD_LENGTH: config["intermediate_size"],
        gguf.Keys.Attention.HEAD_COUNT: config["num_attention_heads"],
        gguf.Keys.Attention.HEAD_COUNT_KV: config["num_key_value_heads"],
        gguf.Keys.Attention.KEY_LENGTH: head_dim,
        gguf.Keys.Attention.VALUE_LENGTH: head_dim,
        gguf.Keys.Attention.LAYERNORM_RMS_EPS: config["rms_norm_eps"],
        gguf.Keys.Rope.DIMENSION_COUNT: rotated,
        gguf.Keys.Rope.FREQ_BASE: rope["rope_theta"],
    }
    if config.get("sliding_window"):
        keys[gguf.Keys.Attention.SLIDING_WINDOW] = config["sliding_window"]
    if arch == "gemma3":
        keys[gguf.Keys.Attention.SLIDING_WINDOW_PATTERN] = 2
    if arch == "gemma2":
        keys[gguf.Keys.LLM.ATTN_LOGIT_SOFTCAPPING] = config["attn_logit_softcapping"]
        keys[gguf.Keys.LLM.FINAL_LOGIT_SOFTCAPPING] = config["final_logit_softcapping"]
    if "num_experts_per_tok" in config:
        keys[gguf.Keys.LLM.EXPERT_COUNT] = config["num_local_experts"]
        keys[gguf.Keys.LLM.EXPERT_USED_COUNT] = config["num_experts_per_tok"]
    if "moe_intermediate_size" in config:
        keys[gguf.Keys.LLM.EXPERT_FEED_FORWARD_LENGTH] = config["moe_intermediate_size"]
    extra = {}
    if rope["rope_type"] in ("linear", "yarn"):
        keys[gguf.Keys.Rope.SCALING_TYPE] = rope["rope_type"]
        keys[gguf.Keys.Rope.SCALING_FACTOR] = rope["factor"]
    if rope["rope_type"] in ("yarn", "longrope"):
        original = rope["original_max_position_embeddings"]
        keys[gguf.Keys.Rope.SCALING_ORIG_CTX_LEN] = original
    if rope["rope_type"] == "longrope":
        stretch = config["max_position_embeddings"] / original
        factor = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
        keys[gguf.Keys.Rope.SCALING_ATTN_FACTOR] = factor
        extra = {"rope_factors_long.weight": LONG, "rope_factors_short.weight": SHORT}
    if rope["rope_type"] == "llama3":
        extra = {"rope_freqs.weight": llama3_factors(rope, rotated)}
    return {
        "keys": {"general.architecture": arch}
        | {key.format(arch=arch): value for key, value in keys.items()},
        "names": {tensor: gguf_name(names, tensor) for tensor in tensors},
        "extra": extra,
    }


def gguf_name(names, tensor):
    """Experts of a layer become one tensor."""
    parts = tensor.split(".")
    if "experts" in parts:
        at = parts.index("experts")
        inside = "feed_forward" if "block_sparse_moe" in parts else "mlp"
        prefix = "" if inside == "feed_forward" else "model."
        tensor = f"{prefix}layers.{parts[2]}.{inside}.experts.{parts[at + 2]}.weight"
    return names.get_name(tensor, try_suffixes=(".weight", ".bias"))


def llama3_factors(rope, rotated):
    """As `generate_extra_tensors` of llama.cpp's converter of Llama."""
    out = []
    original = rope["original_max_position_embeddings"]
    for pair in range(0, rotated, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (pair / rotated)
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = (original / wavelength - low) / (high - low)
        smooth = min(max(smooth, 0.0), 1.0)
        out.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return out


def main(folder):
    wanted = sys.argv[2:] or FAMILIES
    for name in wanted:
        kind, fields = FAMILIES[name]
        import tempfile
        with tempfile.TemporaryDirectory() as scratch:
            model, config, tensors = made(pathlib.Path(scratch), kind, fields)
        found, tried = cases(model)
        print(f"{name}: {len(found)} of {tried} prompts kept", file=sys.stderr)
        golden = {
            "torch": torch.__version__, "transformers": transformers.__version__,
            "config": config, "tensors": tensors, "gguf": as_gguf(name, kind, config, tensors),
            "cases": found,
        }
        lines = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in golden.items())
        (folder / f"{name}.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        main(pathlib.Path(sys.argv[1]))
