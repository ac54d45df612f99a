"""Tiny random models of the real architectures, written without torch: config.json, safetensors and a tokenizer with the family's own control tokens.

Layers, widths and heads are small, but in the known base's ratios (query to key heads, width of the MLP), with the things that set an architecture apart: Phi-4's fused
qkv_proj and gate_up_proj, Qwen's biases, Llama 70B's eight queries to a key. The weights come from a fixed seed, so a folder's bytes, and its revision, are always the same.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from registry.known_bases import KnownBase, known_base
from trainer.chat import LLAMA, MISTRAL, PHI, QWEN, packaged_template
from trainer.tiny.builtin import tokenizer_json

LAYERS = 2
CONTEXT = 2048
# What stands in the six places that the packaged tokenizer keeps for control tokens, by family.
_TOKENS: dict[str, tuple[str, ...]] = {
    MISTRAL: ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>"),
    LLAMA: ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|finetune_right_pad_id|>"),
    PHI: ("<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>", "<|endofprompt|>", "<|dummy_85|>"),
    QWEN: ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
}
_BOS = {MISTRAL: "<s>", LLAMA: "<|begin_of_text|>"}
_PAD = {MISTRAL: "<pad>", LLAMA: "<|finetune_right_pad_id|>", PHI: "<|dummy_85|>", QWEN: "<|endoftext|>"}


@dataclass(frozen=True)
class Design:
    """One tiny model: the known base it stands for, and its sizes."""

    stands_for: str
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int

    @property
    def known(self) -> KnownBase:
        """The card of the real one."""
        found = known_base(self.stands_for)
        assert found is not None
        return found


# Query heads to key heads as in the real one (4, 4, 8, 4, 5, 8); the MLP as wide, in parts of the hidden size, as it is there (rounded to a multiple of 8).
DESIGNS = {
    "mistral-7b": Design("mistralai/Mistral-7B-Instruct-v0.3", 32, 112, 4, 1),
    "llama-8b": Design("meta-llama/Llama-3.1-8B-Instruct", 64, 224, 8, 2),
    "llama-70b": Design("meta-llama/Llama-3.1-70B-Instruct", 64, 224, 8, 1),
    "phi-4": Design("microsoft/phi-4", 64, 224, 8, 2),
    "qwen-14b": Design("Qwen/Qwen2.5-14B-Instruct", 40, 108, 5, 1),
    "qwen-72b": Design("Qwen/Qwen2.5-72B-Instruct", 64, 232, 8, 1),
}


def build(name: str, folder: Path) -> Path:
    """Write the model `name` of DESIGNS into `folder/<name>` and return that folder, which is a local base."""
    design, target = DESIGNS[name], folder / name
    target.mkdir(parents=True)
    config = _config(design)
    (target / "config.json").write_text(json.dumps(config, indent=2))
    save_file(_weights(config, sorted(DESIGNS).index(name)), target / "model.safetensors", metadata={"format": "pt"})
    (target / "tokenizer.json").write_text(json.dumps(_tokenizer(design.known.chat_template), ensure_ascii=False))
    (target / "tokenizer_config.json").write_text(json.dumps(_tokenizer_config(design.known)))
    return target


def _config(design: Design) -> dict[str, Any]:
    tokens = _TOKENS[design.known.chat_template]
    family = design.known.chat_template
    return {
        **design.known.config,
        "hidden_size": design.hidden,
        "intermediate_size": design.intermediate,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": design.heads,
        "num_key_value_heads": design.kv_heads,
        "head_dim": design.hidden // design.heads,
        "vocab_size": len(json.loads(tokenizer_json())["model"]["vocab"]),
        "max_position_embeddings": CONTEXT,
        **({"original_max_position_embeddings": CONTEXT} if family == PHI else {}),
        **({} if family == LLAMA else {"sliding_window": None}),
        "rms_norm_eps": 1e-5,
        "bos_token_id": tokens.index(_BOS.get(family, tokens[0])),
        "eos_token_id": tokens.index(design.known.end_of_turn),
        "pad_token_id": tokens.index(_PAD[family]),
        "dtype": "float32",
    }


def _weights(config: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Every tensor of the model, drawn from N(0, 0.05); the norms' gains are one."""
    rng = np.random.default_rng(seed)
    hidden, vocab = config["hidden_size"], config["vocab_size"]

    def matrix(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.05).astype(np.float32)

    ones = np.ones(hidden, dtype=np.float32)
    tensors = {"model.embed_tokens.weight": matrix(vocab, hidden), "lm_head.weight": matrix(vocab, hidden), "model.norm.weight": ones}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        tensors |= {prefix + "input_layernorm.weight": ones.copy(), prefix + "post_attention_layernorm.weight": ones.copy()}
        tensors |= {f"{prefix}{part}.weight": matrix(rows, columns) for part, (rows, columns) in _linear(config).items()}
        if config["model_type"] == "qwen2":
            tensors |= {f"{prefix}self_attn.{p}_proj.bias": matrix(_linear(config)[f"self_attn.{p}_proj"][0]) for p in "qkv"}
    return tensors


def _linear(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(rows, columns) of the matrices of a layer."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    queries, keys = config["num_attention_heads"] * config["head_dim"], config["num_key_value_heads"] * config["head_dim"]
    shared = {"self_attn.o_proj": (hidden, queries), "mlp.down_proj": (hidden, wide)}
    if config["model_type"] == "phi3":
        return shared | {"self_attn.qkv_proj": (queries + 2 * keys, hidden), "mlp.gate_up_proj": (2 * wide, hidden)}
    attention = {"self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden)}
    return shared | attention | {"mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden)}


def _tokenizer(family: str) -> dict[str, Any]:
    """The packaged byte-level BPE with the family's control tokens in the places of its own."""
    value = json.loads(tokenizer_json())
    names = dict(zip((t["content"] for t in value["added_tokens"]), _TOKENS[family], strict=True))
    for token in value["added_tokens"]:
        token["content"] = names[token["content"]]
    value["model"]["vocab"] = {names.get(token, token): number for token, number in value["model"]["vocab"].items()}
    return value


def _tokenizer_config(known: KnownBase) -> dict[str, Any]:
    """Mistral's brings the packaged template as its own; the others bring none, so that it is chosen by architecture and control tokens."""
    family = known.chat_template
    value = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": known.end_of_turn,
        "pad_token": _PAD[family],
        "model_max_length": CONTEXT,
    }
    value |= {"bos_token": _BOS[family]} if family in _BOS else {}
    return value | ({"chat_template": packaged_template(MISTRAL)} if family == MISTRAL else {})
