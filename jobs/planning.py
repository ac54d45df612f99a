"""`registry train --plan`: what a training would do, need, take and cost, before anything of it is paid for.

Rules: nothing is trained, downloaded in bulk or registered; a figure that nothing supports is None, with the reason beside it; what the training itself would
refuse (an example that is too long, a card that is too small) is refused here in the same words. A rate that an earlier training of the same base, method
and hardware left in the catalogue is better than an estimate.
"""

import importlib.util
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.train import Plan, export_dataset
from registry import runs
from registry.db import Database
from registry.errors import TrainingFailed, Unavailable
from registry.known_bases import known_base
from registry.models import Run
from trainer import borrowed
from trainer.spec import TrainSpec

if TYPE_CHECKING:
    from trainer.counting import Counts
    from trainer.estimate import Estimate


@dataclass(frozen=True)
class Outlook:
    """What lies ahead of a plan. Sizes in bytes on each GPU (or of the process), seconds of the steps alone, `cost` in the currency of the price.

    `need` is made from the longest example where the tokens could be counted, else from the recipe's max_length (`measured_longest` says which). `counts` is None
    where they could not, and `not_counted` says why.
    """

    plan: Plan
    why: str
    licence: str | None
    licence_page: str | None
    counts: "Counts | None"
    not_counted: str | None
    need: "Estimate | None"
    measured_longest: bool
    have: int | None
    seconds: float | None
    seconds_basis: str
    cost: float | None


def look_ahead(
    db: Database, plan: Plan, *, home: Path | None = None, gpu_price: float | None = None, asked_method: str | None = None
) -> Outlook:
    """Count and estimate. `gpu_price` is per GPU hour; in `home` it is remembered what is fetched. Raises Invalid for data or a recipe that could not be trained on this hardware."""
    from trainer.estimate import estimate
    from trainer.preflight import require_fit, usable_bytes
    from trainer.recipe import why_method

    with borrowed.in_use(home) if home is not None else nullcontext():
        counts, not_counted = _count(db, plan, home)
    recipe, config = plan.recipe, plan.base.config or {}
    longest, trained = (counts.longest, int(counts.trained_tokens["max"])) if counts else (recipe.max_length, None)
    need = estimate(recipe, config, longest, plan.hardware, trained)
    if counts is not None:
        require_fit(recipe, plan.base, plan.hardware, longest, trained)
    seconds, basis = _time(db, plan, counts)
    card = known_base(plan.base.repo)
    return Outlook(
        plan=plan,
        why=why_method(plan.base, plan.hardware, asked_method),
        licence=card.licence if card else None,
        licence_page=card.licence_page if card else None,
        counts=counts,
        not_counted=not_counted,
        need=need,
        measured_longest=counts is not None,
        have=usable_bytes(plan.hardware),
        seconds=seconds,
        seconds_basis=basis,
        cost=seconds / 3600 * gpu_price * recipe.processes if seconds is not None and gpu_price is not None else None,
    )


def _count(db: Database, plan: Plan, home: Path | None) -> tuple["Counts | None", str | None]:
    """The tokens, or why they were not counted."""
    from trainer.counting import counted

    if importlib.util.find_spec("transformers") is None:
        return None, "the tokenizer's library is not installed here: pip install 'adapter-registry[train]'"
    if home is not None:
        (home / "work").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="plan-", dir=home / "work" if home is not None else None) as folder:
        dataset = Path(folder) / "dataset"
        export_dataset(db, plan.advisor, plan.dataset, dataset)
        try:
            return counted(TrainSpec(plan.recipe, plan.base, plan.seed, dataset, Path(folder) / "out")), None
        except (Unavailable, TrainingFailed) as error:
            return None, error.message


def _time(db: Database, plan: Plan, counts: "Counts | None") -> tuple[float | None, str]:
    from trainer.estimate import duration

    if counts is None:
        return None, "unknown: the tokens were not counted"
    rate = measured_rate(db, plan)
    found = duration(plan.recipe, plan.base.config or {}, counts.tokens_in_all, plan.hardware, rate)
    return found.seconds, found.basis


def measured_rate(db: Database, plan: Plan) -> float | None:
    """Seconds per token of the newest training of this base by this method on this hardware that the catalogue knows; None where there is none."""
    with db.read() as session:
        found = (_rate(run) for run in runs.succeeded(session, "training") if _alike(run, plan))
        return next((rate for rate in found if rate is not None), None)


def _alike(run: Run, plan: Plan) -> bool:
    recipe = run.spec.get("recipe") or {}
    same = ("method", "quantization", "dtype", "targets", "gradient_checkpointing", "batching", "processes", "device", "threads")
    device = (run.environment or {}).get("device")
    return (
        (run.spec.get("base") or {}).get("repo") == plan.base.repo
        and all(recipe.get(name) == getattr(plan.recipe, name) for name in same)
        and device == (plan.hardware.name if plan.hardware else "cpu")
    )


def _rate(run: Run) -> float | None:
    """Seconds per token over all the tokens of its epochs; None where the run does not tell all of it."""
    told: Mapping[str, Any] = run.metrics or {}
    try:
        tokens = told["tokens"] * told["loss_curve"][-1]["epoch"]
        return float(told["seconds_per_step"] * told["steps"] / tokens) or None
    except (KeyError, IndexError, TypeError, ZeroDivisionError):
        return None


JSON_ONLY = ("memory bytes", "memory bytes there")  # for programs; people read "memory in all"


def facts(outlook: Outlook) -> dict[str, Any]:
    """The outlook as a flat mapping of words to JSON values, for --json and, but for JSON_ONLY, for a table."""
    plan, recipe, counts, need = outlook.plan, outlook.plan.recipe, outlook.counts, outlook.need
    licence = f"{outlook.licence} ({outlook.licence_page})" if outlook.licence else None
    lines: dict[str, Any] = {
        "advisor": plan.advisor,
        "dataset": plan.dataset,
        "training pairs": plan.examples - plan.heldout,
        "held out": plan.heldout,
        "base": f"{plan.base.repo}@{plan.base.revision or 'unknown'}",
        "licence of the base": licence or "not recorded",
        "device": plan.device,
        "method": recipe.method,
        "chosen because": outlook.why,
        "profile": recipe.targets,
        "modules": ", ".join(recipe.target_modules) or "all weights",
        "trainable parameters": need.trainable if need else None,
        "parameters in all": need.parameters if need else None,
    }
    if counts is not None:
        lines |= {f"trained tokens, {name}": value for name, value in counts.trained_tokens.items()}
        lines |= {
            "tokens an epoch": counts.tokens,
            "longest example": f"{counts.longest} tokens, {counts.longest_where}",
            "steps": counts.steps,
        }
    else:
        lines["tokens"] = f"not counted: {outlook.not_counted}"
    if need is not None:
        lines |= {f"memory, {name}": _gigabytes(size) for name, size in need.parts.items() if size}
        basis = "" if outlook.measured_longest else f", if an example has {recipe.max_length} tokens"
        lines["memory in all"] = f"{_gigabytes(need.memory_bytes)} of {_gigabytes(outlook.have) if outlook.have else 'unknown'}{basis}"
        lines |= {"memory bytes": need.memory_bytes, "memory bytes there": outlook.have}
    lines |= {"seconds": round(outlook.seconds, 1) if outlook.seconds is not None else None, "seconds are": outlook.seconds_basis}
    lines |= {
        "cost": round(outlook.cost, 4) if outlook.cost is not None else None,
        "seed": plan.seed,
        "already registered as": plan.existing,
    }
    return lines


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.1f} MB"
