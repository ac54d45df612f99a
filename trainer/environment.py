"""What a repeat of a training needs to know about the machine and the software; nothing that names a person or a path.

Rules: what is unknown is null, never guessed; the class of reproducibility is stated per run: 'bitwise' on a CPU (measured: same spec, same bytes),
'statistical' on a GPU, where atomics in backward kernels change sums from run to run (transformers#31787).
"""

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from registry.manifest import digest
from trainer.recipe import Recipe

# The packages that decide what a training computes; the complete list stands beside, in pip_freeze.
PACKAGES = (
    "accelerate",
    "adapter-registry",
    "bitsandbytes",
    "huggingface-hub",
    "jinja2",
    "numpy",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)


def capture(recipe: Recipe) -> dict[str, Any]:
    """The environment of the running process, after torch was configured."""
    import torch

    frozen = pip_freeze()
    cuda = recipe.device == "cuda"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "packages": versions_of(PACKAGES),
        "pip_freeze": frozen,
        "pip_freeze_sha256": digest(frozen),
        "code": code_version(),
        "device": torch.cuda.get_device_name(0) if cuda else "cpu",
        "devices": recipe.processes if cuda else 0,
        "driver": _driver() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "attention": recipe.attention,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "python_hash_seed": os.environ.get("PYTHONHASHSEED"),
        "mkl_cbwr": os.environ.get("MKL_CBWR"),
        "reproducibility": "statistical" if cuda else "bitwise",
    }


def pip_freeze() -> list[str]:
    """Every installed distribution as name==version, sorted. Names and versions only: where one came from may be a path of this machine."""
    return list(_frozen())


@cache
def _frozen() -> tuple[str, ...]:
    """Read once a process: what is imported stays the same, and reading takes longer than a warm training of a tiny model (0.8 s)."""
    found = {(d.name.lower().replace("_", "-"), d.version) for d in metadata.distributions() if d.name}
    return tuple(sorted(f"{name}=={version}" for name, version in found))


def versions_of(names: Iterable[str]) -> Mapping[str, str | None]:
    """The installed versions; None for what is not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _driver() -> str | None:
    """The NVIDIA driver's version."""
    from trainer.preflight import detect_device

    device = detect_device()
    return device.driver if device is not None else None


def _processor() -> str | None:
    """The CPU's model name on Linux; None elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)


def code_version() -> dict[str, Any] | None:
    """{"commit", "dirty"} when this package runs from a git checkout of the product; None otherwise, also inside another project's repository."""
    here = Path(__file__).resolve().parent
    if _git(here, "ls-files", "--error-unmatch", "recipe.py") is None:
        return None
    commit = _git(here, "rev-parse", "HEAD")
    changes = _git(here, "status", "--porcelain", "--", ".")
    return {"commit": commit, "dirty": bool(changes)} if commit else None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
