"""Canonical JSON and the digests made from it; the difference between two manifests.

Canonical JSON is RFC 8785 (JCS): one byte sequence per value, so a digest means the same on every machine. A digest is written
`sha256:<64 hex>`; the format's name and version stand inside the hashed value, so a digest says which rules made it.
Pure: reads no file. Hashing files belongs to registry.artifacts.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import rfc8785

VERSION_FORMAT = "adapter-version/1"


def canonical(value: Any) -> bytes:
    """The RFC 8785 bytes of a JSON value. Raises ValueError for NaN, infinities and integers beyond 2**53."""
    return rfc8785.dumps(value)


def digest(value: Any) -> str:
    """sha256 over `canonical(value)`, as sha256:<hex>."""
    return digest_bytes(canonical(value))


def digest_bytes(data: bytes) -> str:
    """sha256 of bytes, as sha256:<hex>."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, order=True)
class FileEntry:
    """One file of a version: its name inside the adapter folder, its digest, its size in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class VersionManifest:
    """Everything a version's digest covers: its files and what they were made from. Numbers, times and people stay outside."""

    files: tuple[FileEntry, ...]
    dataset: str
    base_repo: str
    base_revision: str | None
    recipe: str
    persona: str
    seed: int

    def as_json(self) -> dict[str, Any]:
        """The value that is hashed."""
        return {
            "format": VERSION_FORMAT,
            "files": [{"path": f.path, "sha256": f.sha256, "size": f.size} for f in sorted(self.files)],
            "dataset": self.dataset,
            "base": {"repo": self.base_repo, "revision": self.base_revision},
            "recipe": self.recipe,
            "persona": self.persona,
            "seed": self.seed,
        }

    @property
    def digest(self) -> str:
        """sha256 over the canonical JSON of the manifest."""
        return digest(self.as_json())


def differences(expected: Iterable[FileEntry], found: Iterable[FileEntry]) -> list[str]:
    """Every difference between two file lists, a sentence each; empty when they are equal."""
    want = {f.path: f for f in expected}
    have = {f.path: f for f in found}
    lines = [f"{path}: missing" for path in sorted(want.keys() - have.keys())]
    lines += [f"{path}: not in the manifest" for path in sorted(have.keys() - want.keys())]
    for path in sorted(want.keys() & have.keys()):
        if want[path] != have[path]:
            lines.append(
                f"{path}: expected {want[path].sha256} ({want[path].size} bytes), found {have[path].sha256} ({have[path].size} bytes)"
            )
    return lines


def json_difference(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Leaf-by-leaf difference of two JSON objects as (dotted path, before, after); a missing leaf is None."""
    rows: list[tuple[str, Any, Any]] = []
    for key in sorted(before.keys() | after.keys()):
        left, right = before.get(key), after.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            rows += json_difference(left, right, f"{prefix}{key}.")
        elif left != right:
            rows.append((f"{prefix}{key}", left, right))
    return rows
