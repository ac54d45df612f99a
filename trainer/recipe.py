"""A recipe: every choice of a training that is not its data, its base or its seed.

Rules: every default is explicit, because the libraries' own defaults move between releases; a recipe is one flat JSON object; its digest covers all of
it; unknown and missing names are refused, so that a digest never depends on what today's code would fill in; what no engine can serve (DoRA, PiSSA and
their like) cannot be said here at all. `make_recipe` fills in what a person leaves out. Loads no torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_type_hints

from registry.adapter_files.cards import BLOCK, BaseCard, base_card_from_config
from registry.adapter_files.full_config import tuned_config
from registry.errors import Invalid
from registry.manifest import digest
from registry.refs import DIGEST, nearest
from trainer.chat import BASE, MISTRAL, PACKAGED, PLAIN, known_template, packaged_digest

if TYPE_CHECKING:
    from trainer.bases import BaseSpec
    from trainer.choice import Choice
    from trainer.preflight import Device

RECIPE_FORMAT = "recipe/2"
ATTENTION = ("k_proj", "o_proj", "q_proj", "v_proj")  # what `attention` means on an architecture without a card
MAX_RANK = 512  # the largest --max-lora-rank of vLLM 0.33; a larger adapter could not be served
PACKED_LENGTH = 2048  # tokens of a packed row unless said: some ten short dialogues
FULL_LEARNING_RATE = (
    2e-5  # a tenth of LoRA's: "LoRA Without Regret" (Schulman et al., 2025) finds LoRA's best rate ten times that of full fine-tuning
)


@dataclass(frozen=True)
class Recipe:
    """Every knob of a training. Times are in optimizer steps or epochs, lengths in tokens; the meaning of each field stands beside it."""

    method: Literal["lora", "qlora", "full"]  # full trains every weight of the base and makes a model of its own, not an adapter
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]  # of the base's weights (lora) and of the computation
    quantization: Literal["none", "nf4"]  # nf4 exactly when method is qlora
    double_quantization: bool
    r: int | None  # r and alpha are null exactly when method is full
    alpha: int | None
    dropout: float
    targets: Literal["attention", "all-linear", "custom", "none"]  # a named profile; target_modules is what it means on this base
    target_modules: tuple[str, ...]  # sorted leaf names; none for full
    rslora: bool  # alpha / sqrt(r) instead of alpha / r (arXiv 2312.03732)
    lora_plus_ratio: float | None  # how many times faster lora_B learns than lora_A (LoRA+, arXiv 2402.12354); null: both alike
    learning_rate: float
    epochs: int  # training ends after these epochs or after max_steps, whichever comes first
    max_steps: int | None
    batch_size: int
    gradient_accumulation: int
    scheduler: Literal["constant", "linear", "cosine"]
    warmup: float  # share of all steps, 0 to 1
    weight_decay: float
    optim: Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit"]
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    max_grad_norm: float
    max_length: int  # a longer example is refused, never cut: a cut would eat the end of an answer
    batching: Literal[
        "padding-free", "packed"
    ]  # padding-free: a micro-batch is batch_size examples laid end to end; packed: batch_size full rows
    pack_length: int | None  # tokens of a packed row, at most max_length; null exactly when batching is padding-free
    gradient_checkpointing: bool
    attention: Literal["sdpa", "eager", "flash_attention_2"]
    loss_type: Literal["nll"]
    loss_on: Literal["assistant"]
    chat_template: str  # a packaged one (trainer.chat.PACKAGED), or base (the base's own)
    chat_template_sha256: str
    heldout_max_examples: int | None  # the first n held-out examples are measured; None measures all
    threads: int | None  # CPU threads: part of the bits of a sum; None takes what the machine has
    kept_checkpoints: int  # adapters kept on the way, evenly spaced, for attributing answers to sources later; never served
    processes: int  # GPUs that train together; the effective batch is this many times larger
    sharding: Literal["none", "fsdp"]  # fsdp exactly when processes is above 1
    format: Literal["recipe/2"] = "recipe/2"

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
        if value.get("format") not in (None, RECIPE_FORMAT):
            raise Invalid(
                f"This release reads recipes of the format {RECIPE_FORMAT}; found {str(value['format'])[:40]!a}.",
                hint="Train with the release that wrote the recipe; its version is in the environment of the run.",
            )
        for name in value:
            if name not in known:
                _refuse_name(str(name), known)
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


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise Invalid for a setting that no recipe has and for a value that it has on no base. Whether they fit each other is `make_recipe`'s to say."""
    kinds = get_type_hints(Recipe)
    for name, value in settings.items():
        if name not in kinds:
            _refuse_name(str(name), [f.name for f in fields(Recipe)])
        _check_range(name, _typed(name, value, kinds[name]))


