"""The paper's two rewards as published, and the sum of rewards: weights, gates, bounds, who is left out."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from common.config.reward import BuiltinRewardConfig, RewardConfig
from common.types import Failure, Score
from reward.builtin.accuracy_r1omni import PublishedAccuracyReward
from reward.builtin.format import PublishedFormatReward
from reward.request import RewardResult
from reward.rubric import Rubric
from tests.support.builders import make_request


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
    assert PublishedAccuracyReward()(make_request(completion, label=label)) == reward


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
    assert PublishedFormatReward()(make_request(completion)) == reward


def entry(name: str, **settings: Any) -> BuiltinRewardConfig:
    """A reward of a name."""
    return BuiltinRewardConfig(type="builtin", name=name, **settings)


def summed(
    entries: Sequence[BuiltinRewardConfig], **values: Sequence[float | None]
) -> tuple[list[Score] | Failure, tuple[str, ...]]:
    """Scores of these values, by reward, and the rewards left out."""
    RewardConfig(rewards=tuple(entries))
    columns = {name: [RewardResult(value=value) for value in column] for name, column in values.items()}
    return Rubric(entries).sum(columns)


def totals(entries: Sequence[BuiltinRewardConfig], **values: Sequence[float | None]) -> list[float]:
    """The sums alone."""
    scores, _ = summed(entries, **values)
    assert isinstance(scores, list)
    return [score.total for score in scores]


def test_a_rubric_sums_weighted_rewards_and_keeps_them_apart() -> None:
    got, _ = summed([entry("a", weight=2.0), entry("b", weight=0.5)], a=[1.0, 0.0, 1.0], b=[1.0, 1.0, -3.0])
    assert got == [
        Score(total=2.5, breakdown={"a": 1.0, "b": 1.0}),
        Score(total=0.5, breakdown={"a": 0.0, "b": 1.0}),
        Score(total=0.5, breakdown={"a": 1.0, "b": -3.0}),
    ]


def test_a_sum_that_is_not_finite_fails_the_group() -> None:
    got, _ = summed([entry("a", weight=10.0)], a=[0.0, 1e308])
    assert isinstance(got, Failure)
    assert got.reason == "sum-not-finite"


def test_what_does_not_apply_to_one_completion_is_left_out_for_the_group() -> None:
    got, left_out = summed([entry("a"), entry("b")], a=[1.0, 2.0], b=[None, 8.0])
    assert left_out == ("b",)
    assert got == [Score(total=1.0, breakdown={"a": 1.0}), Score(total=2.0, breakdown={"a": 2.0})]


def test_where_nothing_applies_the_group_fails() -> None:
    got, _ = summed([entry("a"), entry("b")], a=[None, 1.0])
    assert isinstance(got, Failure)
    assert (got.reason, got.detail) == ("nothing-applies", "none of a, b applies to the whole group")


def test_a_reward_behind_a_gate_is_worth_nothing_where_the_gate_is_0() -> None:
    entries = [entry("a", requires="form"), entry("form", weight=0.5)]
    assert totals(entries, a=[3.0, 3.0, -3.0], form=[1.0, 0.0, 0.0]) == [3.5, 0.0, 0.0]


def test_a_gate_behind_a_closed_gate_is_closed() -> None:
    entries = [entry("c", requires="b"), entry("b", requires="a", weight=0.0), entry("a", weight=0.0)]
    assert totals(entries, a=[1.0, 0.0], b=[1.0, 1.0], c=[1.0, 1.0]) == [1.0, 0.0]


def test_a_cap_holds_where_the_other_reward_is_0() -> None:
    entries = [entry("a", caps={"b": 0.25}), entry("b", weight=0.0)]
    assert totals(entries, a=[1.0, 1.0, 0.1, -2.0], b=[1.0, 0.0, 0.0, 0.0]) == [1.0, 0.25, 0.1, -2.0]


def test_who_depends_on_what_is_left_out_is_left_out() -> None:
    entries = [entry("a", requires="b"), entry("b"), entry("c")]
    got, left_out = summed(entries, a=[1.0, 1.0], b=[None, None], c=[2.0, 3.0])
    assert left_out == ("a", "b")
    assert isinstance(got, list)
    assert [dict(s.breakdown) for s in got] == [{"c": 2.0}, {"c": 3.0}]


def test_a_breakdown_holds_what_was_given_and_the_sum_what_counts() -> None:
    entries = [entry("a", clip=(-1.0, 3.0), normalise="unit", weight=2.0)]
    got, _ = summed(entries, a=[9.0, 1.0, -5.0])
    assert isinstance(got, list)
    assert [(s.total, s.breakdown["a"]) for s in got] == [(2.0, 9.0), (1.0, 1.0), (0.0, -5.0)]
    assert totals([entry("a", clip=(-1.0, 3.0))], a=[9.0, 1.0, -5.0]) == [3.0, 1.0, -1.0]


def test_normalised_by_the_group_a_reward_is_a_distance_in_standard_deviations() -> None:
    # mean 3, deviations -2 0 2, variance 8/3
    std = math.sqrt(8 / 3)
    got = totals([entry("a", normalise="group", weight=3.0)], a=[1.0, 3.0, 5.0])
    assert got == pytest.approx([-6 / std, 0.0, 6 / std])
    assert totals([entry("a", normalise="group")], a=[0.1, 0.1, 0.1]) == [0.0, 0.0, 0.0]


def test_details_and_facts_stand_beside_the_values() -> None:
    columns = {"a": [RewardResult(value=1.0, detail="why", facts={"words": 3.0})], "b": [RewardResult(value=0.0)]}
    got, _ = Rubric([entry("a"), entry("b")]).sum(columns)
    assert got == [Score(total=1.0, breakdown={"a": 1.0, "b": 0.0}, details={"a": "why"}, facts={"a/words": 3.0})]
