"""What may stand in the config.json of a full fine-tune, and the one way it is written.

A fine-tune changes weights and nothing else, so every setting that has a meaning must be the base's own: sizes, positions, rotary embedding, biases,
tied embeddings, tokens that end an answer. Only the dtype and the padding token are its own. Keys that could make a loader run code, fetch something or read
the weights otherwise are refused by name, and so is every key that is not known here.

Two spellings of one setting are one value: a key left out is its default in transformers 5.23 (models/*/configuration_*.py), `rope_parameters` is
`rope_theta` with `rope_scaling`, `dtype` is `torch_dtype`. The canonical form takes the older spelling, which transformers 4 and 5, vLLM and converters all
read; transformers 4 would overlook `rope_parameters` and answer with another rotation. There is no standard key for the base that a model was tuned
from (`_name_or_path` is where it was loaded from), so the base is pinned by the version's manifest alone.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from registry.adapter_files.cards import CAUSAL, BaseCard, base_card_from_config, head_size, kv_heads
from registry.adapter_files.strict_json import load_object
from registry.adapter_files.words import Faults, sentence, shown
from registry.errors import Invalid
from registry.manifest import canonical

FULL_CONFIG_FILE = "config.json"
# transformers' name of a dtype -> safetensors' name
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

_OTHER_BASE = "A full fine-tune keeps all settings of its base: register it under the base it was trained on."
_AS_SAVED = "Take the value that save_pretrained wrote."
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+@_-]{0,63}")
_LARGEST = 2**31 - 1
_LONGEST_LIST = 4096  # long rope factors have one number per pair of head dimensions; eos_token_id has a few


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and abs(value) <= _LARGEST  # NaN and infinity fail the comparison


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 1 <= value <= _LARGEST


def _is_token(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _LARGEST


def _is_token_or_none(value: Any) -> bool:
    return value is None or _is_token(value)


def _is_eos(value: Any) -> bool:
    return _is_token_or_none(value) or (isinstance(value, list) and 0 < len(value) <= _LONGEST_LIST and all(map(_is_token, value)))


def _is_rate(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


def _is_true_or_false(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count_or_none(value: Any) -> bool:
    return value is None or _is_count(value)


def _is_activation(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[a-z0-9_]{1,40}", value) is not None


@dataclass(frozen=True)
class Setting:
    """A setting of an architecture: its default in transformers 5.23, and what a value must be."""

    default: Any
    fits: Callable[[Any], bool]
    words: str


def _count(default: int | None) -> Setting:
    return Setting(default, _is_count, "a whole number from 1")


def _number(default: float) -> Setting:
    return Setting(default, _is_number, "a number")


def _rate(default: float) -> Setting:
    return Setting(default, _is_rate, "a number from 0 to below 1")


def _switch() -> Setting:
    return Setting(default=False, fits=_is_true_or_false, words="true or false")


def _window(default: int | None) -> Setting:
    return Setting(default, _is_count_or_none, "a whole number from 1 or null")


def _common(vocabulary: int, positions: int, epsilon: float, tokens: tuple[int | None, int | None, int | None]) -> dict[str, Setting]:
    """What all four have; `tokens` are the defaults of bos, eos and pad. The sizes without a default are required by the card."""
    begin, end, pad = tokens
    return {
        "vocab_size": _count(vocabulary),
        "hidden_size": _count(None),
        "intermediate_size": _count(None),
        "num_hidden_layers": _count(None),
        "num_attention_heads": _count(None),
        "hidden_act": Setting("silu", _is_activation, "the name of an activation"),
        "max_position_embeddings": _count(positions),
        "initializer_range": _rate(0.02),
        "rms_norm_eps": _number(epsilon),
        "tie_word_embeddings": _switch(),
        "attention_dropout": _rate(0.0),
        "bos_token_id": Setting(begin, _is_token_or_none, "a token's number or null"),
        "eos_token_id": Setting(end, _is_eos, "a token's number, a list of them, or null"),
        "pad_token_id": Setting(pad, _is_token_or_none, "a token's number or null"),
    }


SETTINGS: Mapping[str, Mapping[str, Setting]] = {
    "mistral": _common(32000, 131072, 1e-6, (1, 2, None)) | {"sliding_window": _window(4096)},
    "llama": _common(32000, 2048, 1e-6, (1, 2, None)) | {"attention_bias": _switch(), "mlp_bias": _switch(), "pretraining_tp": _count(1)},
    "qwen2": _common(151936, 32768, 1e-6, (None, None, None))
    | {
        "use_sliding_window": _switch(),
        "sliding_window": _window(4096),
        "max_window_layers": Setting(28, _is_token, "a whole number from 0"),
    },
    "phi3": _common(32064, 4096, 1e-5, (1, 32000, 32000))
    | {
        "sliding_window": _window(None),
        "resid_pdrop": _rate(0.0),
        "embd_pdrop": _rate(0.0),
        "original_max_position_embeddings": _count(4096),
    },
}
# A fine-tune may pad with another token than its base did: padding is masked. All else must be the base's.
_OWN = frozenset({"pad_token_id"})
# Settings of transformers' base class, at their defaults, and what does not change an answer. They fall away.
HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "use_cache": (True, False),  # trainers switch it off; the canonical form says true
    "return_dict": (True,),
    "output_hidden_states": (False,),
    "output_attentions": (False,),
    "chunk_size_feed_forward": (0,),
    "is_encoder_decoder": (False,),
    "problem_type": (None,),
    "attention_bias": (False,),  # Phi-4's config states it, although its architecture has none
    "mlp_bias": (False,),
    "sliding_window": (None,),
}
_CODE = "It can make a loader run or fetch code: leave it out."
_QUANTISED = "It says that the weights are not the model's own: save the model without quantisation."
# Keys that some loader acts on, by what they could do (reference/training.md, section 6: CVE-2026-22807, CVE-2026-4372).
FORBIDDEN: Mapping[str, str] = {
    "auto_map": _CODE,
    "trust_remote_code": _CODE,
    "custom_pipelines": _CODE,
    "attn_implementation": _CODE,
    "_attn_implementation": _CODE,
    "_attn_implementation_internal": _CODE,
    "experts_implementation": _CODE,
    "_experts_implementation_internal": _CODE,
    "quantization_config": _QUANTISED,
    "compression_config": _QUANTISED,
    "per_layer_config": "It gives single layers other settings than the base has: leave it out.",
    "base_model_name_or_path": "It belongs to an adapter: register a full fine-tune under its base, and an adapter under adapter_config.json.",
    "peft_type": "It belongs to an adapter: send the model's own config.json.",
}
_ROTARY = frozenset({"rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"})
_KNOWN = frozenset({"model_type", "architectures", "head_dim", "num_key_value_heads", "dtype", "torch_dtype"}) | _ROTARY
_NOTED = frozenset({"transformers_version", "_name_or_path"})

_DEFAULT_THETA = 10000.0  # transformers 5.23, modeling_rope_utils.RotaryEmbeddingConfigMixin.default_theta
_ROPE_NUMBERS = frozenset(
    {
        "rope_theta",
        "partial_rotary_factor",
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "low_freq_factor",
        "high_freq_factor",
    }
)
_ROPE_LISTS = frozenset({"short_factor", "long_factor"})
_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "su")
_WITH_ORIGINAL = frozenset({"llama3", "yarn", "longrope"})


@dataclass(frozen=True)
class FullClaims:
    """What a config says of its model: the settings as they work, the dtype in safetensors' word, and the card to hold the tensors against.

    `card` is None and `dtype` empty where nothing usable was stated. `of_base` tells whether the card is the registered base's.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = ""
    card: BaseCard | None = None
    of_base: bool = False