# Settings of PEFT that people know and that are refused here, with the reason. vLLM 0.33 rejects each of these kinds (its peft_helper.py).
_NOT_SERVED = "no serving engine this registry writes for can load it (vLLM 0.33 refuses it)"
_UNSERVED: Mapping[str, str] = {
    "use_dora": f"DoRA is refused: {_NOT_SERVED}",
    "dora": f"DoRA is refused: {_NOT_SERVED}",
    "init_lora_weights": "PiSSA, OLoRA, CorDA, EVA and LoftQ starts are refused: they rewrite the base's own weights, so that the adapter fits no other copy of it",
    "pissa": "PiSSA is refused: it rewrites the base's own weights, so that the adapter fits no other copy of it",
    "loftq": "LoftQ is refused: it rewrites the base's own weights, so that the adapter fits no other copy of it",
    "loftq_config": "LoftQ is refused: it rewrites the base's own weights, so that the adapter fits no other copy of it",
    "lora_bias": f"LoRA with a bias is refused: {_NOT_SERVED}",
    "bias": f"Training biases is refused: {_NOT_SERVED}",
    "modules_to_save": f"Whole modules beside the LoRA pairs are refused: {_NOT_SERVED}",
    "rank_pattern": "A rank per layer is refused: its keys are regular expressions, which can hang a loader",
    "alpha_pattern": "An alpha per layer is refused: its keys are regular expressions, which can hang a loader",
    "layer_replication": f"Layer replication is refused: {_NOT_SERVED}",
    "alora_invocation_tokens": f"aLoRA is refused: {_NOT_SERVED}",
    "use_qalora": f"QALoRA is refused: {_NOT_SERVED}",
}


def _refuse_name(name: str, known: list[str]) -> NoReturn:
    if name in _UNSERVED:
        raise Invalid(f"{_UNSERVED[name]}.", hint="Train a plain LoRA (rslora and lora_plus_ratio are there), or the method full.")
    guess = nearest(name, known)
    raise Invalid(f"A recipe has no setting {name[:60]!a}.", hint=f"Did you mean {guess}?" if guess else f"Known: {', '.join(known)}.")


def _typed(name: str, value: Any, kind: Any) -> Any:
    """`value` as the field's type; a whole number may stand where a fraction is wanted, since JSON does not tell 1 from 1.0."""
    choices = [a for a in get_args(kind) if not isinstance(a, type)]
    if name == "target_modules":
        if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
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
    "pack_length": (8, 1_048_576),
    "heldout_max_examples": (0, 10_000_000),
    "threads": (1, 1024),
    "lora_plus_ratio": (1.0, 1024.0),
    "kept_checkpoints": (0, 20),
    "processes": (1, 1024),
}


def _check_ranges(recipe: Recipe) -> None:
    for name in _RANGES:
        _check_range(name, getattr(recipe, name))
    for holds, rule, found in _agreements(recipe):
        if not holds:
            raise Invalid(f"In a recipe, {rule}; found {found}.", hint="Change both settings together.")
    if recipe.chat_template not in (*PACKAGED, BASE) or not DIGEST.fullmatch(recipe.chat_template_sha256):
        raise Invalid(
            f"The recipe's chat_template is {', '.join(PACKAGED)} or {BASE}, with its sha256; found {recipe.chat_template[:60]!a} and {recipe.chat_template_sha256[:80]!a}."
        )


