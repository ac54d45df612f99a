"""What goes into a training and what comes out of it, as frozen values with a JSON form.

Rules: result.json is written last, so its existence means that the adapter is complete; file names in it are relative to the folder of the files; no path of
the machine is in it; how a training is driven (when it stops, how often it saves its state) is no part of what it is. Loads no torch.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from registry.errors import Invalid, NotFound
from registry.manifest import FileEntry
from trainer.bases import BaseSpec
from trainer.recipe import Recipe

SPEC_FORMAT = "train-spec/2"
RESULT_FORMAT = "trained-adapter/2"
RESULT_FILE = "result.json"
FILES_FOLDER = "files"
CHECKPOINTS_FOLDER = "checkpoints"  # adapters kept on the way: step-000010.safetensors
STATE_FOLDER = "state"  # what a killed training goes on from; never registered, and removed when the training ends
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
FULL_WEIGHTS_FILE = "model.safetensors"
FULL_CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Drive:
    """How a training is driven on this machine; nothing of it changes the result.

    `save_state_every` seconds the state is written to disk, so that a killed training goes on from there (0: never); at `stop_at` (seconds since the epoch)
    the training saves its state and ends with Paused.
    """

    save_state_every: float = 300.0
    stop_at: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """An adapter on the way: after which optimizer step, how far into the data (epochs), at which learning rate, and its file in the checkpoints folder."""

    step: int
    epoch: float
    learning_rate: float
    file: FileEntry


@dataclass(frozen=True)
class TrainSpec:
    """One training: recipe, base and seed; the folder of the data; the folder for the result (made when missing)."""

    recipe: Recipe
    base: BaseSpec
    seed: int
    dataset_dir: Path
    out_dir: Path
    drive: Drive = Drive()

    def as_json(self) -> dict[str, Any]:
        """The JSON object that `python -m trainer` reads."""
        return {
            "format": SPEC_FORMAT,
            "recipe": self.recipe.as_json(),
            "base": self.base.as_json(),
            "seed": self.seed,
            "dataset_dir": str(self.dataset_dir),
            "out_dir": str(self.out_dir),
            "drive": asdict(self.drive),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TrainSpec":
        """Read `as_json` back. Raises Invalid and names the part that is wrong."""
        wanted = {"format", "recipe", "base", "seed", "dataset_dir", "out_dir", "drive"}
        if value.get("format") != SPEC_FORMAT or set(value) != wanted:
            raise Invalid(
                f"A train spec has format {SPEC_FORMAT} and the keys {', '.join(sorted(wanted))}; found {', '.join(sorted(value))}."
            )
        seed = value["seed"]
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
            raise Invalid(f"A seed is a whole number from 0 to {2**32 - 1} (what NumPy takes); found {seed!a}.")
        for name in ("recipe", "base"):
            if not isinstance(value[name], dict):
                raise Invalid(f"A train spec's {name} is an object; found {type(value[name]).__name__}.")
        return cls(
            recipe=Recipe.from_json(value["recipe"]),
            base=BaseSpec.from_json(value["base"]),
            seed=seed,
            dataset_dir=Path(value["dataset_dir"]),
            out_dir=Path(value["out_dir"]),
            drive=_drive(value["drive"]),
        )

    @classmethod
    def read(cls, path: Path) -> "TrainSpec":
        """Read a spec file. Raises NotFound and Invalid."""
        if not path.is_file():
            raise NotFound(f"There is no train spec {path}.")
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise Invalid(f"The train spec {path.name} is not JSON: {error}.") from None
        if not isinstance(value, dict):
            raise Invalid(f"The train spec {path.name} is not a JSON object.")
        return cls.from_json(value)


@dataclass(frozen=True)
class TrainedAdapter:
    """A finished training. `files` are relative to `folder`, the checkpoints' files to the checkpoints folder beside it.

    `metrics` holds loss_curve [{step, epoch, loss, learning_rate}], trained_tokens, train_examples, trainable_parameters, total_parameters, steps, adapter_dtype,
    heldout {"adapter": [{sha256, loss, tokens}], "base": [...]} (mean negative log-likelihood per token in nats) and canary (three fixed prompts'
    log-probabilities). `timings` are seconds by phase. `base` carries no path.
    """

    folder: Path
    files: tuple[FileEntry, ...]
    base: BaseSpec
    recipe: Recipe
    seed: int
    metrics: Mapping[str, Any]
    timings: Mapping[str, float]
    environment: Mapping[str, Any]
    checkpoints: tuple[Checkpoint, ...] = ()

    @property
    def checkpoints_folder(self) -> Path:
        """Where the checkpoints' files lie."""
        return self.folder.parent / CHECKPOINTS_FOLDER

    def as_json(self) -> dict[str, Any]:
        """The JSON object of result.json."""
        return {
            "format": RESULT_FORMAT,
            "files": [{"path": f.path, "sha256": f.sha256, "size": f.size} for f in self.files],
            "base": {k: v for k, v in self.base.as_json().items() if k != "path"},
            "recipe": self.recipe.as_json(),
            "recipe_digest": self.recipe.digest,
            "seed": self.seed,
            "metrics": dict(self.metrics),
            "timings": dict(self.timings),
            "environment": dict(self.environment),
            "checkpoints": [asdict(c) for c in self.checkpoints],
        }

    @classmethod
    def load(cls, out_dir: Path) -> "TrainedAdapter":
        """Read a finished training. Raises NotFound when there is no complete one, Invalid when its record makes no sense."""
        path = out_dir / RESULT_FILE
        if not path.is_file():
            raise NotFound(f"There is no finished training in {out_dir.name}: {RESULT_FILE} is missing.", hint="Train again.")
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if value["format"] != RESULT_FORMAT:
                raise Invalid(f"{RESULT_FILE} has format {value['format']!a}; expected {RESULT_FORMAT}.")
            return cls(
                folder=out_dir / FILES_FOLDER,
                files=tuple(FileEntry(f["path"], f["sha256"], f["size"]) for f in value["files"]),
                base=BaseSpec(**value["base"]),
                recipe=Recipe.from_json(value["recipe"]),
                seed=value["seed"],
                metrics=value["metrics"],
                timings=value["timings"],
                environment=value["environment"],
                checkpoints=tuple(Checkpoint(**{**c, "file": FileEntry(**c["file"])}) for c in value["checkpoints"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise Invalid(f"{RESULT_FILE} is no record of a training: {type(error).__name__} {error}.", hint="Train again.") from None


def _drive(value: Any) -> Drive:
    try:
        drive = Drive(**value)
        sensible = drive.save_state_every >= 0 and (drive.stop_at is None or drive.stop_at > 0)
    except TypeError:
        sensible = False
    if not sensible:
        raise Invalid(f"A train spec's drive has save_state_every (seconds) and stop_at (seconds or null); found {str(value)[:100]!a}.")
    return drive
