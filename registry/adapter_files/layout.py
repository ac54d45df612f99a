"""Which tensors an adapter holds: their names, their pairs, their layers and their shapes, against the config and the base's card.

vLLM loads what it recognises and ignores the rest: a wrong prefix serves the bare base, a surplus layer index is applied in part, another rank than the
config's is scaled wrongly, all with HTTP 200 (reference/training.md, 2.5). So the key set must be exact: every layer, both halves, nothing else.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from registry.adapter_files.cards import BLOCK, BaseCard, known_modules
from registry.adapter_files.config import Claims
from registry.adapter_files.header import Tensor
from registry.adapter_files.words import Faults, shown

_NAME = re.compile(r"base_model\.model\.model\.layers\.(0|[1-9][0-9]{0,2})\.(self_attn|mlp)\.([a-z_]{1,40})\.lora_([AB])\.weight")
# Half of the smallest float16: at or below it a value becomes 0 when an engine casts the adapter.
ROUNDS_TO_ZERO = 2.0**-25
_EXAMPLE = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
_OTHER_BASE = "It was trained on another base: register it under that one."
_ONE_TRAINING = "Send the config and the weights of one training."
_RETRAIN = "Train again, or send the file as save_pretrained wrote it."


@dataclass(frozen=True, order=True)
class Place:
    """One adapted module: its layer and its leaf name."""

    layer: int
    leaf: str

    def __str__(self) -> str:
        return f"layer {self.layer} {self.leaf}"


@dataclass(frozen=True)
class Pair:
    """The two halves at one place: A of (rank, in), B of (out, rank)."""

    place: Place
    a: Tensor
    b: Tensor


def read_pairs(tensors: Iterable[Tensor], claims: Claims, base: BaseCard | None, faults: Faults) -> list[Pair]:
    """The pairs of A and B, once every name was held against the targets and the base's layers; the faults are noted."""
    halves = _named(list(tensors), known_modules(base), faults)
    if halves:  # otherwise one sentence about the names says it all
        _check_targets({place.leaf for place, _ in halves}, claims, faults)
        _check_layers({place for place, _ in halves}, base, faults)
    return _paired(halves, faults)


def check_shapes(pairs: Sequence[Pair], claims: Claims, base: BaseCard | None, faults: Faults) -> None:
    """Hold every pair against the config's rank and the base's shapes; without a card, against the most common shape of the same module."""
    card = base if base is not None and base.shaped else None
    rank = claims.rank or _most_common(pair.a.shape[0] for pair in pairs)
    shapes = card.modules if card is not None else _own_shapes(pairs)
    for pair in pairs:
        _check_rank(pair, rank, faults, stated=claims.rank > 0)
        _check_features(pair, shapes, faults, known=card is not None)


def without_effect(pairs: Sequence[Pair], largest: Mapping[str, float], faults: Faults) -> int:
    """How many pairs change nothing because A or B rounds to zero; a fault when that holds for every one.

    `largest` has the largest magnitude in each tensor. A single idle pair may be honest: its gradient was zero.
    """
    idle = [pair for pair in pairs if min(largest[pair.a.name], largest[pair.b.name]) <= ROUNDS_TO_ZERO]
    if idle and len(idle) == len(pairs):
        faults.add(
            "an adapter that changes the base's answers",
            f"lora_B or lora_A all zero in each of its {len(pairs)} pairs",
            "It is a no-op: train for at least one step at a learning rate above 0.",
        )
    return len(idle)


def _named(tensors: Sequence[Tensor], known: frozenset[str], faults: Faults) -> dict[tuple[Place, str], Tensor]:
    """The tensors whose names are exactly what PEFT writes for the base's modules, by place and half."""
    halves: dict[tuple[Place, str], Tensor] = {}
    for tensor in tensors:
        match = _NAME.fullmatch(tensor.name)
        if match is None or BLOCK.get(match[3], match[2]) != match[2]:
            faults.add(
                f"only tensor names of the form {_EXAMPLE}",
                shown(tensor.name),
                "Tensors of other names are not applied, so the bare base would answer: save with PEFT's save_pretrained.",
            )
        elif match[3] not in known:
            faults.add("tensors only for " + ", ".join(sorted(known)), match[3], _OTHER_BASE)
        else:
            halves[Place(int(match[1]), match[3]), match[4]] = tensor
    if not tensors:
        faults.add("LoRA tensors", "none", _RETRAIN)
    return halves


