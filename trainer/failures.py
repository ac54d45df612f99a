"""What goes wrong while training, as sentences: what happened and what to change. Loads no torch.

Libraries raise the same few things in many shapes, so this file knows their words; everything it does not know keeps its own message.
"""

import errno
import re

from registry.errors import Invalid, RegistryError, TrainingFailed


def explain(error: BaseException, phase: str) -> RegistryError:
    """The error to report for whatever ended a training in `phase`."""
    if isinstance(error, RegistryError):
        return error
    text = f"{type(error).__name__}: {error}"
    if is_disk_full(error):
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


def is_disk_full(error: BaseException) -> bool:
    """Whether this is the system's or a library's way to say that the disk, or the user's share of it, is full."""
    text = f"{type(error).__name__}: {error}"
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
    return f"{type(error).__name__}: {without_folders(line)}".rstrip(": ") + ("" if line.endswith(".") else ".")


# An absolute path of two or more names; the slashes of an address (https://...) or of a model's name (org/model) follow a letter, a colon or a slash.
_PATH = re.compile(r"(?<![\w:/.~-])~?(?:/[^\s/'\"<>|:,;()]+)+(?=/[^\s/'\"<>|:,;()]+)")


def without_folders(text: str) -> str:
    """The text with every absolute path cut down to its last name: people far away read it, and this machine's folders are none of their business."""
    return _PATH.sub("...", text)
