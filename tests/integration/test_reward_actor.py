"""The reward service as a Ray actor, with rewards that are actors too: every group comes out, scored or failed."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from common.config.reward import (
    ActorRewardConfig,
    BuiltinRewardConfig,
    NamedActorRewardConfig,
    PythonRewardConfig,
    RewardConfig,
    RewardKind,
)
from common.errors import ConfigError, RewardError
from common.types import Failure, Score
from reward.actor import RewardActor, RewardClient
from reward.examples import team_actor
from tests.support.builders import make_completion, make_record

LABELS = ("happy", "fear", "sad", "angry", "neutral", "surprise")
MODULE = "tests.support.reward.user"
pytestmark = pytest.mark.usefixtures("local_ray")


def python(name: str, **settings: Any) -> PythonRewardConfig:
    """A reward in processes."""
    return PythonRewardConfig(**{"type": "python", "name": name, "entrypoint": f"{MODULE}:{name}", **settings})


def hosted(name: str, **settings: Any) -> ActorRewardConfig:
    """A reward as a Ray actor."""
    entrypoint = f"{MODULE}:{name}"
    return ActorRewardConfig(
        **{"type": "actor", "name": name.lower(), "entrypoint": entrypoint, "num_cpus": 0, **settings}
    )


@contextmanager
def service(*rewards: RewardKind, max_restarts: int = -1, max_retries: int = 2) -> Iterator[RewardClient]:
    """A service of these rewards."""
    actor: Any = ray.remote(RewardActor).options(num_cpus=0, max_restarts=max_restarts, max_task_retries=2)
    handle = actor.remote(config=RewardConfig(rewards=rewards))
    try:
        yield RewardClient(handle, deadline_s=600.0, max_retries=max_retries)
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


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (python("sleeping", deadline_s=3.0), "sleeping-deadline"),
        (python("stuck", deadline_s=3.0), "stuck-deadline"),
        (python("deadly", max_retries=1), "deadly-died"),
        (python("failing"), "failing-error"),
        (hosted("sleeping", deadline_s=3.0), "sleeping-deadline"),
        (hosted("stuck", deadline_s=3.0), "stuck-deadline"),
        (hosted("deadly", max_retries=1), "deadly-died"),
        (hosted("failing"), "failing-error"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.type,
)
def test_a_reward_ends_nothing_but_its_own_group(entry: RewardKind, reason: str) -> None:
    # the service itself may not die once
    with service(entry, max_restarts=0) as client:
        require_only_fear_failed(asyncio.run(score_all(client)), reason)
        metrics = client.take_metrics()
        assert metrics[f"reward/{entry.name}/error_rate"] == pytest.approx(1 / 6)
        assert metrics[f"reward/{entry.name}/latency_s"] > 0
        assert client.take_metrics() == {}


def test_a_service_that_is_killed_is_replaced_and_its_groups_are_scored_again(tmp_path: Path) -> None:
    async def kill_and_score(client: RewardClient) -> dict[str, list[Score] | Failure]:
        told = tmp_path / "pid"
        scoring = asyncio.create_task(score_all(client, text=str(told)))
        while not (told.exists() and told.read_text()):  # noqa: ASYNC110 - told from another process
            await asyncio.sleep(0.01)
        # the process of the reward is a child of the service's
        psutil.Process(int(told.read_text())).parent().kill()
        return await scoring

    with service(python("telling", deadline_s=300.0)) as client:
        answers = asyncio.run(kill_and_score(client))
    assert all(isinstance(answer, list) and answer[0].total == 1.0 for answer in answers.values())


def test_a_service_that_cannot_be_restarted_is_an_error(tmp_path: Path) -> None:
    async def kill_and_score(client: RewardClient) -> None:
        await client(make_record(), [make_completion([1], text="x")])
        ray.kill(client.handle)
        async with asyncio.timeout(120):
            # the kill takes a moment to arrive
            while True:
                await score_all(client)

    with service(python("good"), max_restarts=0) as client, pytest.raises(RewardError, match="service died"):
        asyncio.run(kill_and_score(client))


def test_a_class_is_made_once_in_each_replica_with_its_options() -> None:
    entry = hosted("Weighing", options={"factor": 2.0}, replicas=2, runtime_env={"env_vars": {"A": "b"}})

    async def ask(client: RewardClient) -> list[float]:
        assert any("as Ray actor" in decision for decision in await client.decisions())
        answer = await client(make_record(), [make_completion([1], text="x")] * 8)
        assert isinstance(answer, list)
        return [score.total for score in answer]

    with service(entry) as client:
        totals = asyncio.run(ask(client))
    # each counts for itself: 1 to k in one, 1 to 8 - k in the other
    assert sorted(totals)[0] == 2.0
    assert sum(total == 2.0 for total in totals) <= 2
    assert len(totals) == 8


@pytest.mark.parametrize("make", [python, hosted], ids=["python", "actor"])
@pytest.mark.parametrize("label", ["happy", "fear"])
def test_children_of_reward_code_end_with_the_service(make: Any, label: str, tmp_path: Path) -> None:
    told = tmp_path / "pid"

    async def ask(client: RewardClient) -> None:
        completions = [make_completion([1], text=str(told))]
        scoring = asyncio.create_task(client(make_record(label=label), completions))
        while not (told.exists() and told.read_text()):  # noqa: ASYNC110 - told from another process
            await asyncio.sleep(0.01)
        scoring.cancel()

    # the service is ended as a run ends it: by `ray.kill`
    with service(make("parenting")) as client:
        asyncio.run(ask(client))
        child = psutil.Process(int(told.read_text()))
        worker = child.parent()
        assert worker is not None
    deadline = time.monotonic() + 60
    for process in (child, worker):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, process
            time.sleep(0.01)


def test_a_class_that_cannot_be_made_is_a_mistake_of_the_users() -> None:
    with service(hosted("Unwilling")) as client, pytest.raises(ConfigError, match="FileNotFoundError: no weights"):
        asyncio.run(client.sources())


class TeamReward:
    """What a team runs for all its runs: no class of ours in its arguments."""

    def score(self, samples: list[dict[str, Any]]) -> list[dict[str, Any] | float | None]:
        """A number, a mapping, or nothing."""
        if samples[0]["label"] == "fear":
            raise ValueError("no fear")
        return [{"score": len(s["completion"]), "words": 1} if s["label"] == "happy" else None for s in samples]


def test_an_actor_that_others_run_is_found_by_its_name_and_outlives_the_service() -> None:
    entry = NamedActorRewardConfig(
        type="named_actor", name="shared", actor="team-reward", namespace="rewards", max_retries=0
    )
    with service(entry) as client, pytest.raises(ConfigError, match="which is not there"):
        asyncio.run(client.sources())
    options: Any = {"name": "team-reward", "namespace": "rewards", "num_cpus": 0}
    team: Any = ray.remote(TeamReward).options(**options).remote()

    async def ask(client: RewardClient) -> list[list[Score] | Failure]:
        completions = [make_completion([1], text=text) for text in ("a", "bbb")]
        return [await client(make_record(label=label), completions) for label in ("happy", "sad", "fear")]

    with service(entry, BuiltinRewardConfig(type="builtin", name="format_r1omni")) as client:
        happy, sad, fear = asyncio.run(ask(client))
    assert isinstance(happy, list)
    assert [(s.total, s.facts) for s in happy] == [(1.0, {"shared/words": 1.0}), (3.0, {"shared/words": 1.0})]
    assert isinstance(sad, list)
    assert [dict(s.breakdown) for s in sad] == [{"format_r1omni": 0.0}] * 2
    assert isinstance(fear, Failure)
    assert "ValueError: no fear" in fear.detail
    assert ray.get(team.score.remote([{"label": "sad"}])) == [None]
    ray.kill(team)


def test_a_reward_may_stop_the_run() -> None:
    entry = python("failing", on_error="stop_run", max_retries=0)
    with service(entry) as client, pytest.raises(RewardError, match=r"on_error=stop_run failed: failing-error"):
        asyncio.run(score_all(client))


@pytest.mark.long
def test_the_example_of_a_teams_actor_runs() -> None:
    team = team_actor.start()
    entry = NamedActorRewardConfig(type="named_actor", name="team", actor="team-reward", namespace="rewards")
    try:
        with service(entry) as client:
            answer = asyncio.run(client(make_record(), [make_completion([1], text=t) for t in ("Happy", "sad")]))
    finally:
        ray.kill(team)
    assert isinstance(answer, list)
    assert [score.total for score in answer] == [1.0, 0.0]
