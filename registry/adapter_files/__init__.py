"""The gate: what may enter as a LoRA adapter, or as a full fine-tune.

Serving engines are no gate. Of fifteen broken adapters vLLM accepted seven with HTTP 200, and one with a NaN spoiled the answers of the base model for
everyone (reference/training.md, 2.5); PEFT loads a config that hangs it, and one that rewrites the base's own weights (section 6). So every upload, every
training result and every import passes here first.

The rules, one room each:
  upload.py       only three files enter: safetensors weights, the config, a README; each has a size cap
  header.py       the safetensors header is strict JSON and accounts for every byte of the file
  config.py       an adapter's config: a key is free within a range, or fixed to a harmless default, or refused; the base is the registered one
  full_config.py  a whole model's config: every setting is its base's own
  cards.py        what is known of a base: its modules, their shapes, its layers
  layout.py       an adapter's key set is exact: every target in every layer, A and B paired, rank and shapes as stated
  full.py         a whole model's key set is exact: the tensors of its base's model, in their shapes
  values.py       every number is finite and fits half precision

An adapter that changes nothing is refused, and so is a file that is its base's own. The config is stored in its canonical form alone: `canonical` of the
facts is what it must be, byte for byte, and `rewritten_config` says whether it was something else.

Every problem is found in one pass, and each is one sentence: what was expected, what was found, what to do.

What the gate does not know: whether the adapter is any good or unusually strong (evaluation says that), whether the bytes are the ones that were announced (the
artifact store compares digests). It is pure and loads no torch; it reads only the paths it is given, in pieces, so memory does not grow with the file.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from registry.adapter_files.cards import BaseCard, base_card_from_config
from registry.adapter_files.config import CONFIG_FILE, MAX_RANK, Claims, canonical_config, examine, read_config
from registry.adapter_files.full import check_numbers, check_tensors, model_tensors
from registry.adapter_files.full_config import (
    FULL_CONFIG_FILE,
    FullClaims,
    canonical_full_config,
    examine_full,
    read_full_config,
    tuned_config,
)
from registry.adapter_files.header import WEIGHTS_FILE, Header, read_header
from registry.adapter_files.layout import check_shapes, read_pairs, without_effect
from registry.adapter_files.upload import (
    ALLOWED_FILES,
    FULL_FILES,
    FULL_WEIGHTS_FILE,
    MAX_WEIGHTS_BYTES,
    REQUIRED_FILES,
    check_files,
    unreadable,
)
from registry.adapter_files.values import magnitudes
from registry.adapter_files.words import Faults
from registry.errors import Invalid

__all__ = [
    "ALLOWED_FILES",
    "FULL_CONFIG_FILE",
    "FULL_FILES",
    "FULL_WEIGHTS_FILE",
    "MAX_RANK",
    "MAX_WEIGHTS_BYTES",
    "REQUIRED_FILES",
    "AdapterFacts",
    "BaseCard",
    "FullFacts",
    "base_card_from_config",
    "canonical_config",
    "canonical_full_config",
    "check_adapter",
    "check_full",
    "check_version_files",
    "full_problems",
    "model_tensors",
    "problems",
    "read_config",
    "read_full_config",
    "rewritten_config",
    "tuned_config",
]

_NOTHING_CLAIMED = Claims(rank=0, alpha=0, dropout=0, rslora=False, targets=frozenset())


@dataclass(frozen=True)
class AdapterFacts:
    """What an accepted adapter is.

    `idle_pairs` of its pairs change nothing because one half is all zero; `shapes_known` tells whether a base's card was at hand; `canonical` are the bytes
    under which its config is stored.
    """

    config_file: ClassVar[str] = CONFIG_FILE

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
    canonical: bytes


@dataclass(frozen=True)
class FullFacts:
    """What an accepted full fine-tune is; `shapes_known` and `canonical` as in AdapterFacts, `dtype` in safetensors' word."""

    config_file: ClassVar[str] = FULL_CONFIG_FILE

    model_type: str
    layers: int
    parameters: int
    dtype: str
    weights_bytes: int
    shapes_known: bool
    canonical: bytes


def check_adapter(files: Mapping[str, Path], base: BaseCard | None) -> AdapterFacts:
    """The facts of an adapter that may enter; raises Invalid with every problem otherwise.

    `files` maps the names inside the adapter's folder to where they lie. `base` is the registered base: `base_card_from_config(...)`, or `BaseCard(repo,
    revision)` for an architecture without a card. With None not even the base's name is checked.
    """
    sentences, facts = _inspect(files, base)
    if facts is None:
        raise _refused("This adapter", sentences)
    return facts


def check_full(files: Mapping[str, Path], base: BaseCard | None) -> FullFacts:
    """The facts of a full fine-tune that may enter; raises Invalid with every problem otherwise.

    As in `check_adapter`; a base without a card (or None) leaves the model to be held against its own config.json. Where the base's weights_sha256 is known, a
    file that has the same digest is refused, which takes another pass of sha256 over it.
    """
    sentences, facts = _inspect_full(files, base)
    if facts is None:
        raise _refused("This full fine-tune", sentences)
    return facts


def _refused(what: str, sentences: list[str]) -> Invalid:
    count = "" if len(sentences) == 1 else f" for {len(sentences)} reasons"
    return Invalid(
        "\n".join([f"{what} is refused{count}.", *sentences]), hint="Correct each point and send the files again; nothing was stored."
    )


def check_version_files(files: Mapping[str, Path], base: BaseCard | None) -> AdapterFacts | FullFacts:
    """Let the files of a version of either kind through the gate: an adapter, or a full fine-tune. Raises Invalid with every problem."""
    return check_full(files, base) if {FULL_WEIGHTS_FILE, FULL_CONFIG_FILE} & files.keys() else check_adapter(files, base)


