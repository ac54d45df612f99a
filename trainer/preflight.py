"""What hardware is there, which base to take when none was named, and whether a training fits: decided before anything is loaded.

Rules: no torch is loaded to find out; a small GPU gets an estimate and a choice, never a silent fall to the built-in base; a training that cannot fit is refused
with what it needs, what there is, and only such changes as would fit. Estimates are made in trainer/estimate.py. What it does not know: other processes on the
card, cards that are not NVIDIA's, slices of a card (MIG), and that CUDA may count unlike cards in another order than nvidia-smi.
"""

import math
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import Invalid
from registry.known_bases import known_bases
from trainer.estimate import GIB, LEAST_TOKENS, MISTRAL_7B, Estimate, count_parameters, estimate, estimate_memory

if TYPE_CHECKING:
    from trainer.bases import BaseSpec
    from trainer.recipe import Recipe

__all__ = [
    "DEFAULT_GPU_BASE",
    "GIB",
    "LEAST_TOKENS",
    "MISTRAL_7B",
    "SMALL_REAL_BASE",
    "TINY",
    "Device",
    "choose_default_base",
    "count_parameters",
    "detect_device",
    "estimate_memory",
    "require_fit",
    "shared_batch",
    "usable_bytes",
    "visible_cards",
]

DEFAULT_GPU_BASE = "mistralai/Mistral-7B-Instruct-v0.3"
TINY = "tiny"
SMALL_REAL_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
# A 24 GB card reports 24,564 MB and a 20 GB card 20,475 MB: nvidia-smi counts MiB and keeps some back.
ENOUGH_MB = 20_000
USABLE = 0.985  # of the memory that nvidia-smi reports: an RTX 4090 of 24,564 MiB shows 23.64 GiB to torch (the capacity in its out-of-memory messages)
BF16_SINCE = (
    8,
    0,
)  # compute capability of Ampere, the first with bfloat16 (CUDA C++ programming guide, table of arithmetic throughput); FlashAttention-2's too

Runner = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Device:
    """NVIDIA GPUs of one kind: name, memory of each in MiB as nvidia-smi counts it, the driver's version, how many there are, and their compute capability."""

    name: str
    memory_mb: int
    driver: str | None = None
    count: int = 1
    capability: tuple[int, int] | None = None  # None where nvidia-smi does not tell

    @property
    def has_bfloat16(self) -> bool:
        """Whether its cores compute in bfloat16; a card that does not say is taken for one that does."""
        return self.capability is None or self.capability >= BF16_SINCE

    @property
    def words(self) -> str:
        """As people say it: '2 x NVIDIA H200 (141 GB each)'."""
        size = f"{self.memory_mb / 1024:.0f} GB"
        return f"{self.count} x {self.name} ({size} each)" if self.count > 1 else f"{self.name} ({size})"


def run_command(command: Sequence[str]) -> str:
    """Standard output of a command; raises OSError or subprocess.SubprocessError when it is missing, fails or hangs for 20 s."""
    return subprocess.run(list(command), check=True, capture_output=True, text=True, timeout=20).stdout


def detect_device(run: Runner = run_command) -> Device | None:
    """The first NVIDIA GPU that may be used, with the number of usable ones of its kind; or None.

    CUDA_VISIBLE_DEVICES counts as it does for CUDA: empty or -1 hides them all, and a list ends at the first name that does not exist.
    """
    rows = _usable(run)
    if not rows:
        return None
    first = rows[0]
    return Device(first[2], int(first[3]), first[4], sum(row[2:4] == first[2:4] for row in rows), _capability(first[5:]))


def visible_cards(run: Runner = run_command) -> list[tuple[str, str]]:
    """(UUID, what CUDA_VISIBLE_DEVICES calls it) of every NVIDIA GPU that may be used, in their order. By its UUID CUDA and nvidia-smi mean the same card."""
    return [(row[1], row[1]) if row[1].startswith("GPU-") else (row[0], row[0]) for row in _usable(run)]


def _usable(run: Runner) -> list[list[str]]:
    """The rows of the GPUs that CUDA_VISIBLE_DEVICES leaves."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return _cards(run)
    names = [name.strip() for name in visible.split(",")]
    return [] if names[0] in {"", "-1"} else list(_visible(_cards(run), names))


def _cards(run: Runner) -> list[list[str]]:
    """nvidia-smi's answer, one row per card; empty where it cannot answer."""
    known = "index,uuid,name,memory.total,driver_version"
    try:
        return _rows(run, f"{known},compute_cap") or _rows(run, known)
    except subprocess.CalledProcessError:  # a driver before 2021 does not know compute_cap and refuses the whole question
        try:
            return _rows(run, known)
        except (OSError, subprocess.SubprocessError):
            return []
    except (OSError, subprocess.SubprocessError):
        return []


def _rows(run: Runner, fields: str) -> list[list[str]]:
    answer = run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"])
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines() if line.strip()]
    return [row for row in rows if len(row) == fields.count(",") + 1 and row[3].isdigit()]


