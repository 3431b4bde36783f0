"""Rewards that ask engines: asked before the service, settled and summed by it as all others are."""

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from common.config.reward import BuiltinRewardConfig, RewardConfig
from common.errors import ConfigError, EngineError, MediaError
from common.types import Condition, Failure, Record, Score
from reward.engine_rewards import EngineRewards
from reward.outcome import PrecomputedOutcomes, RewardFault
from reward.request import RewardResult, requests_of
from reward.service import GroupReport, RewardService
from reward.validation import check_rewards
from tests.support.builders import make_completion, make_record
from tests.support.clock import run

RIGHT, WRONG = "<think>A loud voice.</think><answer>happy</answer>", "<think>Brows.</think><answer>sad</answer>"
COMPLETIONS = [make_completion([1], text=text) for text in (RIGHT, WRONG)]


class Engines:
    """A `ScoreLogprobsFn`: with its sound, the label is so many nats likelier."""

    def __init__(self, gap: float = 40.0) -> None:
        self.gap = gap
        self.seconds = 0.0
        self.errors: list[Exception] = []
        """What it raises first."""
        self.num_asked = 0

    async def __call__(self, record: Record, *, condition: Condition, prefix: str, text: str) -> float:
        """After a while."""
        self.num_asked += 1
        await asyncio.sleep(self.seconds)
        if self.errors:
            raise self.errors.pop(0)
        return -1.0 if condition == "av" else -1.0 - self.gap


def gain(name: str = "gain", **settings: Any) -> BuiltinRewardConfig:
    """The reward, worth 1 to who names a sound, where the gap is large."""
    options: dict[str, Any] = {"needed": 1}
    return BuiltinRewardConfig(
        **{"type": "builtin", "name": name, "builtin": "modality_gain", "options": options, "max_retries": 0}
        | settings
    )


ACCURACY = BuiltinRewardConfig(type="builtin", name="accuracy")


def clip(**changed: Any) -> Record:
    """With picture and sound."""
    record = make_record()
    return dataclasses.replace(
        record, clip=dataclasses.replace(record.clip, audio_path="/data/clip.wav"), **changed
    )


def report(engines: Engines, *entries: BuiltinRewardConfig, record: Record | None = None) -> GroupReport:
    """A group, all the way."""
    config = RewardConfig(rewards=entries)
    asked = record or clip()

    async def work() -> GroupReport:
        rewards = EngineRewards(config, score_logprobs=engines)
        await rewards.start()
        precomputed = await rewards(asked, COMPLETIONS)
        service = RewardService(config, has_engines=True)
        return await service.score_requests(requests_of(asked, COMPLETIONS), precomputed=precomputed)

    return run(work())


def scores(found: GroupReport) -> list[Score]:
    """Of a group that was scored."""
    assert isinstance(found.scores, list), found.scores
    return found.scores


def test_what_engines_say_is_summed_with_the_rest() -> None:
    found = scores(report(Engines(), ACCURACY, gain(weight=0.5)))
    assert [dict(s.breakdown) for s in found] == [{"accuracy": 1.0, "gain": 1.0}, {"accuracy": 0.0, "gain": 0.0}]
    assert [s.total for s in found] == [1.5, 0.0]
    assert found[0].facts["gain/gap"] == 40.0


def test_gates_hold_between_what_is_given_and_what_is_asked_here() -> None:
    everybody = gain(options={"anchor": "evidence", "without": "video_blanked", "needed": 1}, requires="accuracy")
    found = scores(report(Engines(), ACCURACY, everybody))
    assert [s.breakdown["gain"] for s in found] == [0.0, 1.0]
    assert [s.total for s in found] == [1.0, 0.0]
    accuracy = BuiltinRewardConfig(type="builtin", name="accuracy", requires="gain")
    assert [s.total for s in scores(report(Engines(), accuracy, gain()))] == [2.0, 0.0]


@pytest.mark.parametrize("error", [EngineError("engine-0 died"), MediaError("clip.mp4 broke off", reason="short")])
def test_a_question_that_fails_fails_the_group(error: Exception) -> None:
    engines = Engines()
    engines.errors = [error]
    found = report(engines, ACCURACY, gain())
    assert isinstance(found.scores, Failure)
    assert (found.scores.stage, found.scores.reason) == ("reward", "gain-error")
    assert str(error) in found.scores.detail
    assert not found.stops_run


