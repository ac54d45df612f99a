"""How much memory and how many seconds a training will take, by parts, from the base's config.json alone. Loads no torch.

Rules: every constant names its source; a figure that cannot be sourced is None, not a guess; an estimate is a sum of parts that people can check one by one.
Memory is the peak on each GPU, in bytes. What it does not know: other processes on the card, kernels' own workspaces beyond a round figure, and how well a
card that nobody measured here is kept busy.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.adapter_files.cards import base_card_from_config
from registry.errors import RegistryError

if TYPE_CHECKING:
    from trainer.preflight import Device
    from trainer.recipe import Recipe

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

# Bits of a weight in NF4: 4, and the constants of its block of 64: 0.5 of them, or 0.127 when they are quantised themselves (QLoRA, arXiv 2305.14314, section 3).
NF4_BITS, NF4_DOUBLE_BITS = 4.5, 4.127
BYTES = {"float32": 4, "bfloat16": 2}
FULL_BYTES = 4  # a full fine-tune keeps its weights in 32 bits and computes in the recipe's dtype (trainer/loading.py)
# An 8-bit moment of Adam and its 4-byte scale per block of 256 (arXiv 2110.02861; bitsandbytes' optimizers). Otherwise moments are of the parameter's own dtype.
MOMENT_8BIT = 1 + 4 / 256
# Cross-entropy on the trained positions: the logits in the computation's dtype, and at its peak three copies in 32 bits (log-probabilities and two gradients).
LOSS_COPIES = 3 * 4
# CUDA's context and kernels took 1.3 GB in Hugging Face's "Model training anatomy"; the rest is for the allocator's slack. Not measured here.
CUDA_BYTES = 3 * GIB // 2
CPU_BYTES = GIB  # torch, transformers and PEFT loaded: 0.6 to 0.9 GB of a process here, and its data
LEAST_TOKENS = 64  # a question and an answer of a line each: shorter examples hardly exist

# The one rate that was measured with a base of real size: Mistral 7B v0.3, QLoRA on q, k, v and o, examples of about 300 tokens, 0.27 s each on an RTX 4090.
MEASURED_CARD = "RTX 4090"
MEASURED_SECONDS_PER_TOKEN = 0.27 / 300
MEASURED_PARAMETERS = 7_248_023_552
# Peak of dense 16-bit matrix products with 32-bit sums, in TFLOPS, from NVIDIA's data sheets (half of the figures "with sparsity") and the Ada and GA102 white
# papers. A card is known when all the words of nvidia-smi's name are told here, but for maker, socket and memory: a laptop's, a D, an NVL or a slice is another card.
PEAK_TFLOPS: Mapping[str, float] = {
    "H200": 989.0,
    "H100 PCIE": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "A100 PCIE": 312.0,
    "L40S": 362.0,
    "RTX 6000 ADA": 364.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "RTX A6000": 154.8,
    "A40": 149.7,
}
_SAYS_NOTHING = re.compile(r"NVIDIA|GEFORCE|GENERATION|SXM\d?|HBM\d\w?|\d+GB")  # words of a name that leave the peak as it is
# Products per parameter and token (arXiv 2001.08361, table 1): forward 2, gradient of the activations 2, of the weights 2; checkpointing repeats forward.
FORWARD = GRADIENT = WEIGHT_GRADIENT = 2
MEASURED_WORK = FORWARD + GRADIENT + FORWARD  # adapters leave the base's weights without a gradient; checkpointing as TRL's default has it


@dataclass(frozen=True)
class Shapes:
    """The sizes of a decoder that estimates need; `modules` maps the linear modules of a layer to (in, out) features."""

    hidden: int
    intermediate: int
    layers: int
    vocabulary: int
    queries: int
    keys: int
    modules: Mapping[str, tuple[int, int]]
    tied: bool
    biases: int

    @property
    def linear(self) -> int:
        """Weights of all linear modules of all layers."""
        return self.layers * sum(inside * outside for inside, outside in self.modules.values())

    @property
    def embeddings(self) -> int:
        """Weights of the embedding and the head, one matrix where they are tied."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All weights: linear modules, their biases, two norms a layer and one at the end, embedding and head."""
        return self.linear + self.layers * (2 * self.hidden + self.biases) + self.hidden + self.embeddings

    def adapter(self, targets: tuple[str, ...], r: int) -> int:
        """Parameters of a LoRA of rank r on the named modules of every layer: r x (in + out) each."""
        pairs = [self.modules.get(name, (self.hidden, self.hidden)) for name in targets]
        return self.layers * r * sum(inside + outside for inside, outside in pairs)


