"""The GRPO loss, as pure functions of per-token tensors.

Shapes: N completions, C their longest, in tokens. Masked positions take no part, whatever their values.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Aggregation = Literal["sequence", "token", "constant"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Denominators:
    """Divisors of the summed loss, of the whole batch over all ranks."""

    num_sequences: float
    num_tokens: float
    max_tokens: float
    """Most tokens of a completion: the constant of Dr.GRPO."""


def k3(logprobs: Float[Tensor, "n c"], other: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """exp(d) - d - 1 with d = other - logprobs: a non-negative, unbiased estimate of
    KL(policy || other) on tokens drawn from the policy (Schulman 2020, "Approximating KL divergence").
    """
    difference = other - logprobs
    return torch.expm1(difference) - difference


def policy_loss(
    logprobs: Float[Tensor, "n c"],
    old_logprobs: Float[Tensor, "n c"],
    advantages: Float[Tensor, " n"],
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A) per token (DeepSeekMath, equation 3).

    With `old_logprobs` equal to `logprobs` the ratio is exactly 1 and the gradient that of -A log p. Only
    `logprobs` carry a gradient.

    Returns:
        The loss per token, and 1.0 if the clipped branch is the smaller and its gradient is zero.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    advantage = advantages.unsqueeze(-1)
    unclipped = ratio * advantage
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    return -torch.minimum(unclipped, clipped), (clipped < unclipped).to(logprobs.dtype)


def aggregate(
    per_token: Float[Tensor, "n c"], mask: Float[Tensor, "n c"], *, how: Aggregation, denominators: Denominators
) -> Float[Tensor, ""]:
    """A part's share of the batch's loss: the parts of a batch, on any rank, add up to the whole.

    `sequence` is the mean over a completion's tokens, then over completions (DeepSeekMath). `token` weighs every
    token of the batch alike (DAPO). `constant` divides by completions x most tokens (Dr.GRPO).
    """
    kept = per_token.masked_fill(mask == 0, 0.0)
    if how == "sequence":
        return (kept.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sum() / denominators.num_sequences
    if how == "token":
        return kept.sum() / denominators.num_tokens
    return kept.sum() / (denominators.num_sequences * denominators.max_tokens)


def masked_sum(values: Float[Tensor, "n c"], mask: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """Sum over unmasked positions; masked values, NaN included, take no part."""
    return values.masked_fill(mask == 0, 0.0).sum()
