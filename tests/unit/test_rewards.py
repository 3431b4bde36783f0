"""The paper's two rewards as published, and the rubric that sums them."""

import math

import pytest

from common.config.reward import AccuracyRewardConfig, FormatRewardConfig, RewardConfig
from common.types import Failure, Score
from reward.accuracy import accuracy_reward
from reward.format import format_reward
from reward.rubric import RewardFn, Rubric, build_rubric
from tests.support.builders import make_completion, make_record


@pytest.mark.parametrize(
    ("completion", "label", "reward"),
    [
        ("<think>x</think><answer>happy</answer>", "happy", 1.0),
        ("<answer>  happy\t</answer>", "happy", 1.0),
        ("<answer>happy</answer> and more", "happy", 1.0),
        # case counts, and no synonym does
        ("<answer>Happy</answer>", "happy", 0.0),
        ("<answer>happiness</answer>", "happy", 0.0),
        ("<answer>very happy</answer>", "happy", 0.0),
        # the first answer
        ("<answer>happy</answer><answer>sad</answer>", "happy", 1.0),
        ("<answer>sad</answer><answer>happy</answer>", "happy", 0.0),
        # without DOTALL an answer that breaks its line is none: then the whole text counts
        ("<answer>\nhappy\n</answer>", "happy", 0.0),
        ("<answer>sad\n</answer><answer>happy</answer>", "happy", 1.0),
        # no tag: the whole text
        (" happy\n", "happy", 1.0),
        ("I am happy", "happy", 0.0),
        ("happy</answer>", "happy", 0.0),
        ("", "happy", 0.0),
        # the label is read in the same way
        ("<answer>happy</answer>", "<answer> happy </answer>", 1.0),
        ("happy", "  happy ", 1.0),
        ("<answer></answer>", "", 1.0),
    ],
)
def test_accuracy_is_the_published_match(completion: str, label: str, reward: float) -> None:
    assert accuracy_reward(completion, label) == reward


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        ("<think>a</think> \n\t <answer>b</answer>", 1.0),
        ("<think>a\nb</think>\n<answer>\nc\n</answer>", 1.0),
        ("<think></think><answer></answer>", 1.0),
        # lenient where the expression is
        ("<think>a</think><answer>b</answer><answer>c</answer>", 1.0),
        ("<think>a</think> text </think><answer>b</answer>", 1.0),
        # nothing before, between or behind
        (" <think>a</think><answer>b</answer>", 0.0),
        ("<think>a</think>x<answer>b</answer>", 0.0),
        ("<think>a</think><answer>b</answer>.", 0.0),
        ("<think>a</think><answer>b</answer>\n", 0.0),
        # both blocks, in their order, spelled like this
        ("<answer>b</answer>", 0.0),
        ("<think>a</think>", 0.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<Think>a</Think><answer>b</answer>", 0.0),
        ("<think>a<answer>b</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_format_is_the_published_expression(completion: str, reward: float) -> None:
    assert format_reward(completion, "anything") == reward


def score(rewards: dict[str, tuple[RewardFn, float]], *texts: str) -> list[Score] | Failure:
    """Of completions with these texts; the label is `happy`."""
    return Rubric(rewards).score(make_record(label="happy"), [make_completion([1], text=t) for t in texts])


def test_a_rubric_sums_weighted_rewards_and_keeps_them_apart() -> None:
    rubric = build_rubric(
        RewardConfig(
            rewards=(
                AccuracyRewardConfig(type="accuracy", weight=2.0),
                FormatRewardConfig(type="format", weight=0.5),
            )
        )
    )
    texts = ["<think>x</think><answer>happy</answer>", "<think>x</think><answer>sad</answer>", "happy", "sad"]
    got = rubric.score(make_record(label="happy"), [make_completion([1], text=t) for t in texts])
    assert isinstance(got, list)
    assert [s.total for s in got] == [2.5, 0.5, 2.0, 0.0]
    assert [dict(s.breakdown) for s in got] == [
        {"accuracy": 1.0, "format": 1.0},
        {"accuracy": 0.0, "format": 1.0},
        {"accuracy": 1.0, "format": 0.0},
        {"accuracy": 0.0, "format": 0.0},
    ]


def test_the_default_rubric_is_the_papers() -> None:
    got = build_rubric(RewardConfig()).score(
        make_record(label="sad"), [make_completion([1], text="<think></think><answer>sad</answer>")]
    )
    assert isinstance(got, list)
    assert got[0].total == 2.0


def failing(text: str, _label: str) -> float:
    """Fails on one text."""
    if text == "bad":
        raise KeyError("no such\nemotion")
    return 1.0


def test_one_reward_that_fails_on_one_completion_fails_the_group() -> None:
    got = score({"accuracy": (accuracy_reward, 1.0), "mine": (failing, 1.0)}, "happy", "bad", "happy")
    assert isinstance(got, Failure)
    assert (got.stage, got.reason) == ("reward", "mine-error")
    assert "KeyError" in got.detail


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_fails_the_group(value: float) -> None:
    got = score({"mine": (lambda text, _: value if text == "bad" else 0.0, 1.0)}, "good", "bad")
    assert isinstance(got, Failure)
    assert got.reason == "mine-not-finite"


def test_a_reward_that_is_no_number_fails_the_group() -> None:
    got = score({"mine": (lambda *_: "much", 1.0)}, "good")  # pyright: ignore[reportArgumentType]
    assert isinstance(got, Failure)
    assert got.reason == "mine-error"


def test_a_sum_that_is_not_finite_fails_the_group() -> None:
    got = score({"mine": (lambda *_: 1e308, 10.0)}, "good")
    assert isinstance(got, Failure)


def test_rewards_may_be_any_real_number() -> None:
    got = score({"up": (lambda *_: 3, 0.5), "down": (lambda *_: -1.25, 2.0)}, "x")
    assert isinstance(got, list)
    assert got[0].total == 0.5 * 3 - 2.0 * 1.25
