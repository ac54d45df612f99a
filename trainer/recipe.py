"""A recipe: every choice of a training that is not its data, its base or its seed.

Rules: every default is explicit, because TRL's and PEFT's own defaults move between releases; a recipe is one flat JSON object; its digest covers all of
it; unknown and missing names are refused, so that a digest never depends on what today's code would fill in. Loads no torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from registry.errors import Invalid
from registry.manifest import digest
from registry.refs import DIGEST, nearest
from trainer.chat import BASE, MISTRAL, PACKAGED, PLAIN, packaged_digest

if TYPE_CHECKING:
    from trainer.bases import BaseSpec
    from trainer.preflight import Device

RECIPE_FORMAT = "recipe/1"
ATTENTION = ("k_proj", "o_proj", "q_proj", "v_proj")
# Architectures that fuse the three input projections into one (Phi-3 and Phi-4).
FUSED_ATTENTION = ("o_proj", "qkv_proj")
MAX_RANK = 512  # the largest --max-lora-rank of vLLM 0.33; a larger adapter could not be served
QLORA_FROM_PARAMETERS = 3_000_000_000  # below this, 16-bit weights fit any card that trains at all, and NF4 only costs precision


@dataclass(frozen=True)
class Recipe:
    """Every knob of a training. Times are in optimizer steps or epochs, lengths in tokens; the meaning of each field stands beside it."""

    method: Literal["lora", "qlora"]
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]  # of the base's weights (lora) and of the computation
    quantization: Literal["none", "nf4"]  # nf4 exactly when method is qlora
    double_quantization: bool
    r: int
    alpha: int
    dropout: float
    targets: Literal["attention"]  # a named profile; target_modules is what it means on this base
    target_modules: tuple[str, ...]  # sorted leaf names
    rslora: bool
    learning_rate: float
    epochs: int  # training ends after these epochs or after max_steps, whichever comes first
    max_steps: int | None
    batch_size: int
    gradient_accumulation: int
    scheduler: Literal["constant", "linear", "cosine"]
    warmup: float  # share of all steps, 0 to 1
    weight_decay: float
    optim: Literal["adamw_torch", "adamw_torch_fused", "paged_adamw_8bit"]
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    max_grad_norm: float
    max_length: int  # a longer example is refused, never cut: a cut would eat the end of an answer
    packing: Literal[False]  # True is left to later work
    group_by_length: bool  # batches of like lengths: less padding, seeded like the rest
    gradient_checkpointing: bool
    attention: Literal["sdpa", "eager"]
    loss_type: Literal["nll"]
    loss_on: Literal["assistant"]
    chat_template: str  # mistral-v0.3, plain, or base (the base's own)
    chat_template_sha256: str
    heldout_max_examples: int | None  # the first n held-out examples are measured; None measures all
    threads: int | None  # CPU threads: part of the bits of a sum; None takes what the machine has
    format: Literal["recipe/1"] = "recipe/1"

    def __post_init__(self) -> None:
        """Refuse values that could not train. Raises Invalid with the field, the range and what was found."""
        _check_ranges(self)

    def as_json(self) -> dict[str, Any]:
        """The flat JSON object that is stored and hashed."""
        return asdict(self) | {"target_modules": list(self.target_modules)}

    @property
    def digest(self) -> str:
        """sha256 over the canonical JSON (RFC 8785) of the recipe."""
        return digest(self.as_json())

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Recipe":
        """Read a stored recipe. Raises Invalid for a name that is unknown or missing and for a value of the wrong kind."""
        known = [f.name for f in fields(cls)]
        for name in value:
            if name not in known:
                guess = nearest(str(name), known)
                raise Invalid(
                    f"A recipe has no setting {str(name)[:60]!a}.",
                    hint=f"Did you mean {guess}?" if guess else f"Known: {', '.join(known)}.",
                )
        missing = [name for name in known if name not in value]
        if missing:
            raise Invalid(
                f"A recipe must state every setting; missing: {', '.join(missing)}.",
                hint="Start from default_recipe(...).as_json() and change what you need.",
            )
        kinds = get_type_hints(cls)
        return cls(**{name: _typed(name, value[name], kinds[name]) for name in known})

    def with_changes(self, **changes: Any) -> "Recipe":
        """A copy with some settings changed; raises what `from_json` raises."""
        return Recipe.from_json(self.as_json() | changes)


def _typed(name: str, value: Any, kind: Any) -> Any:
    """`value` as the field's type; a whole number may stand where a fraction is wanted, since JSON does not tell 1 from 1.0."""
    choices = [a for a in get_args(kind) if not isinstance(a, type)]
    if name == "target_modules":
        if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
            return tuple(sorted(value))
        raise Invalid(f"The recipe's {name} is a list of names; found {value!a}.")
    if choices and type(None) not in get_args(kind):
        if value in choices and isinstance(value, type(choices[0])):
            return value
        raise Invalid(f"The recipe's {name} is {' or '.join(map(str, choices))}; found {str(value)[:60]!a}.")
    wanted = [a for a in get_args(kind) if isinstance(a, type)] or [kind]
    if float in wanted and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if any(isinstance(value, w) and not (isinstance(value, bool) and w is not bool) for w in wanted):
        return value
    words = " or ".join("null" if w is type(None) else w.__name__ for w in wanted)
    raise Invalid(f"The recipe's {name} is of type {words}; found {str(value)[:60]!a}.")


