"""Completions as padded tensors: what a policy's forward consumes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.types import ProcessedPrompt


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """N completions of D prompts, right-padded."""

    prompts: tuple[ProcessedPrompt, ...]
    """D of them."""
    prompt_of_row: Tensor
    """int64 [N]: which prompt a row belongs to."""
    input_ids: Tensor
    """int64 [N, L]: prompt, completion, padding."""
    attention_mask: Tensor
    """int64 [N, L]: 1 for tokens."""
    predicting: Tensor
    """int64 [N, C]: position whose hidden state predicts each completion token."""
    targets: Tensor
    """int64 [N, C]: the completion's tokens."""
    mask: Tensor
    """float32 [N, C]: 1 for tokens of the completion."""

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
    """Pads the completions of several prompts into one batch.

    Args:
        prompts: D of them.
        completions: per prompt, the token ids of each of its completions; none empty.
        pad_token_id: what fills a row.
        device: where the tensors go.
    """
    assert len(prompts) == len(completions)
    rows = [(d, list(c)) for d, group in enumerate(completions) for c in group]
    assert all(c for _, c in rows), "a completion must hold a token"
    lengths = [len(prompts[d].prompt_token_ids) + len(c) for d, c in rows]
    num_rows, length, width = len(rows), max(lengths), max(len(c) for _, c in rows)
    input_ids = torch.full((num_rows, length), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(num_rows, length, dtype=torch.long)
    predicting = torch.zeros(num_rows, width, dtype=torch.long)
    targets = torch.full((num_rows, width), pad_token_id, dtype=torch.long)
    mask = torch.zeros(num_rows, width)
    for row, (d, completion) in enumerate(rows):
        num_prompt = len(prompts[d].prompt_token_ids)
        input_ids[row, : lengths[row]] = torch.tensor([*prompts[d].prompt_token_ids, *completion])
        attention_mask[row, : lengths[row]] = 1
        predicting[row, : len(completion)] = torch.arange(num_prompt - 1, lengths[row] - 1)
        targets[row, : len(completion)] = torch.tensor(completion)
        mask[row, : len(completion)] = 1
    return TokenBatch(
        prompts=tuple(prompts),
        prompt_of_row=torch.tensor([d for d, _ in rows]),
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        predicting=predicting.to(device),
        targets=targets.to(device),
        mask=mask.to(device),
    )
