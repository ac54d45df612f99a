"""The numbers in the tensors: all finite, none too large for half precision, and not all without effect.

One NaN in an adapter that vLLM serves made answers of the *base model* NaN too (reference/training.md, 2.5), so no value goes unread. Each number is read as
its bit pattern: with the sign masked off, patterns of IEEE floats order like magnitudes and infinities and NaN come last, so one integer maximum per
tensor answers every question, bfloat16 included, which numpy lacks. Files are read in chunks into one buffer (not mapped: a mapped file
that shrinks meanwhile kills the process), so memory does not grow with the file.

What it does not judge: whether the update is too strong. That takes the base's own weights, and is the business of evaluation.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from registry.adapter_files.header import Header, Tensor
from registry.adapter_files.words import Faults, shown

# Engines cast adapters to the base's dtype; beyond the largest finite float16 a value becomes infinite there.
MAX_MAGNITUDE = 65504.0
_CHUNK_BYTES = 1 << 20  # fits the second-level cache; a multiple of every item size


@dataclass(frozen=True)
class _Float:
    """How to read one dtype: numpy's name of an unsigned integer as wide, the mask without sign, and the way from bits to a number."""

    integer: str
    magnitude: int
    number: Callable[[int], float]


def _from_bits(code: str, integer: str, shift: int = 0) -> Callable[[int], float]:
    def number(bits: int) -> float:
        value: float = struct.unpack(code, struct.pack(integer, bits << shift))[0]
        return value

    return number


_FLOATS = {
    "F32": _Float("<u4", 0x7FFF_FFFF, _from_bits("<f", "<I")),
    "BF16": _Float("<u2", 0x7FFF, _from_bits("<f", "<I", shift=16)),  # the upper half of a float32
    "F16": _Float("<u2", 0x7FFF, _from_bits("<e", "<H")),
}


def magnitudes(path: Path, header: Header, faults: Faults, seen: Callable[[memoryview], None] | None = None) -> dict[str, float]:
    """The largest absolute value of each tensor; NaN or infinity where one occurs, and then noted in `faults`. Raises OSError as reading does.

    `seen` gets the bytes behind the header in their order, for whoever computes a digest of them on the way.
    """
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    result: dict[str, float] = {}
    with path.open("rb") as file:
        file.seek(header.data_start)
        for tensor in header.tensors:  # in the order of their bytes, without gaps: no further seek
            result[tensor.name] = largest = _largest(file, tensor, buffer, seen)
            _check(tensor.name, largest, faults)
    return result


def _check(name: str, largest: float, faults: Faults) -> None:
    if not math.isfinite(largest):
        faults.add(
            "only finite values",
            f"NaN or infinity in {shown(name)}",
            "Such weights break the answers of everything served beside them: lower the learning rate and train again.",
        )
    elif largest > MAX_MAGNITUDE:
        faults.add(
            f"values of at most {MAX_MAGNITUDE:g}",
            f"{largest:g} in {shown(name)}",
            "It becomes infinite in half precision: lower the learning rate and train again.",
        )


def _largest(file: BufferedReader, tensor: Tensor, buffer: memoryview, seen: Callable[[memoryview], None] | None) -> float:
    import numpy as np

    kind = _FLOATS[tensor.dtype]
    top, left = 0, tensor.end - tensor.begin
    while left:
        chunk = buffer[: min(left, len(buffer))]
        if file.readinto(chunk) != len(chunk):
            raise OSError(f"the file ended in the middle of {tensor.name[:80]!a}, after its size was checked")
        if seen is not None:
            seen(chunk)
        bits = np.frombuffer(chunk, dtype=kind.integer)
        np.bitwise_and(bits, kind.magnitude, out=bits)
        top = max(top, int(bits.max()))
        left -= len(chunk)
    return kind.number(top)