def _check_targets(leaves: set[str], claims: Claims, faults: Faults) -> None:
    """The modules in the file are those that target_modules lists."""
    if not claims.targets:
        return
    for leaf in sorted(leaves - claims.targets):
        faults.add("tensors only for modules that target_modules lists", leaf, _ONE_TRAINING)
    for leaf in sorted(claims.targets - leaves):
        faults.add("tensors for every module that target_modules lists", f"none for {leaf}", _ONE_TRAINING)


def _check_layers(places: set[Place], base: BaseCard | None, faults: Faults) -> None:
    """Every module is adapted in every layer from 0 to the last, and in no other."""
    card = base if base is not None and base.shaped else None
    layers = card.layers if card is not None else max(place.layer for place in places) + 1
    for layer in sorted({place.layer for place in places if place.layer >= layers}):
        faults.add(f"layers 0 to {layers - 1}, as the base has", f"layer {layer}", _OTHER_BASE)
    for leaf in sorted({place.leaf for place in places}):
        for place in (Place(layer, leaf) for layer in range(layers)):
            if place not in places:
                faults.add(
                    f"each module in all {layers} layers",
                    f"nothing for {place}",
                    "Engines would apply the rest in silence: adapt every layer.",
                )


def _check_rank(pair: Pair, rank: int, faults: Faults, *, stated: bool) -> None:
    ranks = {pair.a.shape[0], pair.b.shape[1]}
    if ranks != {rank}:
        faults.add(
            f"tensors of rank {rank}, as {'adapter_config.json says' if stated else 'most of them have'}",
            f"{' and '.join(map(str, sorted(ranks)))} in {pair.place}",
            "Under another rank an engine scales the adapter wrongly. " + _ONE_TRAINING,
        )


def _paired(halves: Mapping[tuple[Place, str], Tensor], faults: Faults) -> list[Pair]:
    pairs: list[Pair] = []
    for place in sorted({place for place, _ in halves}):
        a, b = halves.get((place, "A")), halves.get((place, "B"))
        if a is None or b is None:
            faults.add("lora_A and lora_B at each place", f"no lora_{'A' if a is None else 'B'} in {place}", _RETRAIN)
        else:
            pairs.append(Pair(place, a, b))
    return pairs


def _check_features(pair: Pair, shapes: Mapping[str, tuple[int, int]], faults: Faults, *, known: bool) -> None:
    """Hold in and out features against the shape of the module; modules that the base lacks were reported by name."""
    if pair.place.leaf not in shapes:
        return
    found, wanted = (pair.a.shape[1], pair.b.shape[0]), shapes[pair.place.leaf]
    if found != wanted:
        faults.add(
            f"{pair.place.leaf} to take {wanted[0]} values and give {wanted[1]}, as {'the base does' if known else 'most layers do'}",
            f"{found[0]} and {found[1]} in layer {pair.place.layer}",
            _OTHER_BASE,
        )


def _own_shapes(pairs: Iterable[Pair]) -> dict[str, tuple[int, int]]:
    """The most common (in, out) of each module in the file itself."""
    shapes: dict[str, list[tuple[int, int]]] = {}
    for pair in pairs:
        shapes.setdefault(pair.place.leaf, []).append((pair.a.shape[1], pair.b.shape[0]))
    return {leaf: Counter(found).most_common(1)[0][0] for leaf, found in shapes.items()}


def _most_common(values: Iterable[int]) -> int:
    return next((value for value, _ in Counter(values).most_common(1)), 0)
