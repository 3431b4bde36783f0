"""What one forward pass is worth: the losses of reinforcement and of supervised training, with their sums."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from common.config.learner import LearnerConfig
from learner.training.batch import MicroBatch
from learner.training.logprobs import mismatch
from learner.training.loss import Denominators, aggregate, k3, masked_sum, policy_loss
from learner.training.step_sums import StepSums


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """One micro-batch and what it is compared with."""

    batch: MicroBatch
    old: Tensor | None = None
    """float32 [N, C] log-probabilities that the ratio is taken against; None for the current policy's own, of which
    the ratio is exactly 1."""
    reference: Tensor | None = None
    """float32 [N, C] of the frozen reference; None without one."""


class Objective(Protocol):
    """The loss of a pass: its sum over the denominators of the whole batch."""

    @property
    def temperature(self) -> float:
        """Of the distribution that is trained."""
        ...

    def __call__(
        self, made: Pass, logprobs: Tensor, entropy: Tensor, *, denominators: Denominators, sums: StepSums
    ) -> Tensor: ...


class GrpoObjective:
    """The clipped policy loss and the KL to the reference."""

    def __init__(self, config: LearnerConfig, *, temperature: float) -> None:
        """Takes the loss's settings, and the sampler's temperature, which every logit is divided by here too."""
        self._config, self.temperature = config, temperature

    def __call__(
        self, made: Pass, logprobs: Tensor, entropy: Tensor, *, denominators: Denominators, sums: StepSums
    ) -> Tensor:
        """float32 scalar; `logprobs` [N, C] carry the gradient."""
        batch, mask, config = made.batch, made.batch.tokens.mask, self._config
        logprobs, entropy = without_padding(logprobs, mask), without_padding(entropy, mask)
        per_token, is_clipped = policy_loss(
            logprobs,
            logprobs.detach() if made.old is None else without_padding(made.old, mask),
            batch.advantages,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
        )
        if made.reference is not None:
            kl_ref = k3(logprobs, without_padding(made.reference, mask))
            per_token = per_token + config.beta * kl_ref
            sums.add("kl_ref", masked_sum(kl_ref.detach(), mask))
        loss = aggregate(per_token, mask, how=config.aggregation, denominators=denominators)
        found = mismatch(logprobs.detach(), without_padding(batch.rollout_logprobs, mask), mask)
        sums.add("loss", loss.detach())
        sums.add("num_tokens", found.num_tokens)
        sums.add("num_clipped", masked_sum(is_clipped, mask))
        sums.add("entropy", masked_sum(entropy, mask))
        sums.add("sum_abs", found.sum_abs)
        sums.add("sum_kl_rollout", found.sum_kl_rollout)
        sums.see_max(found.max_abs)
        return loss


class SftObjective:
    """The mean negative log-probability of the batch's tokens; at temperature 1, whatever the sampler's is."""

    temperature = 1.0

    def __call__(
        self, made: Pass, logprobs: Tensor, entropy: Tensor, *, denominators: Denominators, sums: StepSums
    ) -> Tensor:
        """float32 scalar; `logprobs` [N, C] carry the gradient."""
        mask = made.batch.tokens.mask
        loss = -without_padding(logprobs, mask).sum() / denominators.num_tokens
        sums.add("loss", loss.detach())
        sums.add("num_tokens", made.batch.tokens.num_tokens)
        sums.add("entropy", masked_sum(entropy, mask))
        return loss


def without_padding(values: Tensor, mask: Tensor) -> Tensor:
    """Padding may hold anything, and 0 x infinity would reach the gradient."""
    return values.masked_fill(mask == 0, 0.0)
