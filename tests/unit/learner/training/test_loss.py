"""The GRPO loss against a float64 reference that loops over tokens."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from learner.training.loss import Aggregation, Denominators, aggregate, k3, masked_sum, policy_loss

HOWS = get_args(Aggregation)
LOW, HIGH, BETA = 0.2, 0.3, 0.04


def token_loss(logprob: float, old: float, reference: float, advantage: float) -> float:
    """One token's loss, in Python floats."""
    ratio = math.exp(logprob - old)
    clipped = min(max(ratio, 1 - LOW), 1 + HIGH)
    difference = reference - logprob
    return -min(ratio * advantage, clipped * advantage) + BETA * (math.exp(difference) - difference - 1)


def slow_loss(
    rows: list[list[tuple[float, float, float]]], advantages: list[float], how: str, longest: int
) -> float:
    """The batch's loss, token by token."""
    losses = [[token_loss(*t, a) for t in row] for row, a in zip(rows, advantages, strict=True)]
    if how == "sequence":
        return sum(sum(row) / len(row) for row in losses) / len(losses)
    total = sum(sum(row) for row in losses)
    return total / (sum(len(row) for row in losses) if how == "token" else len(losses) * longest)


def padded(rows: list[list[float]], fill: float = 0.0) -> Tensor:
    """float32 [N, C]"""
    width = max(len(r) for r in rows)
    return torch.tensor([[*r, *[fill] * (width - len(r))] for r in rows])


def whole_loss(
    rows: list[list[tuple[float, float, float]]],
    advantages: list[float],
    how: Aggregation,
    denominators: Denominators,
) -> Tensor:
    """The same with the product's functions."""
    logprobs, old, reference = (padded([[t[i] for t in row] for row in rows]) for i in range(3))
    mask = padded([[1.0] * len(row) for row in rows])
    per_token, _ = policy_loss(logprobs, old, torch.tensor(advantages), clip_low=LOW, clip_high=HIGH)
    return aggregate(per_token + BETA * k3(logprobs, reference), mask, how=how, denominators=denominators)


def denominators_of(rows: list[list[tuple[float, float, float]]], longest: int) -> Denominators:
    """Of a whole batch."""
    return Denominators(
        num_sequences=float(len(rows)), num_tokens=float(sum(map(len, rows))), max_tokens=float(longest)
    )


logprob = st.floats(-6, 0, width=32)
batches = st.lists(
    st.tuples(st.lists(st.tuples(logprob, logprob, logprob), min_size=1, max_size=5), st.floats(-2, 2, width=32)),
    min_size=1,
    max_size=6,
)


def test_k3_by_hand() -> None:
    got = k3(torch.tensor([[-1.0, -1.0, -2.0]]), torch.tensor([[-1.0, -2.0, -1.0]]))
    assert got.tolist()[0] == pytest.approx([0.0, math.exp(-1) + 1 - 1, math.e - 1 - 1], rel=1e-6)


@given(st.lists(st.tuples(logprob, logprob), min_size=1, max_size=20))
def test_k3_is_never_negative(pairs: list[tuple[float, float]]) -> None:
    got = k3(torch.tensor([[p for p, _ in pairs]]), torch.tensor([[q for _, q in pairs]]))
    assert float(got.min()) >= 0


def test_k3_of_almost_equal_policies_keeps_its_digits() -> None:
    # exp(d) - 1 - d cancels: expm1 leaves d^2 / 2
    d = 2.0**-10
    got = float(k3(torch.tensor([[-1.0]]), torch.tensor([[-1.0 + d]])))
    assert got == pytest.approx(math.expm1(d) - d, rel=1e-3)


def test_the_ratio_against_itself_is_exactly_one() -> None:
    logprobs = torch.tensor([[-0.3, -7.7, -0.1]]).requires_grad_()
    advantage = torch.tensor([1.7])
    loss, is_clipped = policy_loss(logprobs, logprobs.detach(), advantage, clip_low=LOW, clip_high=HIGH)
    assert torch.equal(loss, -advantage.unsqueeze(-1).expand(1, 3))
    assert is_clipped.sum() == 0


