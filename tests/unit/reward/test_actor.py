"""The handle of the reward service over a process that hangs, dies and comes back; time is the loop's own."""

import asyncio
import pickle
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

import reward.actor
from common.errors import RewardError
from common.types import Failure, Score
from reward.actor import RewardClient, pack
from reward.service import GroupReport
from tests.support.builders import make_completion, make_record
from tests.support.clock import run

LABELS = ("happy", "fear", "sad", "angry", "neutral", "surprise")
NEVER = 1e6


@dataclass
class Method:
    """As Ray's handles have them."""

    call: Callable[..., Awaitable[Any]]
    given: dict[str, Any] = field(default_factory=dict)

    def options(self, **given: Any) -> "Method":
        """The same with options."""
        return Method(self.call, given)

    def remote(self, *args: Any) -> Awaitable[Any]:
        """Calls it; who stops waiting does not stop it."""
        return asyncio.shield(asyncio.ensure_future(self.call(*args, **self.given)))


class Service:
    """One process at a time, and the next one after a while."""

    def __init__(
        self,
        *,
        seconds: Mapping[str, float] | None = None,
        holding: Sequence[str] = (),
        deadly: Sequence[str] = (),
        restart_s: float = 0.0,
        num_restarts: float = NEVER,
    ) -> None:
        self.score, self.ready = Method(self._score), Method(self._ready)
        self.seconds, self.holding, self.deadly = seconds or {}, set(holding), set(deadly)
        self.restart_s, self.num_restarts = restart_s, num_restarts
        self.num_deaths = 0
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        """Label, and the labels that were being scored beside it."""
        self._inside: dict[asyncio.Future[Any], str] = {}
        self._timers: dict[asyncio.Future[Any], asyncio.TimerHandle] = {}
        self._back_at = 0.0

    def kill(self, handle: object, *, no_restart: bool) -> None:
        """In place of `ray.kill`."""
        assert handle is self
        assert not no_restart
        self.die()

    def die(self) -> None:
        """Whatever is being scored is lost."""
        self.num_deaths += 1
        self._back_at = asyncio.get_running_loop().time() + self.restart_s
        for future in list(self._inside):
            if not future.done():
                future.set_exception(ActorUnavailableError("gone", b"0" * 16))

    async def _score(self, packed: bytes, *, max_task_retries: int) -> bytes:
        assert max_task_retries == 0
        record, completions, _ = pickle.loads(packed)
        loop = asyncio.get_running_loop()
        if loop.time() < self._back_at:
            raise ActorUnavailableError("not yet back", b"0" * 16)
        self.asked.append((record.label, tuple(self._inside.values())))
        future: asyncio.Future[Any] = loop.create_future()
        self._inside[future] = record.label
        seconds = self.seconds.get(record.label, 1.0)
        act = self.die if record.label in self.deadly else lambda: future.done() or future.set_result(None)
        timer = loop.call_later(seconds, act)
        self._timers[future] = timer
        if self.holding & set(self._inside.values()):
            # nobody's answer leaves a process in which one holds the interpreter
            for held in self._timers.values():
                held.cancel()
        try:
            await future
        finally:
            timer.cancel()
            del self._inside[future], self._timers[future]
        return pack(GroupReport(scores=[Score(total=1.0, breakdown={})] * len(completions)))

    async def _ready(self, *, max_task_retries: int) -> None:
        if self.num_deaths > self.num_restarts:
            raise ActorDiedError()
        if self.holding & set(self._inside.values()):
            await asyncio.sleep(NEVER)
        delay = self._back_at - asyncio.get_running_loop().time()
        if delay > 0:
            assert max_task_retries == -1
            await asyncio.sleep(delay)


def score_all(
    monkeypatch: pytest.MonkeyPatch,
    service: Service,
    *,
    labels: Sequence[str] = LABELS,
    max_concurrency: int = 4,
    deadline_s: float = 60.0,
    max_retries: int = 2,
    kill_at_s: float | None = None,
) -> dict[str, list[Score] | Failure]:
    """One group per label, all at once."""
    monkeypatch.setattr(reward.actor.ray, "kill", service.kill)

    async def ask() -> list[list[Score] | Failure]:
        client = RewardClient(
            service, deadline_s=deadline_s, max_concurrency=max_concurrency, max_retries=max_retries
        )
        if kill_at_s is not None:
            asyncio.get_running_loop().call_later(kill_at_s, service.die)
        return await asyncio.gather(
            *(client(make_record(label=label), [make_completion([1])] * 2) for label in labels)
        )

    return dict(zip(labels, run(ask()), strict=True))


def failed(answers: Mapping[str, list[Score] | Failure]) -> dict[str, str]:
    """Reason by label; the others have whole scores."""
    for answer in answers.values():
        assert isinstance(answer, Failure) or [s.total for s in answer] == [1.0, 1.0]
    return {label: answer.reason for label, answer in answers.items() if isinstance(answer, Failure)}


