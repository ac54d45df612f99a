"""Fixtures of the trainer's tests: the built-in base, small dataset folders, and specs."""

import json
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from registry.manifest import digest
from trainer.bases import BaseSpec, local_base, resolve_base
from trainer.examples import seal

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
Pair = tuple[str, str]


@pytest.fixture(scope="session")
def tiny(tiny_bases: Path) -> BaseSpec:
    """The built-in base."""
    return resolve_base("tiny", tiny_bases.parent)


@pytest.fixture(scope="session")
def tiny_bases_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseSpec]:
    """A tiny random model of every architecture (tests/tiny_models.py), as local bases by name."""
    import tiny_models

    folder = tmp_path_factory.mktemp("architectures")
    return {name: local_base(tiny_models.build(name, folder)) for name in tiny_models.DESIGNS}


@pytest.fixture(scope="session")
def pairs() -> list[Pair]:
    """Real single-turn question and answer pairs: those of the three example advisors."""
    out = []
    for path in sorted(EXAMPLES.glob("*/pairs.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            turns = [m for m in json.loads(line)["messages"] if m["role"] != "system"]
            if len(turns) == 2:
                out.append((turns[0]["content"], turns[1]["content"]))
    return out


def row(*turns: str) -> dict[str, Any]:
    """A line of train.jsonl: turns of user and assistant in turn."""
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": t} for i, t in enumerate(turns)]
    return {"sha256": digest(messages), "messages": messages}


def write_dataset(folder: Path, train: Iterable[Sequence[str]], heldout: Iterable[Sequence[str]] = ()) -> Path:
    """A dataset folder as jobs/train.py writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, conversations in {"train": train, "heldout": heldout}.items():
        rows = [json.dumps(row(*c), ensure_ascii=False) + "\n" for c in conversations]
        (folder / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
    seal(folder, "sha256:" + "a" * 64)
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write a dataset folder: dataset(train, heldout)."""
    return lambda train, heldout=(), name="dataset": write_dataset(tmp_path / name, train, heldout)


@pytest.fixture(scope="session")
def dataset_at() -> Callable[..., Path]:
    """Write a dataset folder in a place of one's own: dataset_at(folder, train, heldout)."""
    return write_dataset


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install an nvidia-smi that prints the given text and exits with the given code."""

    def install(text: str, code: int = 0) -> None:
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        script.chmod(script.stat().st_mode | stat.S_IEXEC)

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return install
