"""What a rank makes of one micro-batch: the objectives with their sums, without DeepSpeed."""

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from common.config.learner import LearnerConfig
from common.models.tokens import TokenBatch
from learner.engine import LearnerEngine
from learner.training.batch import MicroBatch, TrainGroup, empty_micro_batch, micro_batches, train_example
from learner.training.loss import Denominators
from learner.training.objectives import GrpoObjective, Objective, Pass, SftObjective
from learner.training.step_sums import StepSums
from learner.zero.deepspeed_facade import Stepped
from tests.support.builders import text_prompt

BETA = 0.04
DENOMINATORS = Denominators(num_sequences=2.0, num_tokens=4.0, max_tokens=8.0)


def micro_batch() -> MicroBatch:
    """Rows of 3 and 1 tokens."""
    group = TrainGroup(
        prompt=text_prompt([7, 8]),
        token_ids=((1, 2, 3), (4,)),
        rollout_logprobs=((-1.0, -2.0, -0.5), (-0.25,)),
        advantages=(0.8, -0.6),
    )
    return micro_batches([group], max_rows=4, max_tokens=999, pad_token_id=0, device="cpu")[0]


def examples() -> MicroBatch:
    """Answers to imitate, of 3 tokens and of 1."""
    groups = [train_example(text_prompt([7, 8]), (1, 2, 3)), train_example(text_prompt([9]), (4,))]
    return micro_batches(groups, max_rows=4, max_tokens=999, pad_token_id=0, device="cpu")[0]


def loss_of(
    batch: MicroBatch,
    logprobs: Tensor,
    *,
    reference: Tensor | None = None,
    old: Tensor | None = None,
    beta: float = BETA,
    objective: Objective | None = None,
    entropy: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """An objective over a batch of two sequences and four tokens, and its sums."""
    sums = StepSums()
    loss = (objective or GrpoObjective(LearnerConfig(beta=beta).objective, temperature=1.0))(
        Pass(batch=batch, old=old, reference=reference),
        logprobs,
        torch.full_like(logprobs, 0.5).detach() if entropy is None else entropy,
        denominators=DENOMINATORS,
        sums=sums,
    )
    return loss, sums.reduce(lambda tensor, **_: None)


def logprobs_of(first: list[float], second: float, fill: float = 0.0) -> Tensor:
    """float32 [2, 3], `fill` behind the second row's only token."""
    return torch.tensor([first, [second, fill, fill]])


def test_loss_and_tally_by_hand() -> None:
    logprobs = logprobs_of([-1.5, -2.0, -0.5], -0.25).requires_grad_()
    reference = logprobs_of([-1.0, -2.0, -0.5], -1.25)
    loss, sums = loss_of(micro_batch(), logprobs, reference=reference)
    kl_first, kl_second = math.exp(0.5) - 1.5, math.exp(-1.0)
    # at ratio 1 a token's loss is -A; the mean over each row, then over the two rows
    expected = ((-0.8 * 3 + BETA * kl_first) / 3 + 0.6 + BETA * kl_second) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert sums["loss"] == pytest.approx(expected, rel=1e-6)
    assert sums["kl_ref"] == pytest.approx(kl_first + kl_second, rel=1e-6)
    assert (sums["num_tokens"], sums["num_clipped"], sums["entropy"]) == (4.0, 0.0, 2.0)
    # the only token on which the planes differ: learner -1.5, sampler -1.0
    assert sums["sum_abs"] == pytest.approx(0.5, rel=1e-6)
    assert sums["max_abs"] == pytest.approx(0.5, rel=1e-6)
    assert sums["sum_kl_rollout"] == pytest.approx(math.exp(-0.5) - 0.5, rel=1e-5)


def test_clipped_tokens_are_counted() -> None:
    # ratios against `old`: 1, e, 1 with A > 0 and 1/e with A < 0: two are held
    logprobs = logprobs_of([-1.0, -1.0, -0.5], -1.25)
    old = logprobs_of([-1.0, -2.0, -0.5], -0.25)
    _, sums = loss_of(micro_batch(), logprobs, old=old, beta=0.0)
    assert sums["num_clipped"] == 2.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["old", "reference", "rollout", "logprobs"])
