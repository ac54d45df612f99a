"""Writes a training's files: whole or not at all, readable by others, and checked before anything says that they are complete. Loads no torch.

Rules: each file is written beside its place, flushed to disk and renamed; mode 0644 (PEFT writes 0600, which a serving process under another user cannot
read); the config is the registry's canonical form and names the registered base, never a path; result.json comes last.
"""

import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from registry.adapter_files import BaseCard, base_card_from_config, canonical_config, check_version_files, tuned_config
from registry.errors import Invalid, TrainingFailed
from registry.manifest import FileEntry, digest_bytes
from trainer.bases import BaseSpec, file_digest
from trainer.spec import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    FILES_FOLDER,
    FULL_CONFIG_FILE,
    FULL_WEIGHTS_FILE,
    RESULT_FILE,
    WEIGHTS_FILE,
    TrainedAdapter,
)


def prepare_folder(out_dir: Path) -> Path:
    """Make the folder of the files and take away a former result, so that what is found there later is this run's. Raises OSError.

    A saved state and the checkpoints stay: the run may go on from them. Which of them are its own is known once the state is read (`remove_others`).
    """
    (out_dir / RESULT_FILE).unlink(missing_ok=True)
    folder = out_dir / FILES_FOLDER
    for path in (folder, out_dir / CHECKPOINTS_FOLDER):
        path.mkdir(parents=True, exist_ok=True)
    return folder


def remove_others(folder: Path, keep: Collection[str]) -> None:
    """Remove the tensor files of a folder whose names are not in `keep`. Raises OSError."""
    for path in folder.glob("*.safetensors"):
        if path.name not in keep:
            path.unlink(missing_ok=True)


def write_with(path: Path, write: Callable[[Path], object]) -> FileEntry:
    """Have `write` make a file so that it is complete or absent, and readable by others. Raises OSError."""
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.chmod(0o644)
        found = FileEntry(path.name, file_digest(part), part.stat().st_size)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return found


def write_whole(path: Path, data: bytes) -> FileEntry:
    """Write a file so that it is complete or absent. Raises OSError."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return FileEntry(path.name, digest_bytes(data), len(data))


def write_adapter(folder: Path, weights: bytes, config: Mapping[str, Any], base: BaseSpec) -> tuple[FileEntry, ...]:
    """Write both files and have the registry's gate look at them: key set, shapes, finite values, not a no-op.

    `config` is PEFT's; its sets and enums become sorted lists and texts. Raises TrainingFailed when the gate refuses what was trained, and OSError.
    """
    named = plain_json(config) | {"base_model_name_or_path": base.repo, "revision": base.revision, "inference_mode": True}
    try:
        text = canonical_config(named, base.repo, base.revision)
    except Invalid as error:
        raise _refused(error) from error
    entries = (write_whole(folder / CONFIG_FILE, text), write_whole(folder / WEIGHTS_FILE, weights))
    return _through_gate(folder, entries, base)


def write_full(folder: Path, write_weights: Callable[[Path], object], base: BaseSpec, dtype: str) -> tuple[FileEntry, ...]:
    """Write the weights of a full fine-tune as one file, and the base's config with their dtype, in the canonical form; then the gate looks at them.

    Raises TrainingFailed when the gate refuses what was trained, and OSError.
    """
    try:
        text = tuned_config(_card(base), dtype)
    except Invalid as error:
        raise _refused(error) from error
    entries = (
        write_whole(folder / FULL_CONFIG_FILE, text),
        write_with(folder / FULL_WEIGHTS_FILE, write_weights),
    )
    return _through_gate(folder, entries, base)


def _through_gate(folder: Path, entries: tuple[FileEntry, ...], base: BaseSpec) -> tuple[FileEntry, ...]:
    try:
        check_version_files({entry.path: folder / entry.path for entry in entries}, _card(base))
    except Invalid as error:
        raise _refused(error) from error
    return entries


def _card(base: BaseSpec) -> BaseCard:
    known = base_card_from_config(base.config or {}, base.repo, base.revision, base.weights_sha256)
    return known or BaseCard(base.repo, base.revision, weights_sha256=base.weights_sha256)


def _refused(error: Invalid) -> TrainingFailed:
    return TrainingFailed(
        f"The training ended, but its result is not one that may enter: {error.message}",
        hint="Look at the loss curve; a lower learning_rate often helps.",
    )


def plain_json(value: Any) -> Any:
    """JSON of a PEFT config: sets sorted (their order follows the hash seed), enums by their value, nested configs as objects."""
    if isinstance(value, Mapping):
        return {str(k): plain_json(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain_json(v) for v in value)
    if isinstance(value, list | tuple):
        return [plain_json(v) for v in value]
    if hasattr(value, "value") and isinstance(value.value, str):
        return value.value
    return value


def write_result(out_dir: Path, adapter: TrainedAdapter) -> None:
    """Write result.json, last of all. Raises OSError, and ValueError for a number that is not finite."""
    data = json.dumps(adapter.as_json(), indent=1, sort_keys=True, allow_nan=False).encode("utf-8") + b"\n"
    write_whole(out_dir / RESULT_FILE, data)
