"""The layout of a safetensors file: an 8-byte length, a JSON header, then the tensors' bytes without a gap.

Stricter than the format: only F32, BF16 and F16, only {"format": "pt"} as metadata (free text could carry anything), and a header of at most 1 MiB.
The same for adapters and for whole models, which differ in how many dimensions a tensor may have. Reads the header alone; values.py reads the bytes behind it.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.adapter_files.strict_json import load_object
from registry.adapter_files.words import Faults, shown

WEIGHTS_FILE = "adapter_model.safetensors"
# An adapter on all linear modules of Llama 3.1 405B (126 layers, 1,764 tensors) needs 0.3 MB; the format itself would allow 100 MB.
MAX_HEADER_BYTES = 1024 * 1024
MAX_TENSORS = 4096  # a whole Llama 3.1 405B has 1,137
ITEM_BYTES = {"F32": 4, "BF16": 2, "F16": 2}

_LENGTH_BYTES = 8
_ENTRY = {"dtype", "shape", "data_offsets"}
_AGAIN = "Write the file again with safetensors or save_pretrained, and upload all of it."


@dataclass(frozen=True)
class Tensor:
    """One entry of the header. `begin` and `end` count bytes from the start of the data; `shape` has one or two numbers from 1."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """The tensors in the order of their bytes, and where in the file those bytes start."""

    tensors: tuple[Tensor, ...]
    data_start: int


def read_header(path: Path, faults: Faults, *, vectors: bool = False) -> Header | None:
    """The header of a safetensors file, or None when the bytes cannot be told apart by it; every reason goes to `faults`. Raises OSError as reading does.

    Matrices only, as an adapter has; with `vectors` also tensors of one dimension (norms and biases of a whole model).
    """
    raw, size = _raw_header(path, faults)
    if raw is None:
        return None
    entries = _entries(raw, faults)
    if entries is None:
        return None
    if len(entries) > MAX_TENSORS:
        faults.add(f"at most {MAX_TENSORS} tensors", f"{len(entries)}", _AGAIN)
        return None
    _check_metadata(entries.pop("__metadata__", None), faults)
    tensors = sorted(
        (t for name, entry in entries.items() if (t := _tensor(name, entry, faults, vectors=vectors))), key=lambda t: (t.begin, t.end)
    )
    start = _LENGTH_BYTES + len(raw)
    if len(tensors) < len(entries) or not _covers(tensors, size - start, faults):
        return None
    return Header(tuple(tensors), start)


def _raw_header(path: Path, faults: Faults) -> tuple[bytes | None, int]:
    """The header's bytes, and the size of the whole file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(_LENGTH_BYTES)
        if len(prefix) < _LENGTH_BYTES:
            faults.add("a safetensors file, which opens with 8 bytes of header length", f"a file of {size} bytes", _AGAIN)
            return None, size
        length = int.from_bytes(prefix, "little")
        if length > MAX_HEADER_BYTES:
            faults.add(f"a header of at most {MAX_HEADER_BYTES} bytes", f"a header length of {length}", _AGAIN)
            return None, size
        raw = file.read(length)
    if len(raw) < length:
        faults.add(f"a header of {length} bytes, as its length says", f"a file that ends after {len(raw)} of them", _AGAIN)
        return None, size
    return raw, size


def _entries(raw: bytes, faults: Faults) -> dict[str, Any] | None:
    if not raw.startswith(b"{"):
        faults.add("a header that opens with '{'", shown(raw[:8]), _AGAIN)
        return None
    try:
        return load_object(raw)
    except ValueError as error:
        faults.add("a header that is one JSON object", str(error), _AGAIN)
        return None


def _check_metadata(metadata: Any, faults: Faults) -> None:
    if metadata is not None and metadata != {"format": "pt"}:
        faults.add(
            '__metadata__ to be {"format": "pt"} or left out', shown(metadata), "Notes belong in README.md: save the tensors without them."
        )


def _tensor(name: str, entry: Any, faults: Faults, *, vectors: bool) -> Tensor | None:
    """The tensor an entry describes, or None with the fault noted."""
    if not isinstance(entry, dict) or entry.keys() != _ENTRY:
        faults.add("each header entry to hold dtype, shape and data_offsets and nothing else", f"{shown(entry)} for {shown(name)}", _AGAIN)
        return None
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        faults.add(
            "tensors of F32, BF16 or F16",
            f"{shown(dtype)} in {shown(name)}",
            "Save the weights themselves, not a quantised form of them.",
        )
        return None
    if not (_numbers(shape, 2) or (vectors and _numbers(shape, 1))) or 0 in shape:
        wanted = (
            "one or two whole numbers from 1, as vectors and matrices have" if vectors else "two whole numbers from 1, as matrices have"
        )
        faults.add(f"each shape to be {wanted}", f"{shown(shape)} in {shown(name)}", _AGAIN)
        return None
    if not _numbers(offsets, 2):
        faults.add("data_offsets to be two whole numbers", f"{shown(offsets)} in {shown(name)}", _AGAIN)
        return None
    if offsets[1] - offsets[0] != math.prod(shape) * ITEM_BYTES[dtype]:
        faults.add(
            "data_offsets to span what dtype and shape need", f"{shown(offsets)} for {dtype} {shown(shape)} in {shown(name)}", _AGAIN
        )
        return None
    return Tensor(name, dtype, tuple(shape), offsets[0], offsets[1])


def _numbers(value: Any, count: int) -> bool:
    """Whether this is a list of `count` whole numbers from 0; True is no number here."""
    return isinstance(value, list) and len(value) == count and all(type(item) is int and item >= 0 for item in value)


def _covers(tensors: list[Tensor], data_bytes: int, faults: Faults) -> bool:
    """Whether every byte behind the header belongs to exactly one tensor."""
    at, sound = 0, True
    for tensor in tensors:
        if tensor.begin != at:
            what = "a gap" if tensor.begin > at else "an overlap"
            faults.add(
                "tensors that follow one another without gap or overlap", f"{what} at byte {shown(at)} before {shown(tensor.name)}", _AGAIN
            )
            sound = False
        at = max(at, tensor.end)
    if at != data_bytes:
        what = "is cut short" if data_bytes < at else "has bytes that no tensor owns"
        faults.add(f"exactly {shown(at)} bytes behind the header, as the tensors say", f"{data_bytes}: the file {what}", _AGAIN)
        sound = False
    return sound
