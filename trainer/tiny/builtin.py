"""Finds the built-in base under the registry's home, or has it made by a process of its own. Loads no torch.

Rules: the folder's name carries a digest of everything that is built in (text, tokenizer, template, design), so another release never takes a stale one;
base.json is written last, and a folder without it does not exist; weights that changed on disk are refused.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from filelock import FileLock

from registry.errors import Invalid, TrainingFailed
from registry.manifest import digest, digest_bytes
from trainer.bases import BASE_FILE, BaseSpec, OnEvent, file_digest, read_config, revision_of
from trainer.chat import MISTRAL, packaged_digest
from trainer.child import child_environment
from trainer.preflight import SMALL_REAL_BASE
from trainer.tiny.design import DESIGN

REPO = "adapter-registry/tiny-mistral"
NOTE = (
    f"Built-in tiny base: it proves the plumbing and talks nonsense. For readable text pass --base {SMALL_REAL_BASE} or another real model."
)


def corpus() -> str:
    """The packaged text the base is pretrained on."""
    return (files("trainer") / "tiny" / "corpus.txt").read_text(encoding="utf-8")


def tokenizer_json() -> str:
    """The packaged byte-level BPE tokenizer, as the tokenizers library writes it."""
    return (files("trainer") / "tiny" / "tokenizer.json").read_text(encoding="utf-8")


def design_digest() -> str:
    """sha256 over everything the base is made from, except the versions of the libraries that make it."""
    parts = {"corpus": corpus(), "tokenizer": tokenizer_json()}
    return digest(
        {
            **DESIGN,
            **{k: digest_bytes(v.encode("utf-8")) for k, v in parts.items()},
            "chat_template": packaged_digest(MISTRAL),
            "note": NOTE,
        }
    )


def builtin_folder(home: Path) -> Path:
    """Where this release's built-in base lies, made or not."""
    return home / "bases" / f"tiny-mistral-{design_digest().removeprefix('sha256:')[:12]}"


def builtin_base(home: Path, on_event: OnEvent | None = None) -> BaseSpec:
    """The built-in base, made first when it is missing (about half a minute). Raises Invalid (damaged, no torch) or TrainingFailed (could not be made)."""
    folder = builtin_folder(home)
    if not (folder / BASE_FILE).is_file():
        _make(folder, on_event)
    return _read(folder)


def _make(folder: Path, on_event: OnEvent | None) -> None:
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        raise Invalid(
            "Training needs the 'train' extra, which is not installed here: torch is missing.",
            hint="Run: pip install 'adapter-registry[train]'",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Two processes would make the same bytes; the lock only saves the second one the work. The rename inside is what keeps it safe.
    with FileLock(folder.with_suffix(".lock")):
        if (folder / BASE_FILE).is_file():
            return
        if on_event:
            on_event({"event": "phase", "name": "base_build"})
        command = [sys.executable, "-m", "trainer.tiny.build", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, env=child_environment(offline=True), check=False)
    if done.returncode or not (folder / BASE_FILE).is_file():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TrainingFailed(
            f"The built-in base could not be made (exit code {done.returncode}): {last[:300]}",
            hint=f"It needs about 20 MB free under {folder.parent} and about 1 GB of memory; then try again.",
        )


def _read(folder: Path) -> BaseSpec:
    try:
        facts: Mapping[str, Any] = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))
        recorded = str(facts["weights_sha256"])
        found = file_digest(folder / "model.safetensors")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Invalid(
            f"The built-in base is damaged: {type(error).__name__} in {folder.name}.",
            hint=f"Delete {folder}; it is made again when needed.",
        ) from None
    if found != recorded:
        raise Invalid(
            f"The built-in base's weights changed on disk: expected {recorded}, found {found}.",
            hint=f"Delete {folder}; it is made again when needed.",
        )
    return BaseSpec(
        kind="builtin",
        repo=REPO,
        revision=revision_of(recorded),
        path=folder.absolute(),
        weights_sha256=recorded,
        note=NOTE,
        config=read_config(folder),
        chat_template_sha256=packaged_digest(MISTRAL),
    )