def _check_range(name: str, value: Any) -> None:
    low, high = _RANGES.get(name, (0, 0))
    if name in _RANGES and value is not None and not low <= value <= high:
        raise Invalid(f"The recipe's {name} lies between {low:g} and {high:g}; found {value!a}.")


def _agreements(recipe: Recipe) -> list[tuple[bool, str, str]]:
    """(holds, the rule, what was found) for settings that only make sense together."""
    full, packed = recipe.method == "full", recipe.batching == "packed"
    ranks = f"method {recipe.method} with r {recipe.r}, alpha {recipe.alpha}, targets {recipe.targets}"
    plain = recipe.dropout == 0 and not recipe.rslora and recipe.lora_plus_ratio is None
    return [
        (
            (recipe.method == "qlora") == (recipe.quantization == "nf4"),
            "method qlora goes with quantization nf4 and every other with none",
            f"{recipe.method} with {recipe.quantization}",
        ),
        (full == (recipe.r is None) == (recipe.alpha is None), "r and alpha are null exactly when the method is full", ranks),
        (full == (recipe.targets == "none") == (not recipe.target_modules), "targets are none exactly when the method is full", ranks),
        (not full or plain, "dropout, rslora and lora_plus_ratio belong to LoRA and are 0, false and null when the method is full", ranks),
        (
            packed == (recipe.pack_length is not None) and (recipe.pack_length or 0) <= recipe.max_length,
            "pack_length is a number of tokens up to max_length exactly when batching is packed",
            f"{recipe.batching} with {recipe.pack_length}",
        ),
        (
            (recipe.processes > 1) == (recipe.sharding == "fsdp"),
            "sharding is fsdp exactly when processes is above 1",
            f"{recipe.processes} with {recipe.sharding}",
        ),
        (
            not (recipe.sharding == "fsdp" and recipe.device == "cpu"),
            "several processes train on GPUs only",
            f"{recipe.processes} processes on the {recipe.device}",
        ),
    ]


def modules_of(base: "BaseSpec", profile: str) -> tuple[str, ...]:
    """The leaf names that a profile means on a base, sorted. Raises Invalid where the architecture has no card and the profile needs one."""
    card = base_card_from_config(base.config or {}, base.repo, base.revision)
    if profile == "none":
        return ()
    if card is None and profile == "all-linear":
        raise Invalid(
            f"The linear modules of {base.repo} are not known here, so all-linear has no meaning on it.",
            hint='Name them in the recipe: "target_modules": ["..."].',
        )
    if card is None:
        return ATTENTION
    return tuple(sorted(name for name in card.modules if profile == "all-linear" or BLOCK[name] == "self_attn"))


def make_recipe(base: "BaseSpec", device: "Device | None", settings: Mapping[str, Any]) -> Recipe:
    """The default recipe for a base on a device, with some settings changed and what follows from them filled in.

    A method brings its quantisation, a profile its modules, `packed` its length; what is said outright is never changed. Raises Invalid, also for a full
    fine-tune of an architecture that the gate cannot check.
    """
    given = dict(settings)
    values = default_recipe(base, device, given.get("method")).as_json() | _follow_ups(given, base)
    recipe = Recipe.from_json(values | given)
    if recipe.targets in {"attention", "all-linear"} and recipe.target_modules != modules_of(base, recipe.targets):
        raise Invalid(
            f"The profile {recipe.targets} means {', '.join(modules_of(base, recipe.targets))} on {base.repo}; found {', '.join(recipe.target_modules)}.",
            hint="Leave target_modules out, or say targets: custom.",
        )
    if recipe.method == "full":  # the gate could not check what comes out, and would say so only after the training
        tuned_config(base_card_from_config(base.config or {}, base.repo, base.revision) or BaseCard(base.repo, base.revision), recipe.dtype)
    return recipe


