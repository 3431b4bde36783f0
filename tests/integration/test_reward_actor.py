"""The reward service under rewards that are slow, stuck or deadly: every group comes out, scored or failed."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray

from common.config.reward import PythonRewardConfig, RewardConfig
from common.errors import RewardError
from common.types import Failure, Score
from reward.actor import RewardActor, RewardClient
from tests.support.builders import make_completion, make_record

LABELS = ("happy", "fear", "sad", "angry", "neutral", "surprise")
pytestmark = pytest.mark.usefixtures("local_ray")


@contextmanager
def service(
    name: str, *, deadline_s: float = 3.0, max_concurrency: int = 4, max_retries: int = 2, max_restarts: int = -1
) -> Iterator[RewardClient]:
    """A service with one reward of `tests/support/rewards.py`."""
    config = RewardConfig(
        rewards=(PythonRewardConfig(type="python", name=name, entrypoint=f"tests.support.rewards:{name}"),),
        max_concurrency=max_concurrency,
    )
    actor: Any = ray.remote(RewardActor).options(num_cpus=0, max_restarts=max_restarts, max_task_retries=2)
    handle = actor.remote(config=config)
    try:
        yield RewardClient(handle, deadline_s=deadline_s, max_concurrency=max_concurrency, max_retries=max_retries)
    finally:
        ray.kill(handle)


async def score_all(client: RewardClient, *, text: str = "x") -> dict[str, list[Score] | Failure]:
    """One group per label, all at once."""
    answers = await asyncio.gather(
        *(client(make_record(label=label), [make_completion([1], text=text)]) for label in LABELS)
    )
    return dict(zip(LABELS, answers, strict=True))


def require_only_fear_failed(answers: dict[str, list[Score] | Failure], reason: str) -> None:
    """Every other group has its true score."""
    failure = answers.pop("fear")
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.reason) == ("reward", reason)
    for answer in answers.values():
        assert isinstance(answer, list)
        assert [s.total for s in answer] == [1.0]


@pytest.mark.parametrize(("name", "max_concurrency"), [("sleeping", 1), ("sleeping", 4), ("stuck", 4)])
def test_a_group_that_hangs_fails_alone(name: str, max_concurrency: int) -> None:
    with service(name, max_concurrency=max_concurrency) as client:
        require_only_fear_failed(asyncio.run(score_all(client)), "deadline")


def test_a_group_that_ends_the_process_fails_alone() -> None:
    with service("deadly", deadline_s=30.0, max_retries=1) as client:
        require_only_fear_failed(asyncio.run(score_all(client)), "service-died")


def test_a_reward_that_raises_fails_its_group_and_ends_nothing() -> None:
    with service("failing", max_restarts=0) as client:
        require_only_fear_failed(asyncio.run(score_all(client)), "failing-error")


def test_a_process_that_is_killed_is_replaced_and_its_groups_are_scored_again(tmp_path: Path) -> None:
    async def kill_and_score(client: RewardClient) -> dict[str, list[Score] | Failure]:
        told = tmp_path / "pid"
        scoring = asyncio.create_task(score_all(client, text=str(told)))
        while not (told.exists() and told.read_text()):  # noqa: ASYNC110 - told from another process
            await asyncio.sleep(0.01)
        os.kill(int(told.read_text()), signal.SIGKILL)
        return await scoring

    with service("telling", deadline_s=300.0) as client:
        answers = asyncio.run(kill_and_score(client))
    assert all(isinstance(answer, list) and answer[0].total == 1.0 for answer in answers.values())


@pytest.mark.parametrize("max_concurrency", [1, 3])
def test_no_more_groups_are_scored_at_a_time_than_configured(tmp_path: Path, max_concurrency: int) -> None:
    with service("counting", max_concurrency=max_concurrency, deadline_s=30.0) as client:
        answers = asyncio.run(score_all(client, text=str(tmp_path)))
    at_a_time = [answer[0].total for answer in answers.values() if isinstance(answer, list)]
    assert len(at_a_time) == len(LABELS)
    assert max(at_a_time) <= max_concurrency


def test_a_service_that_cannot_be_restarted_is_an_error() -> None:
    with service("deadly", max_restarts=0) as client, pytest.raises(RewardError, match="the reward service died"):
        asyncio.run(score_all(client))