@pytest.mark.parametrize("advantage", [1.7, -0.4, 0.0])
def test_at_ratio_one_the_gradient_is_that_of_the_log_probability(advantage: float) -> None:
    logprobs = torch.tensor([[-0.3, -7.7, -0.1]]).requires_grad_()
    loss, _ = policy_loss(logprobs, logprobs.detach(), torch.tensor([advantage]), clip_low=LOW, clip_high=HIGH)
    loss.sum().backward()
    assert torch.equal(logprobs.grad, torch.full((1, 3), -advantage))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "is_clipped"),
    [
        (1.5, 2.0, -2.6, True),  # A > 0 above: held at 1 + high
        (0.5, 2.0, -1.0, False),  # A > 0 below: the unclipped is smaller
        (1.5, -2.0, 3.0, False),  # A < 0 above: the unclipped is smaller
        (0.5, -2.0, 1.6, True),  # A < 0 below: held at 1 - low
        (1.1, 2.0, -2.2, False),  # between the bounds nothing is held
        (0.9, -2.0, 1.8, False),
    ],
)
def test_each_side_is_clipped_for_its_sign(ratio: float, advantage: float, loss: float, is_clipped: bool) -> None:
    logprobs = torch.tensor([[math.log(ratio) - 1.0]]).requires_grad_()
    got, flag = policy_loss(
        logprobs, torch.tensor([[-1.0]]), torch.tensor([advantage]), clip_low=LOW, clip_high=HIGH
    )
    got.sum().backward()
    assert got.item() == pytest.approx(loss, rel=1e-6)
    assert bool(flag) is is_clipped
    # d ratio / d logprob = ratio
    assert float(logprobs.grad) == pytest.approx(0.0 if is_clipped else -ratio * advantage, rel=1e-6)


@pytest.mark.parametrize("how", HOWS)
@given(batches)
def test_the_loss_is_that_of_a_loop_over_tokens(
    how: Aggregation, batch: list[tuple[list[tuple[float, float, float]], float]]
) -> None:
    rows, advantages = [row for row, _ in batch], [a for _, a in batch]
    got = whole_loss(rows, advantages, how, denominators_of(rows, 7))
    assert float(got) == pytest.approx(slow_loss(rows, advantages, how, 7), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("how", HOWS)
@given(batches, st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_parts_of_a_batch_add_up_to_the_whole(
    how: Aggregation, batch: list[tuple[list[tuple[float, float, float]], float]], owners: list[int]
) -> None:
    rows, advantages = [row for row, _ in batch], [a for _, a in batch]
    denominators = denominators_of(rows, 9)
    whole = float(whole_loss(rows, advantages, how, denominators))
    parts = 0.0
    for owner in range(3):
        chosen = [i for i in range(len(rows)) if owners[i] == owner]
        if chosen:
            mine = whole_loss([rows[i] for i in chosen], [advantages[i] for i in chosen], how, denominators)
            parts += float(mine)
    assert parts == pytest.approx(whole, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("how", HOWS)
def test_aggregations_differ_where_lengths_do(how: Aggregation) -> None:
    # rows of losses [4] and [1, 1]: 0.5 * (4 + 1), 6 / 3, 6 / (2 * 10)
    per_token, mask = torch.tensor([[4.0, 99.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    denominators = Denominators(num_sequences=2.0, num_tokens=3.0, max_tokens=10.0)
    expected = {"sequence": 2.5, "token": 2.0, "constant": 0.3}[how]
    assert float(aggregate(per_token, mask, how=how, denominators=denominators)) == pytest.approx(expected)


@pytest.mark.parametrize("how", HOWS)
def test_a_row_without_tokens_adds_nothing(how: Aggregation) -> None:
    per_token, mask = torch.tensor([[5.0], [math.nan]]), torch.tensor([[1.0], [0.0]])
    denominators = Denominators(num_sequences=1.0, num_tokens=1.0, max_tokens=1.0)
    assert float(aggregate(per_token, mask, how=how, denominators=denominators)) == 5.0


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_stands_at_masked_positions_does_not_change_the_loss(how: Aggregation, value: float) -> None:
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    denominators = Denominators(num_sequences=1.0, num_tokens=2.0, max_tokens=3.0)
    clean = aggregate(torch.tensor([[1.0, 2.0, 0.0]]), mask, how=how, denominators=denominators)
    dirty = aggregate(torch.tensor([[1.0, 2.0, value]]), mask, how=how, denominators=denominators)
    assert float(dirty) == float(clean)
    assert float(masked_sum(torch.tensor([[1.0, 2.0, value]]), mask)) == 3.0


def test_no_gradient_reaches_masked_positions() -> None:
    per_token = torch.tensor([[1.0, math.nan]]).requires_grad_()
    denominators = Denominators(num_sequences=1.0, num_tokens=1.0, max_tokens=2.0)
    aggregate(per_token, torch.tensor([[1.0, 0.0]]), how="token", denominators=denominators).backward()
    assert per_token.grad is not None
    assert per_token.grad.tolist() == [[1.0, 0.0]]


def test_log_probabilities_of_other_shapes_are_refused() -> None:
    with pytest.raises(TypeCheckError):
        policy_loss(torch.zeros(2, 3), torch.zeros(2, 1), torch.zeros(2), clip_low=LOW, clip_high=HIGH)
    with pytest.raises(TypeCheckError):
        policy_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3), clip_low=LOW, clip_high=HIGH)
