"""The gate: what may enter as a LoRA adapter.

Serving engines are no gate. Of fifteen broken adapters vLLM accepted seven with HTTP 200, and one with a NaN spoiled the answers of the base model for
everyone (reference/training.md, 2.5); PEFT loads a config that hangs it, and one that rewrites the base's own weights (section 6). So every upload, every
training result and every import passes here first.

The rules, one room each:
  upload.py   only three files enter: safetensors weights, the config, a README; each has a size cap
  header.py   the safetensors header is strict JSON and accounts for every byte of the file
  config.py   a config key is free within a range, or fixed to a harmless default, or refused; the base is the registered one
  cards.py    what is known of a base: its modules, their shapes, its layers
  layout.py   the key set is exact: every target in every layer, A and B paired, rank and shapes as stated
  values.py   every number is finite and fits half precision, and the whole is not a no-op

Every problem is found in one pass, and each is one sentence: what was expected, what was found, what to do.

What the gate does not know: whether the adapter is any good or unusually strong (evaluation says that), whether the bytes are the ones that were announced (the
artifact store compares digests), and full fine-tunes, which are another kind. It is pure and loads no torch; it reads only the paths it is given.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.adapter_files.cards import BaseCard, base_card_from_config
from registry.adapter_files.config import CONFIG_FILE, MAX_RANK, Claims, canonical_config, examine, read_config
from registry.adapter_files.header import WEIGHTS_FILE, read_header
from registry.adapter_files.layout import check_shapes, read_pairs, without_effect
from registry.adapter_files.upload import ALLOWED_FILES, MAX_WEIGHTS_BYTES, REQUIRED_FILES, check_files, unreadable
from registry.adapter_files.values import magnitudes
from registry.adapter_files.words import Faults
from registry.errors import Invalid

__all__ = [
    "ALLOWED_FILES",
    "MAX_RANK",
    "MAX_WEIGHTS_BYTES",
    "REQUIRED_FILES",
    "AdapterFacts",
    "BaseCard",
    "base_card_from_config",
    "canonical_config",
    "check_adapter",
    "problems",
    "read_config",
]

_NOTHING_CLAIMED = Claims(rank=0, alpha=0, dropout=0, rslora=False, targets=frozenset())


@dataclass(frozen=True)
class AdapterFacts:
    """What an accepted adapter is. `idle_pairs` of its pairs change nothing because one half is all zero; `shapes_known` tells whether a base's card was at hand."""

    rank: int
    alpha: float
    dropout: float
    rslora: bool
    target_modules: tuple[str, ...]
    layers: int
    parameters: int
    dtypes: tuple[str, ...]
    weights_bytes: int
    idle_pairs: int
    shapes_known: bool


def check_adapter(files: Mapping[str, Path], base: BaseCard | None) -> AdapterFacts:
    """The facts of an adapter that may enter; raises Invalid with every problem otherwise.

    `files` maps the names inside the adapter's folder to where they lie. `base` is the registered base: `base_card_from_config(...)`, or `BaseCard(repo,
    revision)` for an architecture without a card. With None not even the base's name is checked.
    """
    sentences, facts = _inspect(files, base)
    if facts is None:
        count = "" if len(sentences) == 1 else f" for {len(sentences)} reasons"
        raise Invalid(
            "\n".join([f"This adapter is refused{count}.", *sentences]),
            hint="Correct each point and send the files again; nothing was stored.",
        )
    return facts


def problems(files: Mapping[str, Path], base: BaseCard | None) -> list[str]:
    """Every problem of an adapter, a sentence each; empty when it may enter. Never raises for what the files hold."""
    return _inspect(files, base)[0]


def _inspect(files: Mapping[str, Path], base: BaseCard | None) -> tuple[list[str], AdapterFacts | None]:
    """All the problems and, when there are none, the facts."""
    sentences, good = check_files(files)
    claims = _NOTHING_CLAIMED
    if CONFIG_FILE in good:
        found, claims = _inspect_config(good[CONFIG_FILE], base)
        sentences += found
    if WEIGHTS_FILE not in good:
        return sentences, None
    found, facts = _inspect_weights(good[WEIGHTS_FILE], claims, base)
    sentences += found
    return sentences, None if sentences else facts


def _inspect_config(path: Path, base: BaseCard | None) -> tuple[list[str], Claims]:
    faults = Faults(CONFIG_FILE)
    try:
        claims = examine(read_config(path), base, faults)
    except Invalid as error:
        return [error.message], _NOTHING_CLAIMED
    except OSError as error:
        return [unreadable(CONFIG_FILE, error)], _NOTHING_CLAIMED
    return faults.sentences(), claims


def _inspect_weights(path: Path, claims: Claims, base: BaseCard | None) -> tuple[list[str], AdapterFacts | None]:
    faults = Faults(WEIGHTS_FILE)
    try:
        header = read_header(path, faults)
        if header is None:
            return faults.sentences(), None
        pairs = read_pairs(header.tensors, claims, base, faults)
        check_shapes(pairs, claims, base, faults)
        largest = magnitudes(path, header, faults)
        size = path.stat().st_size
    except OSError as error:
        return [*faults.sentences(), unreadable(WEIGHTS_FILE, error)], None
    idle = without_effect(pairs, largest, faults)
    facts = AdapterFacts(
        rank=claims.rank,
        alpha=claims.alpha,
        dropout=claims.dropout,
        rslora=claims.rslora,
        target_modules=tuple(sorted(claims.targets)),
        layers=len({pair.place.layer for pair in pairs}),
        parameters=sum(tensor.shape[0] * tensor.shape[1] for tensor in header.tensors),
        dtypes=tuple(sorted({tensor.dtype for tensor in header.tensors})),
        weights_bytes=size,
        idle_pairs=idle,
        shapes_known=base is not None and base.shaped,
    )
    return faults.sentences(), facts
