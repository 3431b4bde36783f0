"""Prompts and completions as padded tensors: what a policy's forward consumes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from common.types import ProcessedPrompt


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """N completions of D prompts, both right-padded."""

    prompts: tuple[ProcessedPrompt, ...]
    prompt_ids: Tensor
    """int64 [D, P]"""
    prompt_mask: Tensor
    """int64 [D, P]: 1 for tokens."""
    prompt_of_row: Tensor
    """int64 [N]: index of a completion's prompt."""
    targets: Tensor
    """int64 [N, C]"""
    mask: Tensor
    """float32 [N, C]: 1 for tokens."""

    @property
    def num_tokens(self) -> int:
        return int(self.mask.sum())


def pack_tokens(
    prompts: Sequence[ProcessedPrompt],
    completions: Sequence[Sequence[Sequence[int]]],
    *,
    pad_token_id: int,
    device: torch.device | str = "cpu",
) -> TokenBatch:
    """Pads D prompts and their completions, given per prompt and not empty, into one batch."""
    assert len(prompts) == len(completions)
    rows = [(d, list(c)) for d, group in enumerate(completions) for c in group]
    assert all(c for _, c in rows), "a completion must hold a token"
    prompt_ids, prompt_mask = _padded([p.prompt_token_ids for p in prompts], pad_token_id)
    targets, mask = _padded([c for _, c in rows], pad_token_id)
    return TokenBatch(
        prompts=tuple(prompts),
        prompt_ids=prompt_ids.to(device),
        prompt_mask=prompt_mask.to(device),
        prompt_of_row=torch.tensor([d for d, _ in rows]).to(device),
        targets=targets.to(device),
        mask=mask.float().to(device),
    )


def _padded(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, both int64 [rows, longest]."""
    ids = pad_sequence([torch.tensor(list(row)) for row in rows], batch_first=True, padding_value=pad_token_id)
    mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
    return ids, mask
