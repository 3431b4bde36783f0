"""The learning rate."""

import math

import pytest

from learner.training.schedule import Schedule, learning_rate


def rates(schedule: Schedule, *, warmup_steps: int, total_steps: int, steps: int) -> list[float]:
    """Of the first steps, with peak 1."""
    return [
        learning_rate(s, peak=1.0, warmup_steps=warmup_steps, total_steps=total_steps, schedule=schedule)
        for s in range(steps)
    ]


def test_a_constant_rate_stays() -> None:
    assert rates("constant", warmup_steps=0, total_steps=3, steps=5) == [1.0] * 5


def test_the_first_warmup_step_already_moves() -> None:
    assert rates("constant", warmup_steps=4, total_steps=9, steps=6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_linear_rate_falls_to_zero_at_the_end() -> None:
    got = rates("linear", warmup_steps=2, total_steps=6, steps=8)
    assert got == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0])


def test_a_cosine_rate_is_half_way_down_at_half_time() -> None:
    got = rates("cosine", warmup_steps=0, total_steps=4, steps=6)
    expected = [0.5 * (1 + math.cos(math.pi * s / 4)) for s in range(5)]
    assert got == pytest.approx([*expected, 0.0])
    assert got[2] == pytest.approx(0.5)


def test_a_warmup_as_long_as_the_run_never_divides_by_zero() -> None:
    assert rates("linear", warmup_steps=3, total_steps=3, steps=4) == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])


def test_the_peak_scales_everything() -> None:
    one = rates("cosine", warmup_steps=2, total_steps=9, steps=9)
    got = [learning_rate(s, peak=3e-6, warmup_steps=2, total_steps=9, schedule="cosine") for s in range(9)]
    assert got == pytest.approx([3e-6 * r for r in one])
