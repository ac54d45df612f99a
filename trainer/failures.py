"""What goes wrong while training, as sentences: what happened and what to change. Loads no torch.

Libraries raise the same few things in many shapes, so this file knows their words; everything it does not know keeps its own message.
"""

import errno
from pathlib import Path

from registry.errors import Invalid, RegistryError, TrainingFailed


def explain(error: BaseException, phase: str) -> RegistryError:
    """The error to report for whatever ended a training in `phase`."""
    if isinstance(error, RegistryError):
        return error
    text = f"{type(error).__name__}: {error}"
    if _is_disk_full(error, text):
        return TrainingFailed(
            f"The disk is full (during {phase}); no adapter was kept.", hint="Free some space, then run the command again."
        )
    if _is_out_of_memory(error, text):
        return TrainingFailed(
            f"Out of memory (during {phase}): {_first_line(error)}",
            hint="Lower batch_size (and raise gradient_accumulation), switch on gradient_checkpointing, use --method qlora, or choose a smaller base.",
        )
    if _is_gpu_gone(text):
        return TrainingFailed(
            f"The GPU does not answer any more (during {phase}): {_first_line(error)}",
            hint="Look at nvidia-smi and at the kernel's log for Xid messages; the same command goes on from the last saved state.",
        )
    if isinstance(error, ModuleNotFoundError):
        return Invalid(
            f"Training needs the 'train' extra, which is not complete here: {error.name} is missing.",
            hint="Run: pip install 'adapter-registry[train]'",
        )
    return TrainingFailed(f"Training failed (during {phase}): {_first_line(error)}")


def _is_disk_full(error: BaseException, text: str) -> bool:
    codes = {errno.ENOSPC, errno.EDQUOT}
    # safetensors (Rust) wraps the system's error into its own: "I/O error: No space left on device (os error 28)"
    # and torch's file writer says only that a write failed, whatever the system said.
    marks = ("os error 28", "No space left on device", "PytorchStreamWriter failed writing file")
    return (isinstance(error, OSError) and error.errno in codes) or any(mark in text for mark in marks)


def _is_out_of_memory(error: BaseException, text: str) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    marks = (
        "DefaultCPUAllocator: can't allocate memory",
        "DefaultCPUAllocator: not enough memory",
        "CUDA out of memory",
        "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "Cannot allocate memory",
    )
    return any(mark in text for mark in marks)


def _is_gpu_gone(text: str) -> bool:
    """CUDA's own words (driver_types.h) for a card that is lost, reset, hidden, or fell off the bus. After any of them the process can do nothing more on it."""
    lowered = text.lower()
    marks = (
        "no cuda-capable device",
        "all cuda-capable devices are busy or unavailable",
        "device lost",
        "device not ready",
        "fallen off the bus",
        "unspecified launch failure",
        "uncorrectable ecc error",
        "an illegal memory access was encountered",
        "driver shutting down",
        "cuda_error_device_unavailable",
        "xid",
    )
    return ("cuda" in lowered or "nvml" in lowered or "nccl" in lowered or "gpu" in lowered) and any(mark in lowered for mark in marks)


def _first_line(error: BaseException) -> str:
    """The first line of a library's message, short, and without this machine's folders."""
    line = (str(error).strip().splitlines() or [""])[0][:300]
    return f"{type(error).__name__}: {line.replace(str(Path.home()), '~')}".rstrip(": ") + ("" if line.endswith(".") else ".")