def test_a_question_that_fails_is_asked_again() -> None:
    engines = Engines()
    engines.errors = [EngineError("late"), EngineError("late")]
    found = scores(report(engines, ACCURACY, gain(max_retries=2)))
    assert [s.total for s in found] == [2.0, 0.0]


def test_what_a_failure_costs_is_told_by_on_error() -> None:
    stopping, leaving = Engines(), Engines()
    stopping.errors, leaving.errors = [EngineError("gone")], [EngineError("gone")]
    assert report(stopping, ACCURACY, gain(on_error="stop_run")).stops_run
    found = report(leaving, ACCURACY, gain(on_error="skip_reward_for_group"))
    assert [s.total for s in scores(found)] == [1.0, 0.0]
    assert found.left_out == ("gain",)
    assert found.num_faults["gain"] >= 1


def test_engines_that_take_too_long_fail_the_group_at_the_rewards_own_deadline() -> None:
    engines = Engines()
    engines.seconds = 9.0
    found = report(engines, ACCURACY, gain(deadline_s=5.0))
    assert isinstance(found.scores, Failure)
    assert found.scores.reason == "gain-deadline"
    assert found.seconds["gain"] == pytest.approx(5.0, abs=0.5)


def test_a_clip_of_one_modality_leaves_the_reward_out() -> None:
    engines = Engines()
    found = report(engines, ACCURACY, gain(), record=make_record())
    assert [s.total for s in scores(found)] == [1.0, 0.0]
    assert found.left_out == ("gain",)
    assert engines.num_asked == 0


def test_a_clip_whose_track_is_missing_leaves_the_reward_out() -> None:
    engines = Engines()
    engines.errors = [MediaError("clip.mp4 has no audio track", reason="no-audio-track") for _ in range(4)]
    found = report(engines, ACCURACY, gain())
    assert [s.total for s in scores(found)] == [1.0, 0.0]
    assert found.left_out == ("gain",)


def test_two_of_them_are_asked_at_the_same_time() -> None:
    engines = Engines()
    engines.seconds = 2.0
    found = report(engines, ACCURACY, gain(), gain("seen", options={"without": "video_blanked"}))
    assert found.seconds["gain"] == pytest.approx(2.0, abs=0.5)
    assert found.seconds["seen"] == pytest.approx(2.0, abs=0.5)


@pytest.mark.parametrize(
    "precomputed",
    [
        {},
        {"gain": PrecomputedOutcomes(outcomes=(RewardResult(value=1.0),), seconds=0.0)},
        {"other": PrecomputedOutcomes(outcomes=(RewardResult(value=1.0),) * 2, seconds=0.0)},
    ],
)
def test_a_group_is_never_summed_over_fewer_rewards_or_completions(
    precomputed: Mapping[str, PrecomputedOutcomes],
) -> None:
    service = RewardService(RewardConfig(rewards=(ACCURACY, gain())), has_engines=True)
    with pytest.raises(AssertionError):
        run(service.score_requests(requests_of(clip(), COMPLETIONS), precomputed=precomputed))


def test_a_fault_that_is_given_is_a_fault() -> None:
    service = RewardService(RewardConfig(rewards=(ACCURACY, gain())), has_engines=True)
    fault = RewardFault(kind="deadline", detail="5 s passed")
    precomputed = {"gain": PrecomputedOutcomes(outcomes=(RewardResult(value=1.0), fault), seconds=5.0)}
    found = run(service.score_requests(requests_of(clip(), COMPLETIONS), precomputed=precomputed))
    assert isinstance(found.scores, Failure)
    assert (found.scores.reason, found.seconds["gain"]) == ("gain-deadline", 5.0)


def test_it_is_accepted_for_a_run_and_refused_elsewhere() -> None:
    config = RewardConfig(rewards=(ACCURACY, gain()))
    check_rewards(config, has_engines=True)
    for refuse in (check_rewards, RewardService):
        with pytest.raises(ConfigError, match="gain must have rollout engines, got none: modality_gain is scored"):
            refuse(config)


@pytest.mark.parametrize("options", [{"without": "smell"}, {"scale": 0}, {"taste": 1}])
def test_options_that_cannot_be_are_refused_for_a_run(options: dict[str, Any]) -> None:
    config = RewardConfig(rewards=(gain(options=options),))
    for refuse in (check_rewards, RewardService):
        with pytest.raises(ConfigError, match="modality_gain"):
            refuse(config, has_engines=True)