@dataclass(frozen=True)
class Estimate:
    """Peak bytes on each GPU (or of the process on a CPU), by parts; all parameters and the trained ones; the tokens of the largest micro-batch."""

    memory_bytes: int
    parts: Mapping[str, int]
    parameters: int
    trainable: int
    tokens: int


@dataclass(frozen=True)
class Duration:
    """Seconds of the training itself (without loading), and where the figure comes from; None where nothing says."""

    seconds: float | None
    basis: str


def shapes_of(config: Mapping[str, Any]) -> Shapes | None:
    """The shapes of a decoder with grouped-query attention and a gated MLP (Mistral, Llama, Qwen2, Phi-3) from its config.json; None where it does not say."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    if not all(type(config.get(n)) is int and config[n] > 0 for n in names):
        return None
    hidden, inner, layers, heads, vocab = (int(config[n]) for n in names)
    head = int(config.get("head_dim") or hidden // heads)
    queries, keys = heads * head, int(config.get("num_key_value_heads") or heads) * head
    modules = _modules(config) or {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }
    biases = queries + 2 * keys if config.get("model_type") == "qwen2" else 0  # Qwen2 has them on q, k and v
    return Shapes(hidden, inner, layers, vocab, queries, keys, modules, bool(config.get("tie_word_embeddings")), biases)


def _modules(config: Mapping[str, Any]) -> Mapping[str, tuple[int, int]] | None:
    """The card's modules: Phi-3's are fused, and an adapter on them has other sizes."""
    try:
        card = base_card_from_config(config, "base", None)
    except RegistryError:
        return None
    return card.modules if card is not None and card.shaped else None


def count_parameters(config: Mapping[str, Any]) -> int | None:
    """Parameters of such a decoder from its config.json; None for others. Mistral 7B v0.3 gives 7,248,023,552 (its model page rounds to 7B)."""
    shapes = shapes_of(config)
    return shapes.parameters if shapes else None


def estimate(
    recipe: "Recipe", base_config: Mapping[str, Any], longest_tokens: int, device: "Device | None", trained_tokens: int | None = None
) -> Estimate | None:
    """The peak of a training whose longest example has `longest_tokens` tokens, of which at most `trained_tokens` are trained (None: all of them).

    A micro-batch is batch_size such examples, or as many packed rows. None where the config does not say enough. `device` matters only as CPU or GPU: an
    estimate asks for memory, and does not know how much there is.
    """
    shapes = shapes_of(base_config)
    if shapes is None:
        return None
    longest = min(longest_tokens, recipe.max_length)
    tokens = recipe.batch_size * max(longest, recipe.pack_length or 0)
    trained = tokens if trained_tokens is None or recipe.batching == "packed" else min(tokens, recipe.batch_size * trained_tokens)
    on_gpu = device is not None and recipe.device == "cuda"
    trainable = shapes.parameters if recipe.method == "full" else shapes.adapter(recipe.target_modules, recipe.r or 0)
    each = _trained_bytes(recipe)
    parts = {
        "weights": _weights(shapes, recipe),
        "adapter": 0 if recipe.method == "full" else trainable * each,
        "gradients": trainable * each,
        "optimizer": _optimizer(recipe, trainable, each, on_gpu=on_gpu),
        "activations": _activations(shapes, recipe, tokens, on_gpu=on_gpu),
        "loss": trained * shapes.vocabulary * (BYTES[recipe.dtype] + LOSS_COPIES),
        "system": CUDA_BYTES if on_gpu else CPU_BYTES,
    }
    for name in ("adapter", "gradients", "optimizer"):  # FSDP shards them evenly, as ZeRO-3 does (arXiv 1910.02054, section 5.3)
        parts[name] = -(-parts[name] // recipe.processes)
    return Estimate(sum(parts.values()), parts, shapes.parameters, trainable, tokens)


def _trained_bytes(recipe: "Recipe") -> int:
    """Bytes of a trained number: 2 for an adapter on a quantised base, else 4 (trainer/adapter.py; PEFT's autocast_adapter_dtype)."""
    return 2 if recipe.quantization == "nf4" else FULL_BYTES


def _optimizer(recipe: "Recipe", trainable: int, each: int, *, on_gpu: bool) -> int:
    """Adam's two moments; where torch takes its foreach form (GPU, not fused) one more copy of the parameters at the peak (torch.optim's documentation)."""
    if recipe.optim in {"adamw_8bit", "paged_adamw_8bit"}:
        return int(2 * MOMENT_8BIT * trainable)
    return trainable * each * (3 if recipe.optim == "adamw_torch" and on_gpu else 2)


def _weights(shapes: Shapes, recipe: "Recipe") -> int:
    """The base's weights: linear modules in NF4 or whole, the rest whole; sharded by FSDP but for what is gathered at a time.

    In 4 bits one matrix at a time is unpacked (bitsandbytes, autograd/_functions.py). FSDP gathers one decoder layer while the next is on its way, or the embedding
    or the head (the units of its transformer wrapping). A full fine-tune in bfloat16 has a 16-bit copy of every matrix until the backward pass is over (autocast).
    """
    each = FULL_BYTES if recipe.method == "full" else BYTES[recipe.dtype]
    per_linear: float = each
    if recipe.quantization == "nf4":
        per_linear = (NF4_DOUBLE_BITS if recipe.double_quantization else NF4_BITS) / 8
    whole = shapes.linear * per_linear + (shapes.parameters - shapes.linear) * each
    unpacked = max(i * o for i, o in shapes.modules.values()) * BYTES[recipe.dtype] if recipe.quantization == "nf4" else 0
    if recipe.processes > 1:
        layer = shapes.linear / shapes.layers * (per_linear if recipe.quantization == "nf4" else BYTES[recipe.dtype])
        gathered = max(2 * layer, shapes.vocabulary * shapes.hidden * BYTES[recipe.dtype])
        return int(whole / recipe.processes + gathered + unpacked)
    cast = (shapes.linear + shapes.vocabulary * shapes.hidden) * 2 if recipe.method == "full" and recipe.dtype == "bfloat16" else 0
    return int(whole + unpacked + cast)


def _activations(shapes: Shapes, recipe: "Recipe", tokens: int, *, on_gpu: bool) -> int:
    """What forward keeps for backward: every layer in full; or, with checkpointing, every layer's input, and one layer in full while it is computed again."""
    one = layer_bytes(shapes, recipe, on_gpu=on_gpu)
    if not recipe.gradient_checkpointing:
        return tokens * one * shapes.layers
    passed = FULL_BYTES if recipe.method == "full" else BYTES[recipe.dtype]
    return tokens * (one + shapes.layers * shapes.hidden * passed)


def layer_bytes(shapes: Shapes, recipe: "Recipe", *, on_gpu: bool) -> int:
    """Bytes that one decoder layer keeps per token for its backward pass.

    Counted with torch's saved_tensors_hooks on a tiny Llama (transformers 5.23, PEFT 0.21, under the loop's autocast): exact to 1% for every method and profile.
    Both norms keep their input in 32 bits; attention its queries, keys, values and outputs; the MLP its gate, its activation and up; and what is trained, its input.
    """
    c = BYTES[recipe.dtype]
    attention = c * (2 * shapes.queries + 2 * shapes.keys)
    if recipe.method == "full":
        copies = 0 if c == FULL_BYTES else c * sum(i for name, (i, _) in shapes.modules.items() if name not in {"o_proj", "down_proj"})
        return 2 * shapes.hidden * (4 + (4 if c == 2 else 8)) + attention + 4 * c * shapes.intermediate + copies
    return 8 * shapes.hidden + attention + 3 * c * shapes.intermediate + _adapter_inputs(shapes, recipe, c, on_gpu=on_gpu)


def _adapter_inputs(shapes: Shapes, recipe: "Recipe", c: int, *, on_gpu: bool) -> int:
    """The inputs that the adapters of a layer keep per token: each its own copy where it is cast or dropped out of, else one for all that read the same."""
    inputs = {name: shapes.modules.get(name, (shapes.hidden, 0))[0] for name in recipe.target_modules}
    ranks = c * (recipe.r or 0) * len(inputs)
    if recipe.dropout:
        mask = 1 if on_gpu else _trained_bytes(recipe)  # CUDA's dropout keeps a bool, the CPU's a scaled mask of the input's dtype
        return ranks + sum(inputs.values()) * (c + mask)
    if _trained_bytes(recipe) != c:
        return ranks + sum(inputs.values()) * c
    shared = {name: "x" if name in {"q_proj", "k_proj", "v_proj"} else "y" if name in {"gate_proj", "up_proj"} else name for name in inputs}
    return ranks + c * sum({shared[name]: size for name, size in inputs.items() if name != "o_proj"}.values())


def duration(
    recipe: "Recipe", base_config: Mapping[str, Any], tokens: int, device: "Device | None", seconds_per_token: float | None = None
) -> Duration:
    """Seconds for a training that reads `tokens` tokens in all (every epoch counts).

    `seconds_per_token` is the rate of a training like this one on this card, where one was measured. Without it the proof of concept's rate is scaled by
    parameters and by the work per token, and by the card's published peak; a CPU, an unlisted card and several GPUs are unknown.
    """
    if seconds_per_token is not None:
        return Duration(tokens * seconds_per_token, "measured in an earlier training of this base on this hardware")
    shapes = shapes_of(base_config)
    if device is None or recipe.device == "cpu" or shapes is None:
        return Duration(None, "unknown: no training of this base was measured here")
    if recipe.processes > 1:
        return Duration(None, "unknown: nobody measured several GPUs together here")
    peak = _peak(device.name)
    if peak is None or recipe.dtype != "bfloat16":
        return Duration(None, f"unknown: no rate is known for {device.name} in {recipe.dtype}")
    work = FORWARD + GRADIENT
    work += WEIGHT_GRADIENT if recipe.method == "full" else 0
    work += FORWARD if recipe.gradient_checkpointing else 0
    scale = shapes.parameters / MEASURED_PARAMETERS * work / MEASURED_WORK * PEAK_TFLOPS[MEASURED_CARD] / peak
    basis = f"scaled from 0.27 s per 300 tokens of Mistral 7B QLoRA on an {MEASURED_CARD}, by parameters"
    by = [basis] if work == MEASURED_WORK else [basis, "by the work per token of this method and checkpointing"]
    by += [] if peak == PEAK_TFLOPS[MEASURED_CARD] else ["by the cards' published peaks"]
    return Duration(tokens * MEASURED_SECONDS_PER_TOKEN * scale, ", ".join(by[:-1]) + " and " * (len(by) > 1) + by[-1])


def _peak(name: str) -> float | None:
    words = re.findall(r"\w+", name.upper())
    return PEAK_TFLOPS.get(" ".join(word for word in words if not _SAYS_NOTHING.fullmatch(word)))


def estimate_memory(config: Mapping[str, Any], *, method: str, batch_size: int, tokens: int, r: int = 16) -> int:
    """Peak bytes on one GPU of an ordinary adapter training: rank r on q, k, v and o, bfloat16, with gradient checkpointing; 0 where the config does not say enough."""
    from trainer.preflight import Device
    from trainer.recipe import gpu_recipe

    found = estimate(gpu_recipe(method, batch_size, r), config, tokens, Device("any", 0))
    return found.memory_bytes if found else 0