def read_full_config(path: Path) -> dict[str, Any]:
    """The object in a config.json whose size was checked before. Raises Invalid when it is not strict JSON (UTF-8, no key twice, no NaN)."""
    try:
        return load_object(path.read_bytes())
    except ValueError as error:
        raise Invalid(sentence(FULL_CONFIG_FILE, "one JSON object", str(error), "Send the file as save_pretrained wrote it.")) from None


def examine_full(config: Mapping[str, Any], base: BaseCard | None, faults: Faults) -> FullClaims:
    """Note every fault of `config` in `faults`; return what it claims. With a shaped base, every setting is held against the base's own."""
    kind = _model_type(config, base, faults)
    _check_keys(config, kind, base, faults)
    dtype = _dtype(config, faults)
    if kind is None:
        return FullClaims(dtype=dtype)
    of_base = base is not None and base.shaped
    found = effective(config, faults)
    if base is not None and of_base:
        _compare(found, effective(base.config, Faults(FULL_CONFIG_FILE)), faults)
    _check_padding(found, faults)
    return FullClaims(found, dtype, base if of_base else _own_card(config, base, faults), of_base)


def canonical_full_config(config: Mapping[str, Any], base: BaseCard | None) -> bytes:
    """The RFC 8785 bytes under which this config.json is stored: every setting spelled out, in the spelling that all loaders read.

    Idempotent, and the same for every order of keys and every spelling of one setting. Raises Invalid that lists every fault.
    """
    faults = Faults(FULL_CONFIG_FILE)
    claims = examine_full(config, base, faults)
    if faults:
        raise Invalid("\n".join(faults.sentences()), hint="Correct the config and send it again; nothing was stored.")
    dtype = next(name for name, code in DTYPES.items() if code == claims.dtype)
    settings = {key: value for key, value in claims.settings.items() if not (key == "partial_rotary_factor" and value == 1)}
    return canonical({**settings, "torch_dtype": dtype, "use_cache": True})


