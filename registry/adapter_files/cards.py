"""What the gate knows about a base: which modules an adapter may target, their shapes, and how many layers there are.

A card is computed from the base's own config.json, without torch and without its weights. An architecture that is not in the table has no card; the
gate then checks only that an adapter agrees with itself. The formulas were read in transformers 5.23 (models/*/modeling_*.py, the nn.Linear calls) and
are asserted against real tiny models in the tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from registry.adapter_files.words import shown
from registry.errors import Invalid

# The block of a decoder layer that each linear module lives in; the same in all four architectures (and in most of their descendants).
BLOCK = {
    "q_proj": "self_attn",
    "k_proj": "self_attn",
    "v_proj": "self_attn",
    "qkv_proj": "self_attn",
    "o_proj": "self_attn",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "gate_up_proj": "mlp",
    "down_proj": "mlp",
}

# model_type -> the class a causal model of it has. A config that names another class (a classifier, a vision model) has other modules.
CAUSAL = {
    "mistral": "MistralForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "phi3": "Phi3ForCausalLM",  # Phi-4 14B too
}
_FUSED = frozenset({"phi3"})
# What transformers 5.23 takes where config.json leaves num_key_value_heads out; llama and phi3 take the number of heads, as all do for null.
_KV_HEADS_IF_LEFT_OUT = {"mistral": 8, "qwen2": 32}
# Far above any model there is (Llama 3.1 405B: 16,384 wide, 53,248 in the MLP, 126 layers); keeps nonsense out of the arithmetic.
_WIDEST = 1_000_000
_DEEPEST = 1000  # layout.py reads layer numbers of up to three digits


@dataclass(frozen=True)
class BaseCard:
    """A registered base: its hub id (or local name), its revision (None where none is known), and its shapes.

    `modules` maps a module's leaf name to (in features, out features), `layers` is the number of decoder layers. Both are empty in a card made by
    `BaseCard(repo, revision)`: the gate then pins the base's name without knowing its shapes. `config` is the base's config.json, which a full fine-tune must
    agree with (full_config.py), and `weights_sha256` the digest of the base's weights, where they are one file and it is known.
    """

    repo: str
    revision: str | None
    modules: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    layers: int = 0
    config: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    weights_sha256: str | None = field(default=None, compare=False)

    @property
    def shaped(self) -> bool:
        """Whether the shapes are known."""
        return bool(self.modules)


def known_modules(base: BaseCard | None) -> frozenset[str]:
    """The leaf names an adapter may target: the base's own, or those of all four architectures where the base has no shapes."""
    return frozenset(base.modules if base is not None and base.shaped else BLOCK)


def base_card_from_config(config: Mapping[str, Any], repo: str, revision: str | None, weights_sha256: str | None = None) -> BaseCard | None:
    """The card of a mistral, llama, qwen2 or phi3 causal model; None for every other architecture.

    `config` is the base's config.json as transformers writes it. Raises Invalid when it names a known architecture but its sizes make no sense.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CAUSAL or config.get("architectures") not in (None, [CAUSAL[kind]]):
        return None
    hidden, intermediate = _size(config, "hidden_size", repo), _size(config, "intermediate_size", repo)
    heads = _size(config, "num_attention_heads", repo)
    head = head_size(config, hidden, heads, repo)
    queries, keys = heads * head, kv_heads(config, kind, heads, repo) * head
    shapes = _fused(hidden, intermediate, queries, keys) if kind in _FUSED else _separate(hidden, intermediate, queries, keys)
    return BaseCard(repo, revision, shapes, _size(config, "num_hidden_layers", repo, _DEEPEST), config, weights_sha256)


def _separate(hidden: int, intermediate: int, queries: int, keys: int) -> dict[str, tuple[int, int]]:
    return {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, intermediate),
        "up_proj": (hidden, intermediate),
        "down_proj": (intermediate, hidden),
    }


def _fused(hidden: int, intermediate: int, queries: int, keys: int) -> dict[str, tuple[int, int]]:
    """Phi-3 and Phi-4 compute q, k and v in one matrix, and gate and up in another."""
    return {
        "qkv_proj": (hidden, queries + 2 * keys),
        "o_proj": (queries, hidden),
        "gate_up_proj": (hidden, 2 * intermediate),
        "down_proj": (intermediate, hidden),
    }


def _size(config: Mapping[str, Any], key: str, repo: str, largest: int = _WIDEST) -> int:
    value = config.get(key)
    if type(value) is not int or not 1 <= value <= largest:
        raise Invalid(
            f"The config.json of {shown(repo)}: expected {key} to be a whole number from 1 to {largest}, found {shown(value)}.",
            hint="Take config.json from the base's own repository, unchanged.",
        )
    return value


def head_size(config: Mapping[str, Any], hidden: int, heads: int, repo: str) -> int:
    """head_dim where it is stated (it need not be hidden / heads: Mistral Nemo), else hidden / heads. Raises Invalid."""
    if config.get("head_dim") is not None:
        return _size(config, "head_dim", repo)
    if hidden % heads:
        raise Invalid(
            f"The config.json of {shown(repo)}: expected hidden_size to be a multiple of num_attention_heads, found {hidden} and {heads}.",
            hint="Take config.json from the base's own repository, unchanged.",
        )
    return hidden // heads


def kv_heads(config: Mapping[str, Any], kind: str, heads: int, repo: str) -> int:
    """num_key_value_heads where it is stated, else what transformers takes. Raises Invalid."""
    if "num_key_value_heads" not in config:
        return _KV_HEADS_IF_LEFT_OUT.get(kind, heads)
    return heads if config["num_key_value_heads"] is None else _size(config, "num_key_value_heads", repo)