def _visible(rows: list[list[str]], names: Sequence[str]) -> Iterator[list[str]]:
    for name in names:
        found = next((row for row in rows if name == row[0] or (name.startswith("GPU-") and row[1].startswith(name))), None)
        if found is None:
            return
        yield found


def _capability(cells: Sequence[str]) -> tuple[int, int] | None:
    major, _, minor = (cells[0] if cells else "").partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def choose_default_base(device: Device | None) -> str:
    """The base to take when none was named: Mistral 7B on 20 GB or more, the built-in tiny one on a CPU.

    Raises Invalid for a smaller GPU, with the estimate and the choices.
    """
    if device is None:
        return TINY
    if device.memory_mb >= ENOUGH_MB:
        return DEFAULT_GPU_BASE
    need = estimate_memory(MISTRAL_7B, method="qlora", batch_size=4, tokens=1024)
    raise Invalid(
        f"The default base {DEFAULT_GPU_BASE} is chosen by itself on a GPU of 20 GB or more; {device.name} has {device.memory_mb / 1024:.1f} GB. "
        f"Training it in 4 bits is estimated to need {need / GIB:.1f} GB at 4 examples of 1,024 tokens.",
        hint=f"Choose: --base {DEFAULT_GPU_BASE} to try it all the same, --base {SMALL_REAL_BASE} for a small real model, "
        f"or --base {TINY} for the built-in one, which proves the plumbing and talks nonsense.",
    )


def usable_bytes(device: Device | None) -> int | None:
    """Bytes a training may take: of one GPU, or of this machine's memory on a CPU; None where the system does not say."""
    return int(device.memory_mb * 1024**2 * USABLE) if device is not None else _machine_memory()


