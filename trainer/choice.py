"""Which method a base is trained by on which hardware, when nobody says. Loads no torch.

Rules, in this order: the built-in base and whatever has no GPU train plain LoRA on the CPU; small bases train in 16 bits; on a roomy card, 16-bit LoRA where it
fits; then QLoRA on one card, unless several roomy cards together hold the base in 16 bits (FSDP). Whoever names a method gets it, lora and full on as many
cards as hold it. The choice depends on the base
and the hardware alone, not on the data, so that the same command gives the same recipe; whether the data fit is asked later (`preflight.require_fit`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.estimate import GIB, count_parameters, estimate
from trainer.preflight import Device, shared_batch, usable_bytes

if TYPE_CHECKING:
    from trainer.bases import BaseSpec
    from trainer.recipe import Recipe

SMALL_PARAMETERS = 3_000_000_000  # below this, 16-bit weights fit any card that trains at all, and NF4 only costs precision
ROOMY_MB = 44_000  # a 48 GB card (L40S, A40) reports 46,068 MiB; on smaller ones NF4 leaves room for long examples
_SHARDED = "sharded by FSDP (untested here: this product was never run on several GPUs)"
TYPICAL_TOKENS = 1024  # the longest example that the choice makes room for: advisors' pairs have about 300 tokens
# What makes a recipe a full fine-tune; its rate and checkpoints, which need no memory, are the recipe's matter.
FULL: Mapping[str, Any] = {
    "method": "full",
    "quantization": "none",
    "double_quantization": False,
    "r": None,
    "alpha": None,
    "dropout": 0.0,
    "targets": "none",
    "target_modules": [],
    "rslora": False,
    "lora_plus_ratio": None,
}


@dataclass(frozen=True)
class Choice:
    """What a choice changes in a recipe, and a sentence that says why."""

    changes: Mapping[str, Any]
    why: str


def choose(recipe: "Recipe", base: "BaseSpec", device: Device | None, wanted: str | None = None) -> Choice:
    """Method, processes, dtype and checkpointing for `base` on `device`; `recipe` is the rest. `wanted` is the method that was asked for, if any."""
    if device is None:
        return Choice({}, "asked for" if wanted else "without a GPU a base trains in 32 bits on the CPU")
    changes: dict[str, Any] = {} if device.has_bfloat16 else {"dtype": "float32"}
    method, processes, why = _method(_with(recipe, changes), base, device, wanted)
    changes |= _of(method, recipe.quantization) | _spread(recipe, processes)
    why += _other_batch(recipe, changes)
    if not device.has_bfloat16:
        why += "; 32 bits, because this card has no bfloat16"
    longest = recipe.max_length
    if wanted != "full" and _fits(_with(recipe, changes | {"gradient_checkpointing": False}), base, device, longest):
        changes["gradient_checkpointing"] = (
            False  # 20% faster without, says TRL's documentation; on where the longest examples would not fit
        )
    return Choice(changes, why)


def _method(recipe: "Recipe", base: "BaseSpec", device: Device, wanted: str | None) -> tuple[str, int, str]:
    """(method, processes, why)."""
    count = count_parameters(base.config or {})
    if wanted == "full":  # what it brings with it is filled in by the recipe; here it only decides on how many cards
        return _asked("lora", _cards(_with(recipe, FULL), base, device))
    if wanted == "qlora":
        return "qlora", 1, "asked for"
    if count is not None and count < SMALL_PARAMETERS:
        return "lora", 1, f"asked for; {count / 1e9:.1f}B" if wanted else f"{count / 1e9:.1f}B parameters fit in 16 bits"
    lora = _with(recipe, _of("lora", recipe.quantization))
    together = _cards(lora, base, device)
    if wanted == "lora":
        return _asked("lora", together)
    size = "a base of unknown size" if count is None else f"{count / 1e9:.0f}B parameters"
    roomy = device.memory_mb >= ROOMY_MB
    if roomy and together == 1:
        return "lora", 1, f"{size} fit one card of {device.memory_mb / 1024:.0f} GB in 16 bits"
    if roomy and together:
        return "lora", together, f"{size} fit {together} cards of {device.memory_mb / 1024:.0f} GB together in 16 bits, {_SHARDED}"
    return "qlora", 1, f"{size} in 4 bits leave room on a card of {device.memory_mb / 1024:.0f} GB"


def _asked(method: str, cards: int | None) -> tuple[str, int, str]:
    """What was asked for, on as many cards as hold it; on one where not even all do, and then it is refused with what it needs."""
    return method, cards or 1, f"asked for; {cards} cards hold it together, {_SHARDED}" if cards and cards > 1 else "asked for"


def _cards(recipe: "Recipe", base: "BaseSpec", device: Device) -> int | None:
    """The smallest number of cards, a power of two, that hold the training; None where not even all do, or where nothing can be said."""
    counts = [2**n for n in range(device.count.bit_length())]
    return next((n for n in counts if _fits(_with(recipe, _spread(recipe, n)), base, device, TYPICAL_TOKENS)), None)


def _fits(recipe: "Recipe", base: "BaseSpec", device: Device, longest: int) -> bool:
    need, have = estimate(recipe, base.config or {}, longest, device), usable_bytes(device)
    return need is not None and have is not None and need.memory_bytes <= have


def _of(method: str, quantization: str) -> dict[str, Any]:
    if method == "qlora":
        return {"method": "qlora", "quantization": "nf4", "double_quantization": True}
    return {"method": "lora", "quantization": "none", "double_quantization": False} if quantization == "nf4" else {"method": "lora"}


def _spread(recipe: "Recipe", processes: int) -> dict[str, Any]:
    """Several cards share the batch: the optimizer steps see as many examples as on one, where that can be divided."""
    return {"processes": processes, "sharding": "fsdp", **shared_batch(recipe, processes)} if processes > 1 else {}


def _other_batch(recipe: "Recipe", changes: Mapping[str, Any]) -> str:
    """Words for it where a step sees another number of examples than on one card."""
    one, spread = recipe.batch_size * recipe.gradient_accumulation, _with(recipe, changes)
    many = spread.batch_size * spread.gradient_accumulation * spread.processes
    return "" if one == many else f"; a step sees {many} examples, not {one}, which {spread.processes} cards cannot share evenly"


def _with(recipe: "Recipe", changes: Mapping[str, Any]) -> "Recipe":
    return recipe.with_changes(**changes) if changes else recipe


def in_gigabytes(size: int) -> str:
    """Bytes as people read them beside a card's size: '41.2 GB' (of 2^30 bytes, as nvidia-smi counts)."""
    return f"{size / GIB:.1f} GB"