def rewritten_config(files: Mapping[str, Path], facts: AdapterFacts | FullFacts) -> bytes | None:
    """The canonical bytes of an accepted version's config where its file says the same in other bytes; None where it is canonical. Raises OSError."""
    return None if files[facts.config_file].read_bytes() == facts.canonical else facts.canonical


def problems(files: Mapping[str, Path], base: BaseCard | None) -> list[str]:
    """Every problem of an adapter, a sentence each; empty when it may enter. Never raises for what the files hold."""
    return _inspect(files, base)[0]


def full_problems(files: Mapping[str, Path], base: BaseCard | None) -> list[str]:
    """Every problem of a full fine-tune, a sentence each; empty when it may enter. Never raises for what the files hold."""
    return _inspect_full(files, base)[0]


def _inspect(files: Mapping[str, Path], base: BaseCard | None) -> tuple[list[str], AdapterFacts | None]:
    """All the problems and, when there are none, the facts."""
    sentences, good = check_files(files)
    claims, canonical = _NOTHING_CLAIMED, b""
    if CONFIG_FILE in good:
        found, claims, canonical = _inspect_config(good[CONFIG_FILE], base)
        sentences += found
    if WEIGHTS_FILE not in good:
        return sentences, None
    found, facts = _inspect_weights(good[WEIGHTS_FILE], claims, base, canonical)
    sentences += found
    return sentences, None if sentences else facts


def _inspect_config(path: Path, base: BaseCard | None) -> tuple[list[str], Claims, bytes]:
    """The faults, the claims, and the canonical form where there is no fault."""
    faults = Faults(CONFIG_FILE)
    try:
        config = read_config(path)
        claims = examine(config, base, faults)
        if faults:
            return faults.sentences(), claims, b""
        repo, revision = (base.repo, base.revision) if base is not None else (config["base_model_name_or_path"], config.get("revision"))
        return [], claims, canonical_config(config, repo, revision)
    except Invalid as error:
        return [error.message], _NOTHING_CLAIMED, b""
    except OSError as error:
        return [unreadable(CONFIG_FILE, error)], _NOTHING_CLAIMED, b""


def _inspect_weights(path: Path, claims: Claims, base: BaseCard | None, canonical: bytes) -> tuple[list[str], AdapterFacts | None]:
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
        parameters=sum(math.prod(tensor.shape) for tensor in header.tensors),
        dtypes=tuple(sorted({tensor.dtype for tensor in header.tensors})),
        weights_bytes=size,
        idle_pairs=idle,
        shapes_known=base is not None and base.shaped,
        canonical=canonical,
    )
    return faults.sentences(), facts


def _inspect_full(files: Mapping[str, Path], base: BaseCard | None) -> tuple[list[str], FullFacts | None]:
    """All the problems of a full fine-tune and, when there are none, the facts."""
    sentences, good = check_files(files, FULL_FILES)
    claims, canonical = FullClaims(), b""
    if FULL_CONFIG_FILE in good:
        found, claims, canonical = _inspect_full_config(good[FULL_CONFIG_FILE], base)
        sentences += found
    if FULL_WEIGHTS_FILE not in good:
        return sentences, None
    faults = Faults(FULL_WEIGHTS_FILE)
    try:
        header = read_header(good[FULL_WEIGHTS_FILE], faults, vectors=True)
        if header is not None:
            _check_model(good[FULL_WEIGHTS_FILE], header, claims, base, faults)
        size = good[FULL_WEIGHTS_FILE].stat().st_size
    except OSError as error:
        return [*sentences, *faults.sentences(), unreadable(FULL_WEIGHTS_FILE, error)], None
    sentences += faults.sentences()
    if sentences or header is None or claims.card is None:
        return sentences, None
    parameters = sum(math.prod(tensor.shape) for tensor in header.tensors)
    model_type = claims.settings["model_type"]
    return [], FullFacts(model_type, claims.card.layers, parameters, claims.dtype, size, claims.of_base, canonical)


def _inspect_full_config(path: Path, base: BaseCard | None) -> tuple[list[str], FullClaims, bytes]:
    """As `_inspect_config`."""
    faults = Faults(FULL_CONFIG_FILE)
    try:
        config = read_full_config(path)
        claims = examine_full(config, base, faults)
        return faults.sentences(), claims, b"" if faults else canonical_full_config(config, base)
    except Invalid as error:
        return [error.message], FullClaims(), b""
    except OSError as error:
        return [unreadable(FULL_CONFIG_FILE, error)], FullClaims(), b""


def _check_model(path: Path, header: Header, claims: FullClaims, base: BaseCard | None, faults: Faults) -> None:
    """Names, shapes and dtypes by the header; then every number, and the digest of the whole where the base's is known. Raises OSError."""
    if not header.tensors:
        faults.add("the tensors of a model", "none", "Save the whole model with save_pretrained.")
        return
    check_tensors(header.tensors, claims, faults)
    known = base.weights_sha256 if base is not None else None
    hasher = hashlib.sha256()
    if known is not None:
        with path.open("rb") as file:
            hasher.update(file.read(header.data_start))
    largest = magnitudes(path, header, faults, hasher.update if known is not None else None)
    check_numbers(header.tensors, largest, faults)
    if known is not None and known == "sha256:" + hasher.hexdigest():
        faults.add(
            "weights that differ from the base's",
            "the base's own file",
            "It is a no-op: train for at least one step at a learning rate above 0.",
        )
