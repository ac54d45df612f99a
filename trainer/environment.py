"""What a repeat of a training needs to know about the machine and the software; nothing that names a person or a path.

Rules: what is unknown is null, never guessed; the class of reproducibility is stated per run: 'bitwise' on a CPU (measured: same spec, same bytes),
'statistical' on a GPU, where atomics in backward kernels change sums from run to run (transformers#31787).
"""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from trainer.recipe import Recipe

PACKAGES = (
    "accelerate",
    "adapter-registry",
    "bitsandbytes",
    "datasets",
    "huggingface-hub",
    "jinja2",
    "numpy",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)


def capture(recipe: Recipe) -> dict[str, Any]:
    """The environment of the running process, after torch was configured."""
    import torch

    cuda = recipe.device == "cuda"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "packages": _packages(),
        "code": code_version(),
        "device": torch.cuda.get_device_name(0) if cuda else "cpu",
        "cuda": torch.version.cuda if cuda else None,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "python_hash_seed": os.environ.get("PYTHONHASHSEED"),
        "mkl_cbwr": os.environ.get("MKL_CBWR"),
        "reproducibility": "statistical" if cuda else "bitwise",
    }


def _processor() -> str | None:
    """The CPU's model name on Linux; None elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)


def _packages() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


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
