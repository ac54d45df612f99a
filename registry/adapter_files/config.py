"""What may stand in adapter_config.json, and the one way it is written.

Every key is either free within a range (rank, alpha, targets, ...), or fixed to the default that PEFT 0.21.2's LoraConfig has for it, or unknown and
refused: an unknown key might mean something to the next loader. Only order and cosmetics are normalised. What would change the adapter's meaning (another
base, a pattern, another kind of LoRA) is refused, never dropped.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from registry.adapter_files.cards import BaseCard, known_modules
from registry.adapter_files.strict_json import load_object
from registry.adapter_files.words import Faults, sentence, shown
from registry.errors import Invalid
from registry.manifest import canonical

CONFIG_FILE = "adapter_config.json"
# vLLM 0.33 serves no --max-lora-rank above 512. PEFT spends 45 s allocating for r=400000 before it notices (reference/training.md, section 6).
MAX_RANK = 512
# alpha / r, or alpha / sqrt(r) with rsLoRA. Trained adapters use 0.5 to 4, "LoRA Without Regret" 32 at rank 1; beyond 64 noise in the weights is amplified.
MAX_SCALING = 64.0
MIN_SCALING = 1 / MAX_RANK  # alpha 1 at the largest rank; far below it the adapter is a no-op

_HARMLESS_START = (True, False, "gaussian")  # starting values that the stored weights replace; the base is left alone
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+@_-]{0,63}")
_TODO_TARGETS = "List the modules by their plain names, such as q_proj; a pattern can hang the loader or match half of what was meant."


@dataclass(frozen=True)
class Fixed:
    """A key of LoraConfig that must keep a harmless value, and what another value would do."""

    values: tuple[Any, ...]
    why: str


_NOT_SERVED = "vLLM does not serve this kind of adapter: train a plain LoRA."
_REWRITES = "It belongs to a start that rewrites the base's own weights: train with init_lora_weights true."
_IMPORTS = "Loaders import the module it names: leave it out."
_PATTERN = "Its keys are regular expressions, which can hang a loader, and change single layers: use one rank and one alpha."
_PARTIAL = "An adapter covers every layer and only what target_modules lists: train without it."
_NOT_LORA = "Weights beside the LoRA pairs are not served: train without it."
_NOT_LINEAR = "It tells of base layers that are not plain linear ones, and of no base that is registered here: leave it at its default."

# The default of each in PEFT 0.21.2 (tuners/lora/config.py) comes first; a second value is another spelling of nothing.
FIXED: Mapping[str, Fixed] = {
    "use_dora": Fixed((False,), _NOT_SERVED),
    "use_qalora": Fixed((False,), _NOT_SERVED),
    "use_bdlora": Fixed((None,), _NOT_SERVED),
    "qalora_group_size": Fixed((16,), _NOT_SERVED),
    "alora_invocation_tokens": Fixed((None,), _NOT_SERVED),
    "arrow_config": Fixed((None,), _NOT_SERVED),
    "kasa_config": Fixed((None,), _NOT_SERVED),
    "monteclora_config": Fixed((None,), _NOT_SERVED),
    "velora_config": Fixed((None,), _NOT_SERVED),
    "loftq_config": Fixed(({}, None), _REWRITES),
    "corda_config": Fixed((None,), _REWRITES),
    "eva_config": Fixed((None,), _REWRITES),
    "lora_ga_config": Fixed((None,), _REWRITES),
    "auto_mapping": Fixed((None,), _IMPORTS),
    "megatron_config": Fixed((None,), _IMPORTS),
    "megatron_core": Fixed(("megatron.core", None), _IMPORTS),
    "rank_pattern": Fixed(({}, None), _PATTERN),
    "alpha_pattern": Fixed(({}, None), _PATTERN),
    "layers_pattern": Fixed((None,), _PARTIAL),
    "layers_to_transform": Fixed((None,), _PARTIAL),
    "exclude_modules": Fixed((None,), _PARTIAL),
    "layer_replication": Fixed((None,), "It gives the base other layers than it has: train without it."),
    "modules_to_save": Fixed((None,), _NOT_LORA),
    "trainable_token_indices": Fixed((None,), _NOT_LORA),
    "target_parameters": Fixed((None,), _NOT_LORA),
    "ensure_weight_tying": Fixed((False,), _NOT_LORA),
    "bias": Fixed(("none",), _NOT_LORA),
    "lora_bias": Fixed((False,), _NOT_LORA),
    "fan_in_fan_out": Fixed((False,), _NOT_LINEAR),
    "peft_type": Fixed(("LORA",), "Only LoRA adapters are registered."),
    "task_type": Fixed(("CAUSAL_LM",), "Advisors answer in text: train with task_type CAUSAL_LM."),
    "init_lora_weights": Fixed(
        _HARMLESS_START, "Other starts (PiSSA, OLoRA, LoftQ, CorDA, EVA, ...) rewrite the frozen base when the adapter is loaded."
    ),
    "inference_mode": Fixed((True, False), "Loaders set it themselves: leave it out."),
    "use_rslora": Fixed((False, True), "It decides how strongly the adapter acts."),
}
# These have no default here that could not be misread: PEFT would take rank 8, alpha 8, no task and every base.
REQUIRED = ("peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules")
_FREE = frozenset({"base_model_name_or_path", "revision", "r", "lora_alpha", "lora_dropout", "target_modules", "peft_version"})


@dataclass(frozen=True)
class Claims:
    """What a config says about its tensors. rank 0, alpha 0 and no targets stand for 'nothing usable was stated'."""

    rank: int
    alpha: float
    dropout: float
    rslora: bool
    targets: frozenset[str]


def read_config(path: Path) -> dict[str, Any]:
    """The object in an adapter_config.json whose size was checked before. Raises Invalid when it is not strict JSON (UTF-8, no key twice, no NaN)."""
    try:
        return load_object(path.read_bytes())
    except ValueError as error:
        raise Invalid(sentence(CONFIG_FILE, "one JSON object", str(error), "Send the file as save_pretrained wrote it.")) from None


def examine(config: Mapping[str, Any], base: BaseCard | None, faults: Faults) -> Claims:
    """Note every fault of `config` in `faults`; return what it claims. With a base, its name, revision and modules are held against it."""
    _check_keys(config, faults)
    _check_fixed(config, faults)
    _check_base(config, base, faults)
    _check_version(config, faults)
    rank = _rank(config, faults)
    rslora = config.get("use_rslora", False) is True
    return Claims(
        rank=rank,
        alpha=_alpha(config, rank, faults, rslora=rslora),
        dropout=_dropout(config, faults),
        rslora=rslora,
        targets=_targets(config, known_modules(base), faults),
    )


def canonical_config(config: Mapping[str, Any], base_repo: str, base_revision: str | None) -> bytes:
    """The RFC 8785 bytes under which this config is stored: allow-listed keys, sorted lists, pinned to the registered base.

    Idempotent, and the same for every order of keys and targets. Starting values, PEFT's version and training-only switches fall away, because loaders
    ignore them; whatever has a meaning is kept, and refused where it is not allowed. Raises Invalid that lists every fault.
    """
    faults = Faults(CONFIG_FILE)
    claims = examine(config, BaseCard(base_repo, base_revision), faults)
    if faults:
        raise Invalid("\n".join(faults.sentences()), hint="Correct the config and send it again; nothing was stored.")
    return canonical(
        {
            # Spelled out although they are defaults: other engines (vLLM, SGLang, TGI) have their own idea of what a missing key means.
            "alpha_pattern": {},
            "base_model_name_or_path": base_repo,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": claims.alpha,
            "lora_dropout": claims.dropout,
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": claims.rank,
            "rank_pattern": {},
            "revision": base_revision,
            "target_modules": sorted(claims.targets),
            "task_type": "CAUSAL_LM",
            "use_dora": False,
            "use_rslora": claims.rslora,
        }
    )


def _check_keys(config: Mapping[str, Any], faults: Faults) -> None:
    for key in REQUIRED:
        if key not in config:
            faults.add("the keys " + ", ".join(REQUIRED), f"no {key}", "State it: loaders fill the gap in with defaults of their own.")
    for key in config:
        if key not in _FREE and key not in FIXED:
            faults.add("only keys of PEFT 0.21.2's LoraConfig", f"the key {shown(key)}", "Leave it out: another loader might act on it.")


def _check_fixed(config: Mapping[str, Any], faults: Faults) -> None:
    for key, fixed in FIXED.items():
        if key in config and not any(_same(config[key], value) for value in fixed.values):
            allowed = " or ".join(shown(value) for value in fixed.values)
            faults.add(f"{key} to be {allowed}", shown(config[key]), fixed.why)


def _same(found: Any, value: Any) -> bool:
    """Equal and of one type: to Python 0 == False and 1 == True, to a loader that asks `is True` they differ."""
    return type(found) is type(value) and found == value


def _check_base(config: Mapping[str, Any], base: BaseCard | None, faults: Faults) -> None:
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if base is None:
        _check_base_spelling(config, faults)
        return
    if "base_model_name_or_path" in config and name != base.repo:
        faults.add(
            f"base_model_name_or_path to be the registered base {shown(base.repo)}",
            shown(name),
            "An adapter works only on the base it was trained on: register it under that base.",
        )
    if revision is not None and revision != base.revision:
        faults.add(
            f"revision to be null or the registered {shown(base.revision)}",
            shown(revision),
            "Register the base in the revision that the adapter was trained on.",
        )


def _check_base_spelling(config: Mapping[str, Any], faults: Faults) -> None:
    for key in ("base_model_name_or_path", "revision"):
        value = config.get(key)
        if key in config and not isinstance(value, str) and not (key == "revision" and value is None):
            faults.add(f"{key} to be a text", shown(value), "Name the base by its hub id.")


def _check_version(config: Mapping[str, Any], faults: Faults) -> None:
    version = config.get("peft_version")
    if version is not None and not (isinstance(version, str) and _VERSION.fullmatch(version)):
        faults.add("peft_version to be a version such as 0.21.2", shown(version), "Leave it out.")


def _rank(config: Mapping[str, Any], faults: Faults) -> int:
    rank = config.get("r")
    if type(rank) is int and 1 <= rank <= MAX_RANK:
        return rank
    if "r" in config:
        faults.add(f"r to be a whole number from 1 to {MAX_RANK}", shown(rank), "Train with a rank that can be served.")
    return 0


def _alpha(config: Mapping[str, Any], rank: int, faults: Faults, *, rslora: bool) -> float:
    """lora_alpha, once it is a number that scales the update by MIN_SCALING to MAX_SCALING."""
    alpha = config.get("lora_alpha")
    low, high = _alpha_range(rank, rslora=rslora)
    if _is_number(alpha) and low <= alpha <= high:  # NaN and infinity fail the comparison
        return alpha
    if "lora_alpha" in config:
        faults.add(
            f"lora_alpha to be a number from {low:g} to {high:g}, so that it scales the update by at most {MAX_SCALING:g}",
            shown(alpha),
            "Train with an alpha of one to four times the rank.",
        )
    return 0


def _alpha_range(rank: int, *, rslora: bool) -> tuple[float, float]:
    """The smallest and largest lora_alpha for a rank; the widest range when the rank itself is unusable (0)."""
    if not rank:
        return MIN_SCALING, MAX_SCALING * MAX_RANK
    divisor = rank**0.5 if rslora else rank
    return MIN_SCALING * divisor, MAX_SCALING * divisor


def _is_number(value: Any) -> TypeGuard[int | float]:
    """A JSON number; True is none."""
    return type(value) in {int, float}


def _dropout(config: Mapping[str, Any], faults: Faults) -> float:
    dropout = config.get("lora_dropout", 0)
    if _is_number(dropout) and 0 <= dropout < 1:
        return abs(dropout)  # -0.0 and 0 are one value and get one spelling
    faults.add("lora_dropout to be a number from 0 to below 1", shown(dropout), "Write the dropout the adapter was trained with.")
    return 0


def _targets(config: Mapping[str, Any], known: frozenset[str], faults: Faults) -> frozenset[str]:
    """The leaf names in target_modules that the base has; every other entry is a fault."""
    targets = config.get("target_modules")
    if "target_modules" not in config:
        return frozenset()
    if not isinstance(targets, list) or not targets:
        faults.add("target_modules to be a list of module names", shown(targets), _TODO_TARGETS)
        return frozenset()
    good = frozenset(name for name in targets if isinstance(name, str) and name in known)
    for name in targets:
        if not isinstance(name, str) or name not in good:
            faults.add("target_modules to hold only " + ", ".join(sorted(known)), shown(name), _TODO_TARGETS)
    return good