def _follow_ups(given: Mapping[str, Any], base: "BaseSpec") -> dict[str, Any]:
    from trainer.choice import FULL

    method = given.get("method")
    follow: dict[str, Any] = {}
    if method == "full":
        follow |= {**FULL, "learning_rate": FULL_LEARNING_RATE, "kept_checkpoints": 0}
    elif method == "qlora":
        follow |= {"quantization": "nf4", "double_quantization": True}
    elif method == "lora":
        follow |= {"quantization": "none", "double_quantization": False}
    if "target_modules" in given and method != "full":
        follow["targets"] = "custom"
    elif given.get("targets") in {"attention", "all-linear"}:
        follow["target_modules"] = list(modules_of(base, given["targets"]))
    if given.get("batching") == "packed":
        follow["pack_length"] = min(given.get("max_length") or PACKED_LENGTH, PACKED_LENGTH)
    elif given.get("batching") == "padding-free":
        follow["pack_length"] = None
    if isinstance(given.get("processes"), int):
        follow["sharding"] = "fsdp" if given["processes"] > 1 else "none"
    return follow


def default_recipe(base: "BaseSpec", device: "Device | None", method: str | None = None) -> Recipe:
    """The recipe for a base on a device (None: the CPU); `method` where one was asked for. Deterministic: the same base and device give the same digest.

    The built-in base always trains on the CPU, where the same spec gives the same bytes. Raises Invalid when the base's chat template is not known.
    """
    recipe = _without_hardware(base, device)
    if recipe.device == "cpu":
        return recipe
    return replace(recipe, **_choice(recipe, base, device, method).changes)


def why_method(base: "BaseSpec", device: "Device | None", method: str | None = None) -> str:
    """A few words why `default_recipe` takes the method it takes."""
    if base.kind == "builtin":
        return "asked for" if method else "the built-in base trains on the CPU, unquantised"
    return _choice(_without_hardware(base, device), base, device, method).why


def _choice(recipe: Recipe, base: "BaseSpec", device: "Device | None", method: str | None) -> "Choice":
    from trainer.choice import choose

    return choose(recipe, base, device, method)


def _without_hardware(base: "BaseSpec", device: "Device | None") -> Recipe:
    template, template_sha256 = _template_for(base)
    recipe = replace(_LORA_CPU, target_modules=modules_of(base, "attention"), chat_template=template, chat_template_sha256=template_sha256)
    if base.kind == "builtin":
        return replace(recipe, **_TINY)
    recipe = replace(recipe, max_length=min(_context(base), recipe.max_length))
    return recipe if device is None else replace(recipe, **_GPU)


def gpu_recipe(method: str, batch_size: int, r: int) -> Recipe:
    """The recipe of an ordinary adapter training on a GPU, for estimates of a base that is not at hand."""
    quantized = method == "qlora"
    return replace(
        _LORA_CPU,
        **_GPU,
        method="qlora" if quantized else "lora",
        quantization="nf4" if quantized else "none",
        double_quantization=quantized,
        batch_size=batch_size,
        r=r,
    )


def _template_for(base: "BaseSpec") -> tuple[str, str]:
    """The template's name and digest: what was chosen when the base was resolved, or what its name and its own template's digest say."""
    own = base.chat_template_sha256
    name = MISTRAL if base.kind == "builtin" else base.template or known_template(base.repo, own) or (BASE if own else PLAIN)
    return name, own if name == BASE and own else packaged_digest(name)


def _context(base: "BaseSpec") -> int:
    value = (base.config or {}).get("max_position_embeddings")
    return value if isinstance(value, int) and value >= 8 else 2048


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
    lora_plus_ratio=None,
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
    batching="padding-free",
    pack_length=None,
    gradient_checkpointing=False,
    attention="sdpa",
    loss_type="nll",
    loss_on="assistant",
    chat_template=PLAIN,
    chat_template_sha256="sha256:" + "0" * 64,
    heldout_max_examples=None,
    threads=None,
    kept_checkpoints=4,
    processes=1,
    sharding="none",
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
