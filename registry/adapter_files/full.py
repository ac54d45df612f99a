"""Which tensors a full fine-tune holds: exactly those of its base's model, in its base's shapes, of the dtype that its config states.

A loader fills a missing tensor with random numbers and leaves out what it does not know, with a warning at most; so the key set must be exact. The
formulas were read in transformers 5.23 (models/*/modeling_*.py) and are asserted against real tiny models in the tests.

What it does not see: a square matrix that was transposed, tensors of one shape that changed places, and whether the weights differ from the base's beyond
the digest of the file (a copy of the base under another header or dtype passes); evaluation measures all three.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from registry.adapter_files.cards import BLOCK, BaseCard
from registry.adapter_files.full_config import FULL_CONFIG_FILE, FullClaims, effective
from registry.adapter_files.header import Tensor
from registry.adapter_files.words import Faults, shown

_EMBEDDINGS, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_LAYER = re.compile(r"model\.layers\.(0|[1-9][0-9]{0,2})\.[a-z_.]{1,60}")
_ATTENTION, _MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
_SAVE_ALL = "Save the whole model with save_pretrained."
_OTHER_BASE = "It is no fine-tune of this base: register it under the base it was trained on."


def model_tensors(card: BaseCard, settings: Mapping[str, Any] | None = None) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the card's model, as transformers saves it; lm_head is left out where it is tied to the embeddings.

    `settings` are those of `full_config.effective`, where they are at hand. Raises KeyError where the card's config lacks a size.
    """
    settings = effective(card.config, Faults(FULL_CONFIG_FILE)) if settings is None else settings
    vocabulary, hidden = settings["vocab_size"], settings["hidden_size"]
    tensors: dict[str, tuple[int, ...]] = {_EMBEDDINGS: (vocabulary, hidden), "model.norm.weight": (hidden,)}
    if not settings["tie_word_embeddings"]:
        tensors[_HEAD] = (vocabulary, hidden)
    biased = _biased(settings)
    for layer in range(card.layers):
        place = f"model.layers.{layer}"
        tensors |= {f"{place}.input_layernorm.weight": (hidden,), f"{place}.post_attention_layernorm.weight": (hidden,)}
        for leaf, (features_in, features_out) in card.modules.items():
            tensors[f"{place}.{BLOCK[leaf]}.{leaf}.weight"] = (features_out, features_in)
            if leaf in biased:
                tensors[f"{place}.{BLOCK[leaf]}.{leaf}.bias"] = (features_out,)
    return tensors


def _biased(settings: Mapping[str, Any]) -> frozenset[str]:
    """The modules that add a bias: q, k and v in Qwen 2; in Llama those that its config says."""
    if settings["model_type"] == "qwen2":
        return frozenset({"q_proj", "k_proj", "v_proj"})
    attention = _ATTENTION if settings.get("attention_bias") else ()
    return frozenset(attention + (_MLP if settings.get("mlp_bias") else ()))


def check_tensors(tensors: Sequence[Tensor], claims: FullClaims, faults: Faults) -> None:
    """Hold names, shapes and dtypes against what the claims expect; every fault is noted."""
    _check_dtypes(tensors, claims.dtype, faults)
    if claims.card is None:
        return
    try:
        wanted = model_tensors(claims.card, None if claims.of_base else claims.settings)
    except KeyError as error:
        whose = "base's config to state" if claims.of_base else "config.json to state"
        faults.add(f"the {whose} every size", f"no usable {error.args[0]}", "Register the base with its own config.json.")
        return
    whose = "as the base has" if claims.of_base else "as config.json says"
    found = {tensor.name: tensor for tensor in tensors}
    _check_names(found.keys() - wanted.keys(), wanted.keys() - found.keys(), claims.card.layers, whose, faults)
    for name in sorted(wanted.keys() & found.keys()):
        _check_shape(found[name], wanted[name], whose, faults)


