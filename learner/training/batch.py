"""Micro-batches of groups: the share of each rank, and the order of its passes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from common.models.tokens import TokenBatch, pack_tokens
from common.types import Group, ProcessedPrompt
from learner.training.advantage import group_advantages


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainGroup:
    """The tokens and advantages of one group."""

    prompt: ProcessedPrompt
    token_ids: tuple[tuple[int, ...], ...]
    """[G][C_i]"""
    rollout_logprobs: tuple[tuple[float, ...], ...]
    """[G][C_i]"""
    advantages: tuple[float, ...]
    """[G]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """One forward and backward pass."""

    tokens: TokenBatch
    rollout_logprobs: Tensor
    """float32 [N, C]"""
    advantages: Tensor
    """float32 [N]"""
    is_empty: bool = False
    """A pass of weight zero, by which a rank with less work joins the collectives of the others."""


def train_group(group: Group, prompt: ProcessedPrompt) -> TrainGroup:
    rewards = torch.tensor([[s.score.total for s in group.samples]], dtype=torch.float64)
    advantages = cast(list[float], group_advantages(rewards)[0].tolist())
    return TrainGroup(
        prompt=prompt,
        token_ids=tuple(s.completion.token_ids for s in group.samples),
        rollout_logprobs=tuple(s.completion.rollout_logprobs for s in group.samples),
        advantages=tuple(advantages),
    )


def train_example(prompt: ProcessedPrompt, token_ids: Sequence[int]) -> TrainGroup:
    """A prompt and the completion to imitate, as a group of one."""
    return TrainGroup(
        prompt=prompt, token_ids=(tuple(token_ids),), rollout_logprobs=((0.0,) * len(token_ids),), advantages=(1.0,)
    )


def split_groups(costs: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Indices of groups per rank, ascending: the costliest group first, each to the rank with the least tokens."""
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        rank = loads.index(min(loads))
        shares[rank].append(index)
        loads[rank] += costs[index]
    return [sorted(share) for share in shares]


def token_cost(num_prompt_tokens: int, completion_lengths: Sequence[int]) -> int:
    # completions share the pass of their prompt
    return num_prompt_tokens + sum(completion_lengths)


def micro_batches(
    groups: Sequence[TrainGroup], *, max_rows: int, max_tokens: int, pad_token_id: int, device: torch.device | str
) -> list[MicroBatch]:
    """Cuts one rank's groups into passes within a budget of completions and of tokens, padding included.

    Whole groups share a pass while they fit; a group larger than a pass is cut by rows, and its prompt passes
    again with each part. One completion with its prompt may exceed the budget.
    """
    passes: list[list[tuple[TrainGroup, range]]] = []
    for group in groups:
        whole = (group, range(len(group.token_ids)))
        budget = {"max_rows": max_rows, "max_tokens": max_tokens}
        if passes and _fits([*passes[-1], whole], **budget):
            passes[-1].append(whole)
        else:
            passes += [[part] for part in _cut(group, **budget)]
    return [_micro_batch(parts, pad_token_id=pad_token_id, device=device) for parts in passes]


def _cut(group: TrainGroup, *, max_rows: int, max_tokens: int) -> list[tuple[TrainGroup, range]]:
    """The fewest runs of rows that fit, of at least one row each."""
    parts: list[tuple[TrainGroup, range]] = []
    first = 0
    for row in range(1, len(group.token_ids) + 1):
        is_end = row == len(group.token_ids)
        if is_end or not _fits([(group, range(first, row + 1))], max_rows=max_rows, max_tokens=max_tokens):
            parts.append((group, range(first, row)))
            first = row
    return parts


def _fits(parts: Sequence[tuple[TrainGroup, range]], *, max_rows: int, max_tokens: int) -> bool:
    """True if prompts and completions, each padded to their longest, are within the budget."""
    lengths = [len(group.token_ids[i]) for group, rows in parts for i in rows]
    prompt = max(len(group.prompt.prompt_token_ids) for group, _ in parts)
    return len(lengths) <= max_rows and len(parts) * prompt + len(lengths) * max(lengths) <= max_tokens


def empty_micro_batch(*, pad_token_id: int, device: torch.device | str) -> MicroBatch:
    """One row of padding whose loss is multiplied by zero."""
    prompt = ProcessedPrompt(
        prompt_token_ids=(pad_token_id, pad_token_id), tensors={}, placeholders={}, clip_hash="empty"
    )
    tokens = pack_tokens([prompt], [[[pad_token_id]]], pad_token_id=pad_token_id, device=device)
    zeros = torch.zeros(1, 1, device=device)
    return MicroBatch(tokens=tokens, rollout_logprobs=zeros, advantages=zeros[0], is_empty=True)


def _micro_batch(
    parts: list[tuple[TrainGroup, range]], *, pad_token_id: int, device: torch.device | str
) -> MicroBatch:
    tokens = pack_tokens(
        [group.prompt for group, _ in parts],
        [[group.token_ids[i] for i in rows] for group, rows in parts],
        pad_token_id=pad_token_id,
        device=device,
    )
    logprobs = [torch.tensor(group.rollout_logprobs[i]) for group, rows in parts for i in rows]
    return MicroBatch(
        tokens=tokens,
        rollout_logprobs=pad_sequence(logprobs, batch_first=True).to(device),
        advantages=torch.tensor([group.advantages[i] for group, rows in parts for i in rows]).to(device),
    )