def test_the_deadline_is_that_of_scoring_and_not_of_waiting_for_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(seconds=dict.fromkeys(LABELS, 59.0))
    assert failed(score_all(monkeypatch, service, max_concurrency=1)) == {}
    assert [beside for _, beside in service.asked] == [()] * len(LABELS)


def test_no_more_groups_are_scored_at_a_time_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()
    assert failed(score_all(monkeypatch, service, max_concurrency=3)) == {}
    assert max(len(beside) for _, beside in service.asked) == 2


@pytest.mark.parametrize("max_concurrency", [1, 2, 4, 6])
def test_a_group_over_its_deadline_ends_the_process_and_fails_alone(
    monkeypatch: pytest.MonkeyPatch, max_concurrency: int
) -> None:
    # those of 50 s are in flight when the process ends
    service = Service(seconds={"fear": NEVER, "neutral": 50.0, "surprise": 50.0})
    answers = score_all(monkeypatch, service, max_concurrency=max_concurrency)
    assert failed(answers) == {"fear": "deadline"}
    assert service.num_deaths == 1


def test_who_is_beside_groups_that_hang_is_never_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    # five that hang, one after the other, and one that is slow: it is interrupted more often than max_retries
    labels = ("slow", *(f"hangs-{i}" for i in range(5)))
    service = Service(seconds={label: NEVER if label != "slow" else 59.0 for label in labels})
    answers = score_all(monkeypatch, service, labels=labels, max_concurrency=2, max_retries=0)
    assert failed(answers) == {label: "deadline" for label in labels if label != "slow"}


def test_a_group_that_holds_the_interpreter_is_found_by_asking_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(holding=["fear"])
    answers = score_all(monkeypatch, service)
    assert failed(answers) == {"fear": "deadline"}
    # those that were in it when it stopped
    alone = [label for label, beside in service.asked if not beside]
    assert {"happy", "fear", "sad", "angry"} <= set(alone)
    assert service.num_deaths == 2


@pytest.mark.parametrize("max_concurrency", [1, 4])
@pytest.mark.parametrize("labels", [("sad",), LABELS])
def test_a_service_that_is_stopped_from_outside_costs_no_group(
    monkeypatch: pytest.MonkeyPatch, labels: Sequence[str], max_concurrency: int
) -> None:
    service = Service(holding=["sad"])
    die = service.die

    def die_and_recover() -> None:
        # the next process is not stopped
        service.holding.clear()
        die()

    monkeypatch.setattr(service, "die", die_and_recover)
    answers = score_all(monkeypatch, service, labels=labels, max_concurrency=max_concurrency)
    assert failed(answers) == {}
    assert service.num_deaths == 1


def test_a_group_that_holds_the_interpreter_whenever_it_is_scored_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(holding=["fear"])
    assert failed(score_all(monkeypatch, service, labels=("fear",))) == {"fear": "deadline"}
    assert service.num_deaths == 2


def test_a_group_that_ends_the_process_fails_and_whoever_was_beside_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = Service(deadly=["fear"])
    answers = score_all(monkeypatch, service, max_retries=1)
    assert failed(answers) == {"fear": "service-died"}
    answer = answers["fear"]
    assert isinstance(answer, Failure)
    assert answer.detail == "the service died 2 times while it scored this group"
    # once among others, once alone
    assert [bool(beside) for label, beside in service.asked if label == "fear"] == [True, False]


@pytest.mark.parametrize("restart_s", [0.0, 300.0])
def test_after_a_death_from_outside_every_group_is_scored(
    monkeypatch: pytest.MonkeyPatch, restart_s: float
) -> None:
    # the restart may take longer than the deadline
    service = Service(restart_s=restart_s)
    assert failed(score_all(monkeypatch, service, kill_at_s=0.5)) == {}
    assert service.num_deaths == 1


def test_a_service_that_does_not_come_back_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RewardError, match="the reward service died"):
        score_all(monkeypatch, Service(num_restarts=0), kill_at_s=0.5)
    with pytest.raises(RewardError, match="did not start within 600 s"):
        score_all(monkeypatch, Service(restart_s=NEVER), kill_at_s=0.5)


def test_groups_without_an_answer_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(seconds={"fear": NEVER})
    monkeypatch.setattr(reward.actor.ray, "kill", service.kill)

    async def ask() -> dict[str, float]:
        client = RewardClient(service, deadline_s=60.0)
        await asyncio.gather(*(client(make_record(label=label), [make_completion([1])]) for label in LABELS[:4]))
        return client.take_metrics()

    assert run(ask())["reward/lost_rate"] == 0.25


def test_an_error_of_the_service_itself_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()

    async def raising(*_: object, **__: object) -> None:
        raise RayTaskError("score", "Traceback\nValueError: odd", ValueError("odd"))

    service.score = Method(raising)
    assert failed(score_all(monkeypatch, service, labels=("sad",))) == {"sad": "service-error"}
