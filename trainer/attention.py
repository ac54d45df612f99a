"""Attention within each example of a row of examples laid end to end, for PyTorch's scaled dot product attention.

transformers builds one dense mask for such a row, tokens x tokens, of which all but the blocks on the diagonal is thrown away; it is quadratic in the row and
keeps the fast kernels, which take no mask, from being used. Here the attention is computed block by block, so examples cannot see each other, whatever a mask
says, and the cost is that of the examples alone. FlashAttention has this built in (`cu_seq_lens`), under the same names.

Rules: the bounds of the blocks come with every forward of a training; without them (one example at a time, while measuring) a row is one block.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

SEGMENTED = "registry_sdpa"


def register() -> None:
    """Make the name known to transformers; twice is as good as once."""
    AttentionInterface.register(SEGMENTED, segmented_attention)
    AttentionMaskInterface.register(SEGMENTED, no_mask)


def no_mask(*_arguments: Any, **_options: Any) -> None:
    """The blocks say it all; no mask is built."""


def segmented_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    segments: Sequence[int] | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each block of `segments` (bounds in tokens: 0, ..., length). query, key, value: (1, heads, tokens, head size).

    Returns (1, tokens, heads, head size). Raises RuntimeError for a 2-D mask, for a batch of rows with bounds, and in training for a row without bounds.
    """
    if attention_mask is not None or (segments is not None and query.shape[0] != 1) or (segments is None and module.training):
        raise RuntimeError("Attention by blocks takes one row with its bounds and no mask.")
    bounds = segments or (0, query.shape[2])
    blocks = [
        _block(module, query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], sliding_window, options) for a, b in itertools.pairwise(bounds)
    ]
    return (blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)), None


def _block(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None, options: dict[str, Any]
) -> torch.Tensor:
    """One example. A sliding window narrower than the example needs a mask of its own."""
    length = query.shape[2]
    mask = None
    if window is not None and window < length:
        place = torch.arange(length, device=query.device)
        distance = place[:, None] - place[None, :]
        mask = ((distance >= 0) & (distance < window))[None, None]
    out: torch.Tensor = sdpa_attention_forward(module, query, key, value, mask, **options)[0]
    return out