def test_what_stands_at_masked_positions_reaches_neither_loss_nor_gradient(where: str, value: float) -> None:
    def run(fill: float) -> tuple[float, Tensor, dict[str, float]]:
        fills = dict.fromkeys(("old", "reference", "rollout", "logprobs"), 0.0) | {where: fill}
        logprobs = logprobs_of([-1.5, -2.0, -0.5], -0.25, fills["logprobs"]).requires_grad_()
        batch = micro_batch()
        batch.rollout_logprobs[1, 1:] = fills["rollout"]
        loss, sums = loss_of(
            batch,
            logprobs,
            old=logprobs_of([-1.4, -2.1, -0.5], -0.3, fills["old"]),
            reference=logprobs_of([-1.0, -2.0, -0.5], -1.25, fills["reference"]),
        )
        loss.backward()
        assert logprobs.grad is not None
        return loss.item(), logprobs.grad, sums

    loss, gradient, sums = run(0.0)
    dirty_loss, dirty_gradient, dirty_sums = run(value)
    assert dirty_loss == loss
    assert dirty_sums == sums
    assert torch.equal(dirty_gradient[1, :1], gradient[1, :1])
    assert torch.equal(dirty_gradient[0], gradient[0])
    assert dirty_gradient[1, 1:].tolist() == [0.0, 0.0]


