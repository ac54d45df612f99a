"""Counts the tokens of a training before anything of it is paid for: the mode `plan` of the training process. Loads a tokenizer, never the base's weights.

Rules: what a training would refuse is refused here, in the same words (an example that is too long, or of which nothing would be trained); of a hub base only the
small files are fetched. What it does not know: what the examples say, and how fast the machine is beyond what trainer.estimate says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from registry.errors import Invalid
from trainer import borrowed
from trainer.examples import read_dataset
from trainer.spec import TrainSpec

if TYPE_CHECKING:
    from trainer.bases import BaseSpec

# What a tokenizer is read from; the rest of a base's folder is weights.
TOKENIZER_FILES = ("tokenizer*", "*.jinja", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "config.json")


@dataclass(frozen=True)
class Counts:
    """Tokens of the training examples of one epoch, and what follows from them.

    `trained_tokens` has min, median, max and total of the tokens the loss is computed on, by example; `tokens` is the sum of all that is read, `tokens_in_all` that of all epochs; `longest` the
    longest example in tokens, and `longest_where` its place and digest. `memory_bytes` is the peak on each GPU (or of the process) and `memory` its parts, None
    where the base's config does not say enough; `seconds` the time of all epochs, None where it is unknown, and `seconds_basis` says why.
    """

    examples: int
    heldout: int
    tokens: int
    tokens_in_all: int
    trained_tokens: Mapping[str, float]
    longest: int
    longest_where: str
    steps: int
    memory_bytes: int | None
    memory: Mapping[str, int] | None
    seconds: float | None
    seconds_basis: str

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> "Counts":
        """Read a plan event back."""
        return cls(**{key: value for key, value in event.items() if key != "event"})


def counted(spec: TrainSpec) -> Counts:
    """Count in a process of its own, which loads transformers. Raises what a training of these data would: Invalid, Unavailable, TrainingFailed."""
    from trainer.process import plan_training

    return Counts.from_event(plan_training(spec))


def count(spec: TrainSpec) -> dict[str, Any]:
    """Count in this process: the fields of a plan event. Raises Invalid for data that could not be trained, and Unavailable."""
    from trainer.data import encode_all, recipe_template

    recipe = spec.recipe
    conversations = read_dataset(spec.dataset_dir)
    tokenizer = _tokenizer(spec.base, spec.out_dir)
    template = recipe_template(recipe, tokenizer)
    train = encode_all(conversations.train, tokenizer, template, recipe.max_length)
    heldout = encode_all(conversations.heldout[: recipe.heldout_max_examples], tokenizer, template, recipe.max_length)
    lengths, trained = [len(e.input_ids) for e in train], [e.trained for e in train]
    first = max(range(len(train)), key=lambda i: lengths[i])
    where = f"{conversations.train[first].where} ({train[first].sha256[:19]}...)"
    return asdict(_counts(spec, lengths, trained, where, len(heldout)))


def _counts(spec: TrainSpec, lengths: Sequence[int], trained: Sequence[int], where: str, heldout: int) -> Counts:
    from trainer.estimate import duration, estimate
    from trainer.packing import steps_per_epoch, total_steps
    from trainer.preflight import detect_device

    recipe, config = spec.recipe, spec.base.config or {}
    device = detect_device() if recipe.device == "cuda" else None
    need = estimate(recipe, config, max(lengths), device, max(trained))
    steps = total_steps(recipe, lengths)
    in_all = round(sum(lengths) * steps / steps_per_epoch(recipe, lengths))
    time = duration(recipe, config, in_all, device)
    return Counts(
        examples=len(lengths),
        heldout=heldout,
        tokens=sum(lengths),
        tokens_in_all=in_all,
        trained_tokens={"min": min(trained), "median": median(trained), "max": max(trained), "total": sum(trained)},
        longest=max(lengths),
        longest_where=where,
        steps=steps,
        memory_bytes=need.memory_bytes if need else None,
        memory=dict(need.parts) if need else None,
        seconds=time.seconds,
        seconds_basis=time.basis,
    )


def _tokenizer(base: "BaseSpec", work: Path) -> Any:
    from transformers import AutoTokenizer

    folder = base.path or _small_files(base, work)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise Invalid(f"{base.repo} has no tokenizer that can be read: {type(error).__name__}.", hint="Download the base again.") from error


def _small_files(base: "BaseSpec", work: Path) -> Path:
    """The folder with a hub base's tokenizer, fetched at its pinned commit where it is not in the cache, and remembered. Raises Unavailable."""
    home = borrowed.home_above(work)
    return borrowed.download(home, base.repo, base.revision, TOKENIZER_FILES, ("*/*",), what=f"The tokenizer of {base.repo}")
