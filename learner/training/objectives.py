"""The losses of GRPO and of supervised training for one forward pass, and the sums behind their metrics."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from common.config.learner import ObjectiveConfig
from learner.training.batch import MicroBatch
from learner.training.logprobs import mismatch
from learner.training.loss import Denominators, aggregate, k3, masked_sum, policy_loss
from learner.training.step_sums import StepSums


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """One micro-batch with the log-probabilities that its own are compared with."""

    batch: MicroBatch
    old: Tensor | None = None
    """float32 [N, C], the ratio's denominator; None for the current policy's own: the ratio is then exactly 1."""
    reference: Tensor | None = None
    """float32 [N, C] of the frozen reference; None without a reference."""


class Objective(Protocol):
    """The loss of a pass: its sum over the denominators of the whole batch."""

    @property
    def temperature(self) -> float:
        """Temperature of the distribution that is trained; it divides every logit."""
        ...

    def __call__(
        self, part: Pass, logprobs: Tensor, entropy: Tensor, *, denominators: Denominators, sums: StepSums
    ) -> Tensor:
        """Returns a float32 scalar; `logprobs` [N, C] carry the gradient, `entropy` [N, C] none."""
        ...


class GrpoObjective:
    """The clipped policy loss and the KL to the reference."""

    def __init__(self, config: ObjectiveConfig, *, temperature: float) -> None:
        self._config, self.temperature = config, temperature

    def __call__(
        self, part: Pass, logprobs: Tensor, entropy: Tensor, *, denominators: Denominators, sums: StepSums
    ) -> Tensor:
        batch, mask, config = part.batch, part.batch.tokens.mask, self._config
        logprobs, entropy = without_padding(logprobs, mask), without_padding(entropy, mask)
        per_token, is_clipped = policy_loss(
            logprobs,
            logprobs.detach() if part.old is None else without_padding(part.old, mask),
            batch.advantages,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
        )
        if part.reference is not None:
            kl_ref = k3(logprobs, without_padding(part.reference, mask))
            per_token = per_token + config.beta * kl_ref
            sums.add("kl_ref", masked_sum(kl_ref.detach(), mask))
        loss = aggregate(per_token, mask, how=config.aggregation, denominators=denominators)
        planes = mismatch(logprobs.detach(), without_padding(batch.rollout_logprobs, mask), mask)
        sums.add("loss", loss.detach())
        sums.add("num_tokens", planes.num_tokens)
        sums.add("num_clipped", masked_sum(is_clipped, mask))
        sums.add("entropy", masked_sum(entropy, mask))
        sums.add("sum_abs", planes.sum_abs)
        sums.add("sum_kl_rollout", planes.sum_kl_rollout)
        sums.see_max(planes.max_abs)
        return loss


class SftObjective:
    """The mean negative log-probability of the batch's tokens; at temperature 1, not the sampler's."""

    temperature = 1.0

    def __call__(
        self, part: Pass, logprobs: Tensor, entropy: Tensor, *, denominators: Denominators, sums: StepSums
    ) -> Tensor:
        mask = part.batch.tokens.mask
        loss = -without_padding(logprobs, mask).sum() / denominators.num_tokens
        sums.add("loss", loss.detach())
        sums.add("num_tokens", part.batch.tokens.num_tokens)
        sums.add("entropy", masked_sum(entropy, mask))
        return loss


def without_padding(values: Tensor, mask: Tensor) -> Tensor:
    # padding may hold anything, and 0 x infinity would reach the gradient
    return values.masked_fill(mask == 0, 0.0)
