"""Attention of the towers, whose tokens attend within windows: one call for all windows of a length.

transformers calls once per window, 32 times for a clip of four frames in each of 28 layers; on a GPU the launches
take longer than the arithmetic. Values and gradients are the same.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface

NAME = "flash_by_length"
"""With this beginning, transformers passes the borders of windows instead of cutting at them."""
Windows = list[tuple[int, Tensor | None]]
"""Length of W windows, and their tokens int64 [W, length]; None if they are all tokens in order."""
_windows_of: Any = WeakTensorKeyDictionary()
"""Cache by borders, which all layers of a pass share: reading them waits for the device."""


def attend_by_length(thinker: Any) -> None:
    """Makes both towers of a thinker use the windowed attention."""
    AttentionInterface.register(NAME, _attention)
    for tower in (thinker.visual, thinker.audio_tower):
        tower.config._attn_implementation = NAME


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of tensors [1, heads, tokens, width], as transformers passes them; [1, tokens, heads, width]."""
    windows = _windows(cu_seq_lens_q)
    heads, width = query.shape[1], query.shape[3]
    out: Tensor | None = None
    for length, tokens in windows:
        q, k, v = (
            (t[0].view(heads, -1, length, width) if tokens is None else t[0][:, tokens]).transpose(0, 1)
            for t in (query, key, value)
        )
        attended = scaled_dot_product_attention(q, k, v, scale=scaling).permute(0, 2, 1, 3)
        if tokens is None:
            return attended.reshape(1, -1, heads, width), None
        if out is None:
            out = torch.empty_like(query).transpose(1, 2)
        out = out.index_put((torch.zeros_like(tokens), tokens), attended)
    assert out is not None, "a tower must receive tokens"
    return out, None


def _windows(borders: Tensor) -> Windows:
    windows = _windows_of.get(borders)
    if windows is None:
        windows = _windows_of[borders] = _grouped(cast(Sequence[int], borders.tolist()), borders.device)
    return windows


def _grouped(borders: Sequence[int], device: torch.device) -> Windows:
    starts: dict[int, list[int]] = defaultdict(list)
    for start, end in itertools.pairwise(borders):
        if end > start:
            starts[end - start].append(start)
    if len(starts) == 1:
        return [(length, None) for length in starts]
    return [
        (length, (torch.tensor(first).unsqueeze(1) + torch.arange(length)).to(device))
        for length, first in starts.items()
    ]
