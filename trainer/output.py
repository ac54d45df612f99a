"""Writes a training's files: whole or not at all, readable by others, and checked before anything says that they are complete. Loads no torch.

Rules: each file is written beside its place, flushed to disk and renamed; mode 0644 (PEFT writes 0600, which a serving process under another user cannot
read); the config is the registry's canonical form and names the registered base, never a path; result.json comes last.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry.adapter_files import BaseCard, base_card_from_config, canonical_config, check_adapter
from registry.errors import Invalid, TrainingFailed
from registry.manifest import FileEntry, digest_bytes
from trainer.bases import BaseSpec
from trainer.spec import CONFIG_FILE, FILES_FOLDER, RESULT_FILE, WEIGHTS_FILE, TrainedAdapter


def prepare_folder(out_dir: Path) -> Path:
    """Make the folder of the files and take away a former result, so that what is found there later is this run's. Raises OSError."""
    (out_dir / RESULT_FILE).unlink(missing_ok=True)
    folder = out_dir / FILES_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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
        entries = (
            write_whole(folder / CONFIG_FILE, canonical_config(named, base.repo, base.revision)),
            write_whole(folder / WEIGHTS_FILE, weights),
        )
        card = base_card_from_config(base.config or {}, base.repo, base.revision) or BaseCard(base.repo, base.revision)
        check_adapter({entry.path: folder / entry.path for entry in entries}, card)
    except Invalid as error:
        raise TrainingFailed(
            f"The training ended, but its adapter is not one that may enter: {error.message}",
            hint="Look at the loss curve; a lower learning_rate often helps.",
        ) from error
    return entries


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
