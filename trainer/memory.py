"""The most memory a training took, in bytes: of the GPU as torch allocated it, or of the process as Linux counts it."""

import resource
from contextlib import suppress
from pathlib import Path

import torch

from trainer.recipe import Recipe


def reset_peak_memory(recipe: Recipe) -> None:
    """Begin to count again, so that a warm process does not report its largest training for every later one."""
    if recipe.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): resets the process's peak resident set size


def peak_memory(recipe: Recipe) -> int:
    """Bytes since the last reset; on a system other than Linux, since the process began."""
    if recipe.device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