class OneWeight:
    """A stand-in for DeepSpeed: every log-probability is the one weight."""

    def __init__(self) -> None:
        self.weight = torch.tensor(-3.0, requires_grad=True)
        self.boundaries: list[bool] = []

    def __call__(self, tokens: TokenBatch, *, temperature: float) -> tuple[Tensor, Tensor]:
        """[N, C] each."""
        logprobs = self.weight.expand(tokens.mask.shape)
        return logprobs, torch.full_like(logprobs, 0.5)

    def begin_pass(self, *, is_last: bool) -> None:
        """Notes it."""
        self.boundaries.append(is_last)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient up."""
        loss.backward()

    def set_learning_rate(self, lr: float) -> None:
        """Nothing that has one."""

    def step(self) -> Stepped:
        """Moves nothing."""
        assert self.weight.grad is not None
        norm = abs(float(self.weight.grad))
        return Stepped(grad_norm=norm, is_taken=math.isfinite(norm))


def engine_of(deepspeed: OneWeight) -> LearnerEngine:
    """A rank alone around the stand-in."""
    engine = object.__new__(LearnerEngine)
    engine.config, engine.temperature, engine.num_updates = LearnerConfig(), 1.0, 0
    engine._deepspeed = cast(Any, deepspeed)  # pyright: ignore[reportPrivateUsage]
    engine._ranks = cast(Any, SimpleNamespace(all_reduce=lambda tensor, op=None: None))  # pyright: ignore[reportPrivateUsage]
    return engine


def test_an_empty_pass_weighs_nothing() -> None:
    deepspeed = OneWeight()
    engine = engine_of(deepspeed)
    passes = [Pass(batch=examples()), Pass(batch=empty_micro_batch(pad_token_id=0, device="cpu"))]
    metrics = engine._update(passes, SftObjective(), DENOMINATORS, defaultdict(float))  # pyright: ignore[reportPrivateUsage]
    # four tokens of -3, and nothing of the fifth that fills the empty pass
    assert (metrics["learner/loss"], metrics["learner/num_tokens"]) == (3.0, 4.0)
    assert metrics["learner/entropy/mean"] == 0.5
    assert (metrics["learner/grad_norm"], deepspeed.weight.grad) == (1.0, torch.tensor(-1.0))
    assert (deepspeed.boundaries, engine.num_updates) == ([False, True], 1)
    assert metrics["learner/is_skipped"] == 0.0


def test_an_infinite_loss_with_a_finite_gradient_is_not_stepped() -> None:
    class Endless(SftObjective):
        def __call__(self, *args: Any, sums: StepSums, **kwargs: Any) -> Tensor:
            sums.add("loss", math.inf)
            return super().__call__(*args, sums=sums, **kwargs)

    engine = engine_of(OneWeight())
    passes = [Pass(batch=examples()), Pass(batch=examples())]
    metrics = engine._update(passes, Endless(), DENOMINATORS, defaultdict(float))  # pyright: ignore[reportPrivateUsage]
    assert (metrics["learner/is_skipped"], engine.num_updates) == (1.0, 0)


def test_metrics_are_means_over_tokens() -> None:
    sums = StepSums()
    for key in StepSums.KEYS:
        sums.add(key, 2.0)
        sums.add(key, torch.tensor(4.0))
    sums.see_max(0.25)
    sums.see_max(0.125)
    metrics = StepSums.metrics(sums.reduce(lambda tensor, op=None: tensor.mul_(1 if op else 10)))
    assert metrics["learner/loss"] == 60.0
    assert metrics["learner/num_tokens"] == 60.0
    assert metrics["learner/entropy/mean"] == 1.0
    assert metrics["learner/logprob_diff/max"] == 0.25


@pytest.mark.parametrize("values", [(math.nan, 0.5), (0.5, math.nan)])
def test_a_largest_difference_that_is_nan_is_not_hidden_by_a_number(values: tuple[float, float]) -> None:
    sums = StepSums()
    for value in values:
        sums.see_max(value)
    assert math.isnan(StepSums.metrics(sums.reduce(lambda tensor, **_: None))["learner/logprob_diff/max"])


def test_the_supervised_loss_is_the_mean_over_tokens_by_hand() -> None:
    logprobs = logprobs_of([-1.5, -2.0, -0.5], -0.25).requires_grad_()
    loss, sums = loss_of(examples(), logprobs, objective=SftObjective())
    assert loss.item() == pytest.approx((1.5 + 2.0 + 0.5 + 0.25) / 4, rel=1e-6)
    loss.backward()
    assert logprobs.grad is not None
    # every token weighs the same, whatever the length of its answer; padding weighs nothing
    assert logprobs.grad.tolist() == [[-0.25, -0.25, -0.25], [-0.25, 0.0, 0.0]]
    metrics = StepSums.metrics(sums)
    assert (metrics["learner/loss"], metrics["learner/num_tokens"]) == (pytest.approx(4.25 / 4, rel=1e-6), 4.0)
    assert metrics["learner/entropy/mean"] == 0.5


def test_supervised_losses_of_parts_add_up_to_that_of_the_whole() -> None:
    # the denominators are the whole batch's: two ranks or passes sum to one
    whole, _ = loss_of(examples(), logprobs_of([-1.5, -2.0, -0.5], -0.25), objective=SftObjective())
    answers = [(text_prompt([7, 8]), (1, 2, 3), [-1.5, -2.0, -0.5]), (text_prompt([9]), (4,), [-0.25])]
    parts = [
        loss_of(
            micro_batches([train_example(prompt, ids)], max_rows=4, max_tokens=999, pad_token_id=0, device="cpu")[
                0
            ],
            torch.tensor([values]),
            objective=SftObjective(),
        )[0]
        for prompt, ids, values in answers
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_padding_reaches_neither_the_supervised_loss_nor_its_gradient(value: float) -> None:
    logprobs = logprobs_of([-1.5, -2.0, -0.5], -0.25, value).requires_grad_()
    entropy = logprobs_of([0.5, 0.5, 0.5], 0.5, value)
    loss, sums = loss_of(examples(), logprobs, objective=SftObjective(), entropy=entropy)
    loss.backward()
    assert logprobs.grad is not None
    assert float(loss.detach()) == pytest.approx(4.25 / 4, rel=1e-6)
    assert sums["entropy"] == 2.0
    assert logprobs.grad[1].tolist() == [-0.25, 0.0, 0.0]