def _machine_memory() -> int | None:
    """The memory of this machine, or of the container it is (cgroup v2), in bytes."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def require_fit(recipe: "Recipe", base: "BaseSpec", device: Device | None, longest: int, trained: int | None = None) -> Estimate | None:
    """Refuse a training that will not fit, before anything is loaded. Returns the estimate, or None where the base's config does not say enough.

    `longest` is the longest example in tokens (LEAST_TOKENS where nothing is known yet), `trained` the most tokens that are trained of one. Raises Invalid with
    what is needed, what there is, and the changes that would make it fit.
    """
    hardware = device if recipe.device == "cuda" else None
    if hardware is not None:
        _require_card(recipe, hardware)
    need, have = estimate(recipe, base.config or {}, longest, hardware, trained), usable_bytes(hardware)
    if need is None or have is None or need.memory_bytes <= have:
        return need
    raise Invalid(
        f"Training {base.repo} by {recipe.method} {_in_words(need.memory_bytes, have, hardware)}.",
        hint=_what_fits(recipe, base, hardware, longest, trained, have),
    )


def _require_card(recipe: "Recipe", device: Device) -> None:
    """Raises Invalid where the card cannot do what the recipe asks, whatever its memory."""
    if recipe.processes > device.count:
        raise Invalid(
            f"The recipe trains on {recipe.processes} GPUs; {'one is' if device.count == 1 else f'{device.count} are'} here ({device.name}).",
            hint=f'Set "processes": {device.count} in the recipe, or look at CUDA_VISIBLE_DEVICES.',
        )
    if device.has_bfloat16 or device.capability is None:
        return
    found = f"{device.name} has {device.capability[0]}.{device.capability[1]}"
    if recipe.dtype == "bfloat16":
        raise Invalid(
            f"bfloat16 needs a GPU of compute capability {BF16_SINCE[0]}.{BF16_SINCE[1]} (Ampere) or later; {found}.",
            hint='Set "dtype": "float32" in the recipe, which is the default on this card. float16 is not offered: its small range needs loss scaling.',
        )
    if recipe.attention == "flash_attention_2":
        raise Invalid(f"FlashAttention-2 needs a GPU of compute capability 8.0 or later; {found}.", hint='Set "attention": "sdpa".')


def _in_words(need: int, have: int, device: Device | None) -> str:
    """'needs 41 GB, this card has 24', with decimals where whole numbers would look alike."""
    thing = "this machine" if device is None else "each card" if device.count > 1 else "this card"
    total = have if device is None else device.memory_mb * 1024**2
    if math.ceil(need / GIB) > round(total / GIB):
        return f"needs {math.ceil(need / GIB)} GB, {thing} has {round(total / GIB)}"
    return f"needs {need / GIB:.2f} GB, {thing} has {total / GIB:.2f} of which {have / GIB:.2f} can be used"


def _what_fits(recipe: "Recipe", base: "BaseSpec", device: Device | None, longest: int, trained: int | None, have: int) -> str:
    """The hint: each single change that makes it fit; where none does, the smallest set of changes; then a smaller base."""

    def fits(changes: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> bool:
        found = estimate(_changed(recipe, changes), config or base.config or {}, longest, device, trained)
        return found is not None and found.memory_bytes <= have

    choices: dict[str, str] = {}
    for words, changes in _changes(recipe, device):
        kind = next(k for k in _KINDS if k in changes)
        if kind not in choices and fits(changes):
            choices[kind] = words
    told = list(choices.values()) or _together(recipe, device, fits)
    shorter = _shorter(recipe, base, device, longest, have) if not told else None
    if shorter is not None:
        told.append(f'"batch_size": 1 with no example longer than {shorter} tokens')
    smaller = _smaller_base(base, fits)
    told.append(f"--base {smaller}, which is smaller" if smaller else "a smaller base")
    return f"Use {', or '.join(told)}."


def _changes(recipe: "Recipe", device: Device | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every change that lowers the need, the mildest first, with the words to make it."""
    if not recipe.gradient_checkpointing:
        yield '"gradient_checkpointing": true in the recipe', {"gradient_checkpointing": True}
    size = recipe.batch_size
    while size > 1:
        size //= 2
        accumulation = -(-recipe.batch_size * recipe.gradient_accumulation // size)
        words = f'"batch_size": {size} with "gradient_accumulation": {accumulation}'
        yield words, {"batch_size": size, "gradient_accumulation": min(accumulation, 4096)}
    if recipe.method == "full" and recipe.optim not in {"adamw_8bit", "paged_adamw_8bit"} and device is not None:
        yield '"optim": "adamw_8bit"', {"optim": "adamw_8bit"}
    if recipe.method == "full":
        yield "--method lora", {"method": "lora"}
    if recipe.method != "qlora":
        yield "--method qlora", {"method": "qlora"}
    processes = recipe.processes
    while device is not None and (processes := processes * 2) <= device.count:
        shared = shared_batch(recipe, processes)
        words = f'"processes": {processes} with ' + " and ".join(f'"{name}": {value}' for name, value in shared.items())
        yield words, {"processes": processes, "sharding": "fsdp", **shared}


def shared_batch(recipe: "Recipe", processes: int) -> dict[str, Any]:
    """How `processes` GPUs share what the recipe's optimizer steps see: fewer accumulated micro-batches first, then smaller ones.

    The product of all three stays the same where it can be divided; otherwise it is the next multiple of `processes`.
    """
    each = -(-recipe.batch_size * recipe.gradient_accumulation * recipe.processes // processes)
    size = next(n for n in range(min(recipe.batch_size, each), 0, -1) if each % n == 0)
    return ({} if size == recipe.batch_size else {"batch_size": size}) | {"gradient_accumulation": each // size}


_KINDS = ("gradient_checkpointing", "processes", "batch_size", "optim", "method")  # the first of these that a change has says what it is


def _together(recipe: "Recipe", device: Device | None, fits: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """Changes of different kinds that fit only together: the fewest of them, each at its strongest."""
    strongest = {next(k for k in _KINDS if k in changes): changes for _, changes in _changes(recipe, device)}
    for kinds in (
        ("gradient_checkpointing", "batch_size"),
        ("method", "gradient_checkpointing"),
        ("method", "gradient_checkpointing", "batch_size"),
        ("method", "gradient_checkpointing", "batch_size", "processes"),
    ):
        changes = {key: value for kind in kinds for key, value in strongest.get(kind, {}).items()}
        if "processes" in changes:
            changes |= shared_batch(recipe.with_changes(**strongest.get("batch_size", {})), changes["processes"])
        if changes and fits(changes):
            return [_words(changes)]
    return []


def _words(changes: Mapping[str, Any]) -> str:
    told = [f"--method {changes['method']}"] if "method" in changes else []
    told += [f'"{k}": {str(v).lower()}' for k, v in changes.items() if k not in {"method", "sharding"}]
    return " with ".join([told[0], ", ".join(told[1:])]) if len(told) > 1 else told[0]


def _changed(recipe: "Recipe", changes: Mapping[str, Any]) -> "Recipe":
    """The recipe with what a change brings along."""
    follow: dict[str, Any] = {}
    if changes.get("method") == "qlora":
        follow = {"quantization": "nf4", "double_quantization": True}
    if "method" in changes and recipe.method == "full":
        follow |= {"r": 16, "alpha": 32, "targets": "custom", "target_modules": ["k_proj", "o_proj", "q_proj", "v_proj"]}
    return recipe.with_changes(**follow | dict(changes))


def _shorter(recipe: "Recipe", base: "BaseSpec", device: Device | None, longest: int, have: int) -> int | None:
    """The longest example that would fit in a batch of one, rounded down to 64 tokens; None where none would, or where rows are packed."""
    if recipe.batching == "packed":
        return None
    low, high = 0, longest // LEAST_TOKENS
    while low < high:
        middle = (low + high + 1) // 2
        found = estimate(_changed(recipe, {"batch_size": 1}), base.config or {}, middle * LEAST_TOKENS, device)
        low, high = (middle, high) if found is not None and found.memory_bytes <= have else (low, middle - 1)
    return low * LEAST_TOKENS if low >= 2 else None


def _smaller_base(base: "BaseSpec", fits: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]) -> str | None:
    """The largest known base that fits as the recipe stands, and is smaller than this one."""
    size = count_parameters(base.config or {}) or 0
    fitting = [k for k in known_bases() if k.parameters < size and fits({}, k.config)]
    return max(fitting, key=lambda k: k.parameters).repo if fitting else None
