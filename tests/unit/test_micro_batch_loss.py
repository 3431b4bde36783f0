"""What a rank makes of one micro-batch: the pieces of the loss put together, without DeepSpeed."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from common.config.learner import LearnerConfig
from learner.batch import MicroBatch, TrainGroup, empty_micro_batch, micro_batches
from learner.engine import LearnerEngine
from learner.loss import Denominators
from learner.tally import Tally
from tests.support.builders import text_prompt

BETA = 0.04


def micro_batch() -> MicroBatch:
    """Rows of 3 and 1 tokens."""
    group = TrainGroup(
        prompt=text_prompt([7, 8]),
        token_ids=((1, 2, 3), (4,)),
        rollout_logprobs=((-1.0, -2.0, -0.5), (-0.25,)),
        advantages=(0.8, -0.6),
    )
    return micro_batches([group], max_rows=4, pad_token_id=0, device="cpu")[0]


def loss_of(
    batch: MicroBatch,
    logprobs: Tensor,
    *,
    reference: Tensor | None = None,
    old: Tensor | None = None,
    beta: float = BETA,
) -> tuple[Tensor, dict[str, float]]:
    """The product's own composition, and its tally."""
    rank = SimpleNamespace(config=LearnerConfig(beta=beta))
    tally = Tally()
    denominators = Denominators(num_sequences=2.0, num_tokens=4.0, max_tokens=8.0)
    entropy = torch.full_like(logprobs, 0.5).detach()
    loss = LearnerEngine._loss(  # pyright: ignore[reportPrivateUsage]
        rank,
        batch,
        logprobs,
        entropy,
        reference,
        old,
        denominators,
        tally,  # pyright: ignore[reportArgumentType]
    )
    return loss, tally.reduce(lambda tensor, **_: None)


def logprobs_of(first: list[float], second: float, fill: float = 0.0) -> Tensor:
    """float32 [2, 3], `fill` behind the second row's only token."""
    return torch.tensor([first, [second, fill, fill]])


def test_loss_and_tally_by_hand() -> None:
    logprobs = logprobs_of([-1.5, -2.0, -0.5], -0.25).requires_grad_()
    reference = logprobs_of([-1.0, -2.0, -0.5], -1.25)
    loss, tally = loss_of(micro_batch(), logprobs, reference=reference)
    kl_first, kl_second = math.exp(0.5) - 1.5, math.exp(-1.0)
    # at ratio 1 a token's loss is -A; the mean over each row, then over the two rows
    expected = ((-0.8 * 3 + BETA * kl_first) / 3 + 0.6 + BETA * kl_second) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert tally["loss"] == pytest.approx(expected, rel=1e-6)
    assert tally["kl_ref"] == pytest.approx(kl_first + kl_second, rel=1e-6)
    assert (tally["num_tokens"], tally["num_clipped"], tally["entropy"]) == (4.0, 0.0, 2.0)
    # the only token on which the planes differ: learner -1.5, sampler -1.0
    assert tally["sum_abs"] == pytest.approx(0.5, rel=1e-6)
    assert tally["max_abs"] == pytest.approx(0.5, rel=1e-6)
    assert tally["sum_kl_rollout"] == pytest.approx(math.exp(-0.5) - 0.5, rel=1e-5)


def test_clipped_tokens_are_counted() -> None:
    # ratios against `old`: 1, e, 1 with A > 0 and 1/e with A < 0: two are held
    logprobs = logprobs_of([-1.0, -1.0, -0.5], -1.25)
    old = logprobs_of([-1.0, -2.0, -0.5], -0.25)
    _, tally = loss_of(micro_batch(), logprobs, old=old, beta=0.0)
    assert tally["num_clipped"] == 2.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["old", "reference", "rollout", "logprobs"])
def test_what_stands_at_masked_positions_reaches_neither_loss_nor_gradient(where: str, value: float) -> None:
    def run(fill: float) -> tuple[float, Tensor, dict[str, float]]:
        fills = dict.fromkeys(("old", "reference", "rollout", "logprobs"), 0.0) | {where: fill}
        logprobs = logprobs_of([-1.5, -2.0, -0.5], -0.25, fills["logprobs"]).requires_grad_()
        batch = micro_batch()
        batch.rollout_logprobs[1, 1:] = fills["rollout"]
        loss, tally = loss_of(
            batch,
            logprobs,
            old=logprobs_of([-1.4, -2.1, -0.5], -0.3, fills["old"]),
            reference=logprobs_of([-1.0, -2.0, -0.5], -1.25, fills["reference"]),
        )
        loss.backward()
        assert logprobs.grad is not None
        return float(loss), logprobs.grad, tally

    loss, gradient, tally = run(0.0)
    dirty_loss, dirty_gradient, dirty_tally = run(value)
    assert dirty_loss == loss
    assert dirty_tally == tally
    assert torch.equal(dirty_gradient[1, :1], gradient[1, :1])
    assert torch.equal(dirty_gradient[0], gradient[0])
    assert dirty_gradient[1, 1:].tolist() == [0.0, 0.0]


def test_an_empty_pass_weighs_nothing() -> None:
    logprobs = torch.tensor([[-3.0]]).requires_grad_()
    loss, tally = loss_of(empty_micro_batch(pad_token_id=0, device="cpu"), logprobs)
    loss.backward()
    assert logprobs.grad is not None
    assert (float(loss), float(logprobs.grad)) == (0.0, 0.0)
    assert set(tally.values()) == {0.0}


def test_metrics_are_means_over_tokens() -> None:
    tally = Tally()
    for key in Tally.KEYS:
        tally.add(key, 2.0)
        tally.add(key, torch.tensor(4.0))
    tally.see_max(0.25)
    tally.see_max(0.125)
    metrics = Tally.metrics(tally.reduce(lambda tensor, op=None: tensor.mul_(1 if op else 10)))
    assert metrics["learner/loss"] == 60.0
    assert metrics["learner/num_tokens"] == 60.0
    assert metrics["learner/entropy/mean"] == 1.0
    assert metrics["learner/logprob_diff/max"] == 0.25


@pytest.mark.parametrize("values", [(math.nan, 0.5), (0.5, math.nan)])
def test_a_largest_difference_that_is_nan_is_not_hidden_by_a_number(values: tuple[float, float]) -> None:
    tally = Tally()
    for value in values:
        tally.see_max(value)
    assert math.isnan(Tally.metrics(tally.reduce(lambda tensor, **_: None))["learner/logprob_diff/max"])
