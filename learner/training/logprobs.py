"""The difference between the sampler's log-probabilities and the learner's."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learner.training.loss import k3, masked_sum


@dataclass(frozen=True, kw_only=True, slots=True)
class Mismatch:
    """Sums over tokens, which add up over parts and ranks."""

    num_tokens: float
    sum_abs: float
    max_abs: float
    sum_kl_rollout: float
    """k3 of the learner's policy against the sampler's."""


def mismatch(
    logprobs: Float[Tensor, "n c"], rollout_logprobs: Float[Tensor, "n c"], mask: Float[Tensor, "n c"]
) -> Mismatch:
    """Compares the two planes on the trained tokens."""
    with torch.no_grad():
        difference = (logprobs - rollout_logprobs).abs().masked_fill(mask == 0, 0.0)
        # tokens were drawn by the sampler: KL(rollout || learner)
        kl_rollout = k3(rollout_logprobs, logprobs)
        return Mismatch(
            num_tokens=float(mask.sum()),
            sum_abs=float(difference.sum()),
            max_abs=float(difference.max()) if difference.numel() else 0.0,
            sum_kl_rollout=float(masked_sum(kl_rollout, mask)),
        )