def tuned_config(base: BaseCard, dtype: str) -> bytes:
    """The canonical config.json of a full fine-tune of `base` in a dtype (float32, bfloat16 or float16), for whoever writes one.

    Raises Invalid where the base's architecture has no card, so that it can be asked before a training.
    """
    kind = base.config.get("model_type")
    if not base.shaped or kind not in CAUSAL:
        raise Invalid(
            f"Full fine-tunes of {shown(base.repo)} cannot be checked, because its architecture is none of {', '.join(CAUSAL)}.",
            hint="Train an adapter: --method lora or qlora.",
        )
    kept = SETTINGS[kind].keys() | _ROTARY | {"head_dim", "num_key_value_heads"} | ({"layer_types"} if kind == "qwen2" else set())
    own = {key: value for key, value in base.config.items() if key in kept}
    return canonical_full_config({**own, "model_type": kind, "architectures": [CAUSAL[kind]], "dtype": dtype}, base)


def effective(config: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
    """Every setting of a model of a known type as transformers 5.23 understands it, in the canonical spelling.

    What cannot be a setting's value is noted in `faults` and left out.
    """
    kind = config["model_type"]
    values = {"model_type": kind, "architectures": [CAUSAL[kind]]}
    for key, setting in SETTINGS[kind].items():
        value = config.get(key, setting.default)
        if setting.fits(value):
            values[key] = value
        else:
            faults.add(f"{key} to be {setting.words}", shown(value) if key in config else "none", _AS_SAVED)
    values |= _heads(config, values, faults)
    if kind == "qwen2" and values.keys() >= {"use_sliding_window", "sliding_window", "max_window_layers", "num_hidden_layers"}:
        values |= _attention_kinds(config, values, faults)
    return values | _rotary(config, values, faults)


def _heads(config: Mapping[str, Any], values: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
    """The width of a head and the number of key and value heads, which may follow from the others."""
    if not values.keys() >= {"hidden_size", "num_attention_heads"}:
        return {}
    heads = values["num_attention_heads"]
    try:
        return {
            "head_dim": head_size(config, values["hidden_size"], heads, "this upload"),
            "num_key_value_heads": kv_heads(config, values["model_type"], heads, "this upload"),
        }
    except Invalid as error:
        faults.add("sizes that make a model", error.message.removesuffix("."), _AS_SAVED)
        return {}


def _attention_kinds(config: Mapping[str, Any], values: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
    """Qwen 2 may look back through a window in its upper layers; without use_sliding_window it does not, whatever sliding_window says."""
    window = values["sliding_window"] if values["use_sliding_window"] else None
    layers, lowest = values["num_hidden_layers"], values["max_window_layers"]
    kinds = ["sliding_attention" if window is not None and layer >= lowest else "full_attention" for layer in range(min(layers, 1000))]
    given = config.get("layer_types")
    if given is not None and given != kinds:
        faults.add("layer_types to follow from use_sliding_window and max_window_layers", shown(given), "Leave it out.")
    return {"sliding_window": window, "layer_types": kinds}


def _rotary(config: Mapping[str, Any], values: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
    """rope_theta, rope_scaling and partial_rotary_factor, from whichever spelling (as PreTrainedConfig.convert_rope_params_to_dict reads them)."""
    given, kind = _rope_given(config, faults), values["model_type"]
    theta = given.get("rope_theta", config.get("rope_theta", _DEFAULT_THETA))
    partial = given.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    for key, value in (("rope_theta", theta), ("partial_rotary_factor", partial)):
        if not _is_number(value) or value <= 0:
            faults.add(f"{key} to be a number above 0", shown(value), _AS_SAVED)
    scaling = {key: value for key, value in given.items() if key not in {"rope_theta", "partial_rotary_factor", "type", "rope_type"}}
    rope = given.get("rope_type", given.get("type", "default"))
    if kind == "phi3" and rope in {"su", "yarn"}:
        rope = "longrope"
    if kind == "phi3" and rope in _WITH_ORIGINAL:
        scaling["original_max_position_embeddings"] = values.get("original_max_position_embeddings")
    elif rope in _WITH_ORIGINAL:
        scaling.setdefault("original_max_position_embeddings", values.get("max_position_embeddings"))
    scaled = {"rope_type": rope, **scaling} if rope != "default" or scaling else None
    return {"rope_theta": theta, "rope_scaling": scaled, "partial_rotary_factor": partial}


def _rope_given(config: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
    """The rotary settings that stand in an object; what cannot be one is noted and left out."""
    spellings = [config[key] for key in ("rope_scaling", "rope_parameters") if config.get(key)]
    if len(spellings) > 1:
        faults.add("either rope_scaling or rope_parameters", "both", "They are two spellings of one setting: leave one out.")
    given = spellings[0] if spellings else {}
    if not isinstance(given, dict):
        faults.add("rope_scaling and rope_parameters to be objects or null", shown(given), _AS_SAVED)
        return {}
    good = {key: value for key, value in given.items() if _rope_entry(key, value)}
    for key in (key for key in given if key not in good):
        faults.add("only rotary settings that transformers knows", f"{shown(key)} {shown(given[key])}", _AS_SAVED)
    return good


def _rope_entry(key: Any, value: Any) -> bool:
    if key in {"rope_type", "type"}:
        return isinstance(value, str) and value in _ROPE_TYPES
    if key in _ROPE_LISTS:
        return isinstance(value, list) and 0 < len(value) <= _LONGEST_LIST and all(map(_is_number, value))
    return isinstance(value, bool) if key == "truncate" else key in _ROPE_NUMBERS and _is_number(value)


def _model_type(config: Mapping[str, Any], base: BaseCard | None, faults: Faults) -> str | None:
    """The architecture, once it is a known one, the base's, and spelled the same in both keys."""
    kind = config.get("model_type")
    known = ", ".join(CAUSAL)
    if not isinstance(kind, str) or kind not in CAUSAL:
        faults.add(
            f"model_type to be one of {known}",
            shown(kind),
            "Full fine-tunes of other architectures cannot be checked here: train an adapter.",
        )
        return None
    if config.get("architectures") != [CAUSAL[kind]]:
        faults.add(f"architectures to be ['{CAUSAL[kind]}']", shown(config.get("architectures")), "Save the causal language model itself.")
    if base is None or not base.shaped:
        return kind
    if kind != base.config.get("model_type"):
        faults.add(f"model_type to be {shown(base.config.get('model_type'))}, as the base has", shown(kind), _OTHER_BASE)
        return None
    return kind


def _check_keys(config: Mapping[str, Any], kind: str | None, base: BaseCard | None, faults: Faults) -> None:
    settings = SETTINGS.get(kind or "", {})
    any_kind = frozenset().union(*SETTINGS.values()) | {"layer_types"}  # without a kind, one sentence about it is enough
    for key in config:
        if key in FORBIDDEN:
            faults.add(f"no {key}", shown(config[key]), FORBIDDEN[key])
        elif key in settings or key in _KNOWN or key in _NOTED or (key == "layer_types" and kind == "qwen2"):
            continue
        elif key in HARMLESS:
            _check_harmless(key, config[key], faults)
        elif kind is not None or key not in any_kind:
            faults.add("only settings of the base's architecture", f"the key {shown(key)}", "Leave it out: another loader might act on it.")
    _check_noted(config, base, faults)


def _check_harmless(key: str, value: Any, faults: Faults) -> None:
    if not any(type(value) is type(allowed) and value == allowed for allowed in HARMLESS[key]):
        faults.add(f"{key} to be {' or '.join(map(shown, HARMLESS[key]))}", shown(value), "Leave it out.")


def _check_noted(config: Mapping[str, Any], base: BaseCard | None, faults: Faults) -> None:
    version, name = config.get("transformers_version"), config.get("_name_or_path")
    if version is not None and not (isinstance(version, str) and _VERSION.fullmatch(version)):
        faults.add("transformers_version to be a version such as 5.23.0", shown(version), "Leave it out.")
    if not (name is None or name == "" or (base is not None and name == base.repo)):
        wanted = f"the registered base {shown(base.repo)}" if base is not None else "empty"
        faults.add(f"_name_or_path to be {wanted} or left out", shown(name), "A path or another model's name never enters: leave it out.")


def _dtype(config: Mapping[str, Any], faults: Faults) -> str:
    """The dtype in safetensors' word; empty where it is not usable."""
    names = [config[key] for key in ("dtype", "torch_dtype") if config.get(key) is not None]
    if len(names) == 1 and isinstance(names[0], str) and names[0] in DTYPES:
        return DTYPES[names[0]]
    if len(names) == 2 and names[0] == names[1] and isinstance(names[0], str) and names[0] in DTYPES:
        return DTYPES[names[0]]
    faults.add(
        f"dtype to be {', '.join(DTYPES)}", " and ".join(map(shown, names)) or "none", "State the dtype that the tensors are stored in."
    )
    return ""


def _compare(found: Mapping[str, Any], wanted: Mapping[str, Any], faults: Faults) -> None:
    """What is in both; what is missing in one was no usable value."""
    for key in sorted(found.keys() & wanted.keys() - _OWN):
        if not _equal(found[key], wanted[key]):
            faults.add(f"{key} to be {shown(wanted[key])}, as the base has", shown(found[key]), _OTHER_BASE)


def _equal(found: Any, wanted: Any) -> bool:
    """Equal as JSON numbers are (1e6 is 1000000), but true is no 1."""
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)


def _check_padding(values: Mapping[str, Any], faults: Faults) -> None:
    pad, size = values.get("pad_token_id"), values.get("vocab_size")
    if _is_token(pad) and _is_count(size) and pad >= size:
        faults.add(f"pad_token_id to be below the vocabulary's size of {size}", shown(pad), "Pad with a token that the base has.")


def _own_card(config: Mapping[str, Any], base: BaseCard | None, faults: Faults) -> BaseCard | None:
    """The card of the model itself, where its base has none."""
    try:
        return base_card_from_config(config, base.repo if base is not None else "the upload", None)
    except Invalid as error:
        faults.add("sizes that make a model", error.message.removesuffix("."), _AS_SAVED)
        return None