def check_numbers(tensors: Sequence[Tensor], largest: Mapping[str, float], faults: Faults) -> None:
    """A matrix or a norm that is all zero answers nothing; a bias may be. `largest` has the largest magnitude in each tensor."""
    for tensor in tensors:
        if largest[tensor.name] == 0 and not tensor.name.endswith(".bias"):
            faults.add(
                "matrices and norms that are not all zero", shown(tensor.name), "The model answers nothing with it: " + _SAVE_ALL.lower()
            )


def _check_dtypes(tensors: Sequence[Tensor], dtype: str, faults: Faults) -> None:
    """Without a usable dtype in the config, most tensors decide."""
    stated = bool(dtype)
    dtype = dtype or Counter(tensor.dtype for tensor in tensors).most_common(1)[0][0]
    for tensor in (t for t in tensors if t.dtype != dtype):
        why = "as config.json says" if stated else "as most of them are"
        faults.add(
            f"every tensor in {dtype}, {why}",
            f"{tensor.dtype} in {shown(tensor.name)}",
            "Save the model in one dtype, and its config with it.",
        )


def _check_names(surplus: set[str], missing: set[str], layers: int, whose: str, faults: Faults) -> None:
    gone = {layer for layer in range(layers) if f"model.layers.{layer}.input_layernorm.weight" in missing}
    for layer in sorted(gone):
        faults.add(f"all {layers} layers, {whose}", f"no layer {layer}", _SAVE_ALL)
    for name in sorted(missing):
        if _layer(name) in gone:
            continue
        if name == _HEAD:
            faults.add(f"{_HEAD}, because tie_word_embeddings is false", "none", _SAVE_ALL)
        else:
            faults.add(f"every tensor of the model, {whose}", f"no {name}", _SAVE_ALL)
    for rule, found, todo in _surplus(sorted(surplus), layers, whose):
        faults.add(rule, found, todo)


def _surplus(names: Sequence[str], layers: int, whose: str) -> Iterator[tuple[str, str, str]]:
    """The rule that each surplus tensor breaks; one entry for each layer that there should not be."""
    beyond: set[int] = set()
    for name in names:
        layer = _layer(name)
        if ".lora_" in name or ".lora." in name:
            yield (
                "the tensors of a whole model",
                shown(name),
                "It is an adapter: send it as adapter_model.safetensors with adapter_config.json.",
            )
        elif layer is not None and layer >= layers:
            if layer not in beyond:
                yield f"layers 0 to {layers - 1}, {whose}", f"layer {layer}", _OTHER_BASE
            beyond.add(layer)
        elif name == _HEAD:
            yield f"no {_HEAD}, because tie_word_embeddings is true", "one", "Save the model with its embeddings tied."
        else:
            yield "only tensors of the base's model", shown(name), "Loaders leave it out in silence: save the causal language model itself."


def _layer(name: str) -> int | None:
    match = _LAYER.fullmatch(name)
    return int(match[1]) if match is not None else None


def _check_shape(tensor: Tensor, wanted: tuple[int, ...], whose: str, faults: Faults) -> None:
    if tensor.shape == wanted:
        return
    leaf = ".".join(tensor.name.split(".")[-2:])
    place = f"{_sizes(tensor.shape)} in {shown(tensor.name)}"
    if tensor.shape == wanted[::-1]:
        faults.add(f"{leaf} of {_sizes(wanted)}, rows first, {whose}", f"it transposed: {place}", "Save the model with save_pretrained.")
    elif tensor.name in {_EMBEDDINGS, _HEAD} and tensor.shape[1:] == wanted[1:]:
        faults.add(
            f"a vocabulary of {wanted[0]} tokens, {whose}", f"{tensor.shape[0]} in {shown(tensor.name)}", "Train without adding tokens."
        )
    else:
        faults.add(f"{leaf} of {_sizes(wanted)}, {whose}", place, _OTHER_BASE)


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