# field -> (smallest, largest). Wide on purpose: they keep nonsense and typing errors out, not experiments.
_RANGES: dict[str, tuple[float, float]] = {
    "r": (1, MAX_RANK),
    "alpha": (1, 65_536),
    "dropout": (0.0, 0.9),
    "learning_rate": (1e-9, 1e9),
    "epochs": (1, 10_000),
    "max_steps": (1, 10_000_000),
    "batch_size": (1, 4096),
    "gradient_accumulation": (1, 4096),
    "warmup": (0.0, 1.0),
    "weight_decay": (0.0, 10.0),
    "adam_beta1": (0.0, 0.99999),
    "adam_beta2": (0.0, 0.99999),
    "adam_epsilon": (1e-15, 1.0),
    "max_grad_norm": (1e-6, 1e6),
    "max_length": (8, 1_048_576),
    "heldout_max_examples": (0, 10_000_000),
    "threads": (1, 1024),
}


def _check_ranges(recipe: Recipe) -> None:
    for name, (low, high) in _RANGES.items():
        value = getattr(recipe, name)
        if value is not None and not low <= value <= high:
            raise Invalid(f"The recipe's {name} lies between {low:g} and {high:g}; found {value!a}.")
    if (recipe.method == "qlora") != (recipe.quantization == "nf4"):
        raise Invalid(
            f"Method qlora goes with quantization nf4 and lora with none; found {recipe.method} with {recipe.quantization}.",
            hint="Change both settings together.",
        )
    if recipe.chat_template not in (*PACKAGED, BASE) or not DIGEST.fullmatch(recipe.chat_template_sha256):
        raise Invalid(
            f"The recipe's chat_template is {', '.join(PACKAGED)} or {BASE}, with its sha256; found {recipe.chat_template[:60]!a} and {recipe.chat_template_sha256[:80]!a}."
        )


def default_recipe(base: "BaseSpec", device: "Device | None") -> Recipe:
    """The recipe for a base on a device (None: the CPU). Deterministic: the same base and device give the same digest.

    The built-in base always trains on the CPU, where the same spec gives the same bytes. Raises Invalid when the base's chat template is not known.
    """
    template, template_sha256 = _template_for(base)
    targets = FUSED_ATTENTION if (base.config or {}).get("model_type") == "phi3" else ATTENTION
    recipe = replace(_LORA_CPU, target_modules=targets, chat_template=template, chat_template_sha256=template_sha256)
    if base.kind == "builtin":
        return replace(recipe, **_TINY)
    recipe = replace(recipe, max_length=min(_context(base), recipe.max_length))
    if device is None:
        return recipe
    recipe = replace(recipe, **_GPU)
    if _large(base):
        recipe = replace(recipe, method="qlora", quantization="nf4", double_quantization=True)
    return recipe


def _template_for(base: "BaseSpec") -> tuple[str, str]:
    if base.kind == "builtin" or base.repo.lower().endswith("mistral-7b-instruct-v0.3"):
        return MISTRAL, packaged_digest(MISTRAL)
    if base.chat_template_sha256 is not None:
        return BASE, base.chat_template_sha256
    return PLAIN, packaged_digest(PLAIN)


def _context(base: "BaseSpec") -> int:
    value = (base.config or {}).get("max_position_embeddings")
    return value if isinstance(value, int) and value >= 8 else 2048


def _large(base: "BaseSpec") -> bool:
    from trainer.preflight import count_parameters

    count = count_parameters(base.config or {})
    return count is None or count >= QLORA_FROM_PARAMETERS


# A real model in 32 bits on a CPU. Learning rate 2e-4 and beta2 0.999 are the QLoRA paper's for 7B (arXiv 2305.14314, appendix B), dropout 0.05
# its value for 33B and 65B; the rest is common usage, not measured here.
_LORA_CPU = Recipe(
    method="lora",
    device="cpu",
    dtype="float32",
    quantization="none",
    double_quantization=False,
    r=16,
    alpha=32,
    dropout=0.05,
    targets="attention",
    target_modules=ATTENTION,
    rslora=False,
    learning_rate=2e-4,
    epochs=3,
    max_steps=None,
    batch_size=4,
    gradient_accumulation=1,
    scheduler="cosine",
    warmup=0.05,
    weight_decay=0.0,
    optim="adamw_torch",
    adam_beta1=0.9,
    adam_beta2=0.999,
    adam_epsilon=1e-8,
    max_grad_norm=1.0,
    max_length=4096,
    packing=False,
    group_by_length=True,
    gradient_checkpointing=False,
    attention="sdpa",
    loss_type="nll",
    loss_on="assistant",
    chat_template=PLAIN,
    chat_template_sha256="sha256:" + "0" * 64,
    heldout_max_examples=None,
    threads=None,
)
# The tiny base: 300 steps of 4 see 1,200 conversations, and one to two minutes of two cores is what a first try may cost.
# learning_rate was chosen by measurement; without dropout a step takes a quarter less time, and a model this small cannot overfit much; threads=2 is what every machine has, so more cores do not change the bits.
_TINY: dict[str, Any] = {
    "learning_rate": 5e-3,
    "dropout": 0.0,
    "max_steps": 300,
    "max_length": 8192,
    "threads": 2,
    "heldout_max_examples": 200,
}
# Checkpointing costs about 20% of the speed (TRL's figure) and is what lets 7B with 4,096 tokens fit 24 GB; 4 x 4 is the QLoRA paper's batch of 16.
_GPU: dict[str, Any] = {
    "device": "cuda",
    "dtype": "bfloat16",
    "gradient_accumulation": 4,
    "optim": "adamw_torch_fused",
    "gradient_checkpointing": True,
    "max_grad_norm": 0.3,
    "warmup": 0.03,
}
