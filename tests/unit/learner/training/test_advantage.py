"""Group-relative advantages."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from learner.training.advantage import group_advantages


def by_hand(rewards: list[float]) -> list[float]:
    """The paper's formula, one Python float at a time."""
    mean = math.fsum(rewards) / len(rewards)
    std = math.sqrt(math.fsum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    return [(r - mean) / (std + 1e-4) for r in rewards]


def test_a_group_by_hand() -> None:
    # mean 0.5, unbiased std sqrt(4 * 0.25 / 3)
    got = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0]]))[0].tolist()
    expected = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    assert got == pytest.approx([expected, -expected, -expected, expected], rel=1e-6)


def test_the_deviation_is_unbiased() -> None:
    # two rewards a unit apart: unbiased 0.7071, biased 0.5
    got = group_advantages(torch.tensor([[0.0, 1.0]]))[0].tolist()
    assert got == pytest.approx([-0.5 / (math.sqrt(0.5) + 1e-4), 0.5 / (math.sqrt(0.5) + 1e-4)], rel=1e-6)


def test_epsilon_is_added_to_the_deviation() -> None:
    # std 7.07e-5: with eps 1e-4 the quotient is 0.2929, without 0.7071
    got = group_advantages(torch.tensor([[0.0, 1e-4]], dtype=torch.float64))[0].tolist()
    assert got[1] == pytest.approx(0.5e-4 / (math.sqrt(0.5) * 1e-4 + 1e-4), rel=1e-6)


def test_groups_do_not_see_each_other() -> None:
    rewards = [[0.0, 1.0, 2.0], [5.0, 5.0, 8.0]]
    got = group_advantages(torch.tensor(rewards))
    assert got[0].tolist() == pytest.approx(by_hand(rewards[0]), rel=1e-6)
    assert got[1].tolist() == pytest.approx(by_hand(rewards[1]), rel=1e-6)


@pytest.mark.parametrize("value", [0.7, 0.1, 1.0, 0.0, -3.3, 1e30, 1e-30, 3e38, 1e-45])
def test_equal_float32_rewards_get_exactly_nothing(value: float) -> None:
    got = group_advantages(torch.full((1, 8), value, dtype=torch.float32))
    assert got.tolist() == [[0.0] * 8]


@pytest.mark.parametrize("value", [0.7, 1e300, 1e-300, -1e308])
def test_equal_float64_rewards_get_exactly_nothing(value: float) -> None:
    got = group_advantages(torch.full((1, 7), value, dtype=torch.float64))
    assert got.tolist() == [[0.0] * 7]


def test_an_equal_group_beside_another_leaves_it_alone() -> None:
    got = group_advantages(torch.tensor([[0.7] * 3, [0.0, 0.0, 1.0]]))
    assert got[0].tolist() == [0.0, 0.0, 0.0]
    assert got[1].tolist() == pytest.approx(by_hand([0.0, 0.0, 1.0]), rel=1e-6)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=16), st.floats(-100, 100))
def test_a_shift_of_all_rewards_changes_nothing(rewards: list[float], shift: float) -> None:
    plain = group_advantages(torch.tensor([rewards], dtype=torch.float64))[0]
    shifted = group_advantages(torch.tensor([[r + shift for r in rewards]], dtype=torch.float64))[0]
    # shifting rounds each reward by 1e-14, and the divisor is at least 1e-4
    assert shifted.tolist() == pytest.approx(plain.tolist(), abs=1e-6)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=16))
def test_advantages_follow_the_formula(rewards: list[float]) -> None:
    got = group_advantages(torch.tensor([rewards], dtype=torch.float64))[0].tolist()
    assert got == pytest.approx(by_hand(rewards), rel=1e-5, abs=1e-6)


def test_rewards_of_one_group_must_be_a_row() -> None:
    with pytest.raises(TypeCheckError):
        group_advantages(torch.tensor([1.0, 0.0]))
