"""Brings a base into memory: its files at the pinned revision, its tokenizer, its weights; and keeps it there for the next training of a warm process.

Rules: weights are hashed each time they are read from disk, and other weights than the recorded ones are refused; only safetensors are read and no code of a
base runs; a base that a training changed, or that a failure left in an unknown state, is never used again.
"""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from registry.errors import Invalid
from registry.manifest import digest
from trainer import attention, borrowed
from trainer.bases import BaseSpec, file_digest, weights_digest
from trainer.recipe import Recipe

INDEX = "model.safetensors.index.json"
# What a model folder needs here. No pickles: a .bin is never fetched, let alone loaded.
_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
# Mistral's repositories carry the weights a second time in the maker's own layout, as large as all shards together; transformers does not read it.
_UNWANTED = ("consolidated*", "*/*")


@dataclass(frozen=True)
class Weights:
    """The digests of a base's weights as they lie on disk: of the file, or of the list of its shards; and of the shards' index, where there is one."""

    sha256: str
    index_sha256: str | None


class Bases:
    """The base that is in memory, at most one. A warm process has one of these for all its trainings; a cold one for its only one."""

    def __init__(self) -> None:
        """Nothing is loaded."""
        self._key: tuple[Any, ...] | None = None
        self._model: Any = None
        self._weights: Weights | None = None
        self.loads = 0  # how many times weights were read from disk
        gc.freeze()  # the libraries' million objects stay: without this, each collection looks at them all, 0.3 s a time (measured)

    @contextmanager
    def borrowed(self, base: BaseSpec, recipe: Recipe, source: Path) -> Iterator["Borrowed"]:
        """The base's model, read from `source` where it is not in memory. Without `give_back` inside, it is gone afterwards."""
        key = _key(base, recipe)
        if key != self._key:
            self.clear()
            weights = weights_of(base, source)
            self._model, self._weights, self._key = load_base(source, recipe), weights, key
            self.loads += 1
        if self._weights is None:
            raise RuntimeError("A base in memory has no record of its weights.")
        lent = Borrowed(self._model, self._weights)
        self._model, self._key = None, None  # until it comes back it is nobody's
        try:
            yield lent
        finally:
            if lent.returned is not None:
                self._model, self._key = lent.returned, key
            lent.model = lent.returned = None
            _free()

    def clear(self) -> None:
        """Let go of the base."""
        self._key = self._model = self._weights = None
        _free()


@dataclass
class Borrowed:
    """A base's model for the time of one training."""

    model: Any
    weights: Weights
    returned: Any = None

    def give_back(self, model: Any) -> None:
        """The model is as it was loaded: the next training may have it."""
        self.returned = model


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _key(base: BaseSpec, recipe: Recipe) -> tuple[Any, ...]:
    """What makes a base in memory the same: which weights, and how they lie there."""
    return (
        base.kind, base.repo, base.revision, base.weights_sha256, str(base.path),
        *(getattr(recipe, name) for name in ("device", "dtype", "quantization", "double_quantization", "attention", "sharding")),
        recipe.method == "full",
    )  # fmt: skip


def fetch(base: BaseSpec, work: Path | None = None) -> Path:
    """The folder of the base's files; downloads a hub base at its pinned commit, and remembers it in the home that `work` lies in. Raises Unavailable."""
    if base.path is not None:
        return base.path
    home = borrowed.home_above(work) if work is not None else None
    return borrowed.download(home, base.repo, base.revision, _WANTED, _UNWANTED)


def weights_of(base: BaseSpec, source: Path) -> Weights:
    """Hash the base's weights on disk. Raises Invalid when they are not the recorded ones, or when a shard is missing."""
    index = source / INDEX
    if base.kind == "hub" and index.is_file():  # a cache may hold other copies of the weights beside, which nobody reads
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()))
        if missing := [name for name in shards if not (source / name).is_file()]:
            raise Invalid(f"{base.repo} lacks {missing[0]}, one of its {len(shards)} weight files.", hint="Download it again.")
        found = digest([[name, file_digest(source / name)] for name in shards])
    elif base.kind == "hub" and (source / "model.safetensors").is_file():
        found = file_digest(source / "model.safetensors")
    else:
        found = weights_digest(source)
    if base.weights_sha256 is not None and found != base.weights_sha256:
        raise Invalid(
            f"The weights of {base.repo} changed on disk: expected {base.weights_sha256}, found {found}.", hint="Resolve the base again."
        )
    return Weights(found, file_digest(index) if index.is_file() else None)


def load_tokenizer(source: Path) -> Any:
    """The base's tokenizer, with the end token for padding where it has none (padding is never trained nor attended to)."""
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(source: Path, recipe: Recipe) -> Any:
    """The base model: in the recipe's dtype, in NF4 with that dtype for the computation, or in 32 bits where every weight is trained.

    A learning rate of 2e-5 moves a weight by less than bfloat16's 8 bits can show, so whoever trains the weights themselves needs them in 32 bits; the
    computation is in the recipe's dtype all the same (autocast).
    """
    attention.register()
    dtype = torch.float32 if recipe.method == "full" else getattr(torch, recipe.dtype)
    options: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": attention.SEGMENTED if recipe.attention == "sdpa" else recipe.attention,
        "use_safetensors": True,
        "trust_remote_code": False,
    }
    if recipe.device == "cuda" and recipe.sharding == "none":
        options["device_map"] = {"": 0}
    if recipe.quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(**quantization(recipe))  # type: ignore[no-untyped-call]
    model = AutoModelForCausalLM.from_pretrained(source, **options)
    model.config.use_cache = False
    return model


def quantization(recipe: Recipe) -> dict[str, Any]:
    """The settings of NF4 as bitsandbytes takes them; empty where weights are not quantised."""
    if recipe.quantization != "nf4":
        return {}
    settings: dict[str, Any] = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": recipe.double_quantization,
        "bnb_4bit_compute_dtype": recipe.dtype,
    }
    # FSDP shards floating-point tensors only, so the packed bytes are stored as such (bitsandbytes' FSDP-QLoRA guide).
    return settings | ({"bnb_4bit_quant_storage": recipe.dtype} if recipe.sharding == "fsdp" else {})
