"""The client of an engine over a scripted actor: deadlines, errors and names, without Ray."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnschedulableError, RayTaskError

from common.errors import EngineError, EngineStartError, ReceiveError, RequestRefusedError
from common.types import SamplingSpec
from rollout.actor import EngineClient
from rollout.admission import WAITING_DEADLINES
from tests.support.clock import run

SAMPLING = SamplingSpec(max_tokens=4)
REQUEST: dict[str, Any] = {"sampling": SAMPLING, "group_size": 2, "seed": 0, "deadline_s": 60.0}
TOGETHER: dict[str, Any] = {"sampling": SAMPLING, "group_size": 2, "seeds": [0], "deadline_s": 60.0}
SCORE: dict[str, Any] = {"prefix_ids": (), "text_ids": (1,), "deadline_s": 60.0}


class EngineDeadError(Exception):
    """Has the name of vLLM's."""


class Handle:
    """An actor whose methods return or raise what the test has set; others never answer."""

    def __init__(self, **answers: Any) -> None:
        self._answers: dict[str, Any] = {"place": ("node-1", "; its output is there"), "failure": ""} | answers

    def __getattr__(self, method: str) -> "Handle":
        handle = Handle(**self._answers)
        handle.__dict__["_method"] = method
        return handle

    async def remote(self, *args: Any, **kwargs: Any) -> Any:
        method = self.__dict__["_method"]
        if method not in self._answers:
            await asyncio.Event().wait()
        answer = self._answers[method]
        if isinstance(answer, Exception):
            raise answer
        return answer


def client_of(**answers: Any) -> EngineClient:
    return EngineClient(Handle(**answers), name="engine-1.2", sampling=SAMPLING, answer_deadline_s=30.0)


def raised(cause: Exception) -> RayTaskError:
    """An error that an actor's method raised."""
    return RayTaskError("method", "Traceback", cause)


@pytest.fixture(autouse=True)
def nothing_to_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    def cancel(answer: Any, *, force: bool) -> None: ...

    monkeypatch.setattr("ray.cancel", cancel)


def error_of(call: Callable[[], Any]) -> EngineError:
    async def work() -> EngineError:
        with pytest.raises(EngineError) as error:
            await call()
        return error.value

    return run(work())


def test_a_request_that_a_living_engine_refuses_is_told_apart() -> None:
    client = client_of(generate=raised(ValueError("out of vocabulary")))
    error = error_of(lambda: client.generate("media", **REQUEST))
    assert type(error) is RequestRefusedError
    assert str(error).startswith("engine engine-1.2: generate: out of vocabulary; its output")


@pytest.mark.parametrize(
    ("answers", "kind", "text"),
    [
        (
            {"generate": raised(ValueError("x")), "failure": "VllmWorker-0 was killed by SIGKILL"},
            EngineError,
            "VllmW",
        ),
        ({"generate": raised(EngineDeadError("core"))}, EngineError, "core"),
        ({"generate": raised(ValueError("x")), "failure": ActorDiedError()}, EngineError, "x"),
        ({"generate": raised(ReceiveError("half a layer"))}, ReceiveError, "half a layer"),
        ({"generate": ActorDiedError()}, EngineError, "the actor died"),
    ],
)
def test_the_errors_of_a_dead_engine_are_no_refusals(
    answers: dict[str, Any], kind: type[EngineError], text: str
) -> None:
    error = error_of(lambda: client_of(**answers).generate("media", **REQUEST))
    assert type(error) is kind
    assert text in str(error)


@pytest.mark.parametrize(
    ("cause", "is_killed"),
    [
        (ActorDiedError(), True),
        (ActorUnschedulableError("its node is gone"), True),
        (raised(EngineStartError("too little memory")), False),
        (raised(EngineStartError("VllmWorker-0 was killed by SIGKILL", is_killed=True)), True),
    ],
)
def test_a_start_that_failed_may_be_repeated_only_if_a_process_was_killed(
    cause: Exception, is_killed: bool
) -> None:
    error = error_of(lambda: client_of(warm_up=cause).warm_up([]))
    assert isinstance(error, EngineStartError)
    assert error.is_killed == is_killed


@pytest.mark.parametrize(
    ("method", "more", "num_deadlines"),
    [
        ("generate", REQUEST, 2 + WAITING_DEADLINES),
        ("generate", REQUEST | {"is_probe": True}, 2),
        ("generate_together", TOGETHER, 2),
        ("score", SCORE, 2 + WAITING_DEADLINES),
        ("score", SCORE | {"is_alone": True}, 2),
        ("stats", {}, 0),
        ("processes", {}, 0),
    ],
)
def test_the_deadline_of_a_call_has_room_for_the_waits_of_the_engine(
    method: str, more: dict[str, Any], num_deadlines: float
) -> None:
    media = [["media"]] if more else []
    error = error_of(lambda: getattr(client_of(), method)(*media, **more))
    assert f"{method} must end within {30 + 60 * num_deadlines:g} s" in str(error)


def test_a_heartbeat_has_no_deadline_of_its_own() -> None:
    async def work() -> None:
        heartbeat = asyncio.create_task(client_of().heartbeat())
        await asyncio.sleep(10_000)
        assert not heartbeat.done()
        heartbeat.cancel()

    run(work())


def test_the_node_is_known_before_the_engine_is_warm() -> None:
    async def work() -> None:
        client = client_of()
        assert client.node is None
        warm_up = asyncio.create_task(client.warm_up([]))
        await asyncio.sleep(1)
        assert client.node == "node-1"
        assert not warm_up.done()
        warm_up.cancel()

    run(work())
