"""What hardware is there, what a base needs, and which base to take when none was named.

Rules: no torch is loaded to find out; a small GPU gets an estimate and a choice, never a silent fall to the built-in base; every constant of an estimate names
its source. What it does not know: other processes on the card, and cards that are not NVIDIA's.
"""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.errors import Invalid

DEFAULT_GPU_BASE = "mistralai/Mistral-7B-Instruct-v0.3"
TINY = "tiny"
SMALL_REAL_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
# A 24 GB card reports 24,564 MB and a 20 GB card 20,475 MB: nvidia-smi counts MiB and keeps some back.
ENOUGH_MB = 20_000
GIB = 1024**3
# mistralai/Mistral-7B-Instruct-v0.3, config.json: the figures an estimate needs when nothing may be downloaded yet.
MISTRAL_7B: dict[str, Any] = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32768,
    "tie_word_embeddings": False,
}

Runner = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Device:
    """An NVIDIA GPU: its name, its memory in MiB as nvidia-smi counts it, and its driver's version."""

    name: str
    memory_mb: int
    driver: str | None = None


def run_command(command: Sequence[str]) -> str:
    """Standard output of a command; raises OSError or subprocess.SubprocessError when it is missing, fails or hangs for 20 s."""
    return subprocess.run(list(command), check=True, capture_output=True, text=True, timeout=20).stdout


def detect_device(run: Runner = run_command) -> Device | None:
    """The first NVIDIA GPU that may be used, or None. An empty CUDA_VISIBLE_DEVICES, or -1, hides them all, as it does for CUDA itself."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in {"", "-1"}:
        return None
    query = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        rows = [[cell.strip() for cell in line.split(",")] for line in run(query).splitlines() if line.strip()]
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [row for row in rows if len(row) == 5 and row[3].isdigit()]
    if visible is not None:
        first = visible.split(",")[0].strip()
        rows = [row for row in rows if first in (row[0], row[1])]
    return Device(rows[0][2], int(rows[0][3]), rows[0][4]) if rows else None


def choose_default_base(device: Device | None) -> str:
    """The base to take when none was named: Mistral 7B on 20 GB or more, the built-in tiny one on a CPU.

    Raises Invalid for a smaller GPU, with the estimate and the choices.
    """
    if device is None:
        return TINY
    if device.memory_mb >= ENOUGH_MB:
        return DEFAULT_GPU_BASE
    need = estimate_memory(MISTRAL_7B, method="qlora", batch_size=4, tokens=1024)
    raise Invalid(
        f"The default base {DEFAULT_GPU_BASE} is chosen by itself on a GPU of 20 GB or more; {device.name} has {device.memory_mb / 1024:.1f} GB. "
        f"Training it in 4 bits is estimated to need {need / GIB:.1f} GB at 4 examples of 1,024 tokens.",
        hint=f"Choose: --base {DEFAULT_GPU_BASE} to try it all the same, --base {SMALL_REAL_BASE} for a small real model, "
        f"or --base {TINY} for the built-in one, which proves the plumbing and talks nonsense.",
    )


def count_parameters(config: Mapping[str, Any]) -> int | None:
    """Parameters of a decoder with grouped-query attention and a gated MLP (Mistral, Llama, Qwen2, Phi-3), from its config.json; None for others.

    Per layer: q and o are hidden x (heads x head size), k and v hidden x (kv heads x head size), the MLP 3 x hidden x intermediate, two norms of hidden.
    Mistral 7B v0.3 gives 7,248,023,552 (its model page rounds to 7B).
    """
    sizes = _sizes(config)
    if sizes is None:
        return None
    hidden, per_layer, layers, vocab = sizes
    embeddings = vocab * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return layers * (per_layer + 2 * hidden) + embeddings + hidden


def _sizes(config: Mapping[str, Any]) -> tuple[int, int, int, int] | None:
    """(hidden, linear weights per layer, layers, vocabulary), or None when the config does not say."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    if not all(isinstance(config.get(n), int) and config[n] > 0 for n in names):
        return None
    hidden, inner, layers, heads, vocab = (int(config[n]) for n in names)
    head = int(config.get("head_dim") or hidden // heads)
    kv = int(config.get("num_key_value_heads") or heads)
    return hidden, 2 * hidden * heads * head + 2 * hidden * kv * head + 3 * hidden * inner, layers, vocab


def estimate_memory(config: Mapping[str, Any], *, method: str, batch_size: int, tokens: int, r: int = 16) -> int:
    """Estimated peak bytes on the GPU for a training with gradient checkpointing; 0 when the config does not say enough.

    The sum of:
    - weights: 2 bytes each in 16 bits; in NF4 with double quantisation 4.127 bits for the linear layers (QLoRA, arXiv 2305.14314, section 3),
      embeddings and head staying at 2 bytes;
    - adapter: 16 bytes per parameter (4 weight, 4 gradient, 8 Adam; the ZeRO paper's count, arXiv 1910.02054, without the 16-bit copy);
    - activations: one layer's input per layer, 2 x tokens x batch x hidden bytes, and one layer in full, 34 x tokens x batch x hidden bytes
      (Korthikanti et al., arXiv 2205.05198, section 4.1, without the attention map that SDPA does not keep);
    - 1.5 GiB for the CUDA context, the allocator's slack and kernels' workspace: a round figure, not measured here.
    """
    sizes = _sizes(config)
    if sizes is None:
        return 0
    hidden, per_layer, layers, vocab = sizes
    linear = layers * per_layer
    embeddings = vocab * hidden * (1 if config.get("tie_word_embeddings") else 2)
    weights = embeddings * 2 + (linear * 4.127 / 8 if method == "qlora" else linear * 2)
    adapter = layers * r * _attention_span(config) * 16
    activations = batch_size * tokens * hidden * (2 * layers + 34)
    return int(weights + adapter + activations + 1.5 * GIB)


def _attention_span(config: Mapping[str, Any]) -> int:
    """Inputs plus outputs of q, k, v and o: what one rank of an adapter on them costs per layer."""
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    head = int(config.get("head_dim") or hidden // heads)
    kv = int(config.get("num_key_value_heads") or heads) * head
    return 2 * (hidden + heads * head) + 2 * (hidden + kv)
