"""Safetensors files written by hand with struct and numpy, so that every byte of them can be wrong."""

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

DTYPES = {"<f4": "F32", "<f2": "F16", "<u2": "BF16", "|i1": "I8"}  # bfloat16, which numpy lacks, as the bits it is


def entries(content: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The header of a file with these tensors in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, array in content.items():
        header[name] = {"dtype": DTYPES[array.dtype.str], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    return header


def pack(header: Any, data: bytes) -> bytes:
    """A file of a header, which may be bytes already, and what stands behind it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def safetensors(content: Mapping[str, np.ndarray]) -> bytes:
    """A whole file."""
    return pack(entries(content), b"".join(array.tobytes() for array in content.values()))


def bf16(array: np.ndarray) -> np.ndarray:
    """float32 cut to bfloat16, as bits."""
    return (array.view("<u4") >> 16).astype("<u2")
