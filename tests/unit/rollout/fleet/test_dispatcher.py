"""Requests, their leases and the places that they free."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from common.errors import EngineError
from common.types import Failure
from rollout.fleet.dispatcher import Dispatcher
from tests.support.clock import run
from tests.support.fleet import dispatcher_of

FAILURE = Failure(stage="rollout", reason="deadline", detail="1 s passed")


class Engine:
    """Its name is its answer."""

    def __init__(self, name: str) -> None:
        self.name = name


async def name_of(engine: Any) -> str:
    """An answer at once."""
    return engine.name


def answer_after(seconds: float, answer: Any = None) -> Callable[[Any], Awaitable[Any]]:
    """A call that ends so late, with the engine's name or another answer."""

    async def call(engine: Any) -> Any:
        await asyncio.sleep(seconds)
        if isinstance(answer, Exception):
            raise answer
        return answer or engine.name

    return call


def dispatcher(*names: str, max_sequences: int = 4) -> Dispatcher:
    return dispatcher_of([Engine(name) for name in names], max_sequences=max_sequences)


def test_a_request_that_is_cancelled_before_its_call_starts_frees_its_place() -> None:
    async def work() -> None:
        requests, calls = dispatcher("a"), list[str]()

        async def call(engine: Any) -> None:
            calls.append(engine.name)

        first = asyncio.create_task(requests.run(answer_after(5), num_sequences=4, label="first"))
        await asyncio.sleep(1)
        early = asyncio.create_task(requests.run(call, num_sequences=4, label="early"))
        await asyncio.sleep(1)
        # the end of the first leases the place to the other, whose caller wakes before its call starts
        early.cancel()
        (lease,) = requests._engines["a.1"].leases.values()
        lease.cancel()
        assert await requests.run(name_of, num_sequences=4, label="late") == "a"
        assert requests.num_in_flight("a.1") == 0
        assert calls == []
        first.cancel()

    run(work())


def test_a_request_whose_caller_is_gone_is_not_made_again() -> None:
    async def work() -> None:
        requests = dispatcher("a", "b")
        task = asyncio.create_task(requests.run(answer_after(1000), num_sequences=4, label="cancelled"))
        await asyncio.sleep(1)
        task.cancel()
        asyncio.get_running_loop().call_soon(lambda: requests.fence("a.1", reason="killed"))
        await asyncio.sleep(1)
        assert requests.num_queued == 0
        assert requests.num_in_flight("b.1") == 0

    run(work())


def test_the_next_draw_of_a_clip_goes_to_its_engine_unless_that_failed_it() -> None:
    async def work() -> None:
        requests = dispatcher("a", "b", "c")

        async def draw(clip: str, answer: Any = None) -> Any:
            return await requests.run(answer_after(1, answer), num_sequences=4, label=clip, clip=clip)

        assert [await draw(clip) for clip in ("x", "y", "x", "z", "x")] == [*"abaca"]
        assert await draw("y", FAILURE) == FAILURE
        # b failed it: the turn is that of the engine that has been idle for longest
        assert await draw("y") == "c"

    run(work())


def test_a_share_of_a_slot_is_not_overtaken_by_smaller_requests() -> None:
    async def work() -> None:
        requests, order = dispatcher("a"), list[str]()

        async def ask(label: str, num_sequences: int, slot: str | None = None) -> None:
            await requests.run(answer_after(1), num_sequences=num_sequences, label=label, slot=slot)
            order.append(label)

        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(ask(f"first-{number}", 1))
            await asyncio.sleep(0.5)
            group.create_task(ask("share", 8, "a"))
            for number in range(8):
                group.create_task(ask(f"later-{number}", 1))
        assert order.index("share") == 4

    run(work())


def test_a_request_of_a_slot_waits_for_that_slot_alone() -> None:
    async def work() -> None:
        requests = dispatcher("a", "b")
        busy = asyncio.create_task(requests.run(answer_after(10), num_sequences=4, label="busy", slot="a"))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(requests.run(answer_after(10), num_sequences=4, label="waiting", slot="a"))
        assert await requests.run(answer_after(1), num_sequences=4, label="other") == "b"
        assert requests.num_queued == 1
        assert await asyncio.gather(busy, waiting) == ["a", "a"]

    run(work())


def test_an_engine_that_a_lone_request_has_gets_nothing_more() -> None:
    async def work() -> None:
        requests = dispatcher("a", "b")
        alone = asyncio.create_task(requests.run(answer_after(10), num_sequences=1, label="alone", num_losses=2))
        await asyncio.sleep(0)
        (name,) = [name for name in ("a.1", "b.1") if requests.num_in_flight(name)]
        others = [await requests.run(name_of, num_sequences=1, label=f"{i}") for i in range(4)]
        assert f"{others[0]}.1" != name
        assert len(set(others)) == 1
        await alone
        assert len({await requests.run(name_of, num_sequences=1, label=f"{i}") for i in range(4)}) == 2

    run(work())


def test_an_engine_that_serves_no_longer_keeps_its_leases_and_gets_no_more() -> None:
    async def work() -> None:
        a, b = Engine("a"), Engine("b")
        requests: Any = dispatcher_of([a])
        lease = asyncio.create_task(requests.run(answer_after(5), num_sequences=1, label="lease"))
        await asyncio.sleep(1)
        requests.serve({"b.1": ("b", b)})
        assert await requests.run(name_of, num_sequences=1, label="next") == "b"
        assert await lease == "a"
        assert requests.num_in_flight("a.1") == 0

    run(work())


def test_a_lost_engine_returns_its_requests_in_their_order() -> None:
    async def work() -> None:
        requests, order = dispatcher("a", max_sequences=2), list[str]()

        async def ask(label: str) -> None:
            calls = 0

            async def call(engine: Any) -> str:
                nonlocal calls
                calls += 1
                order.append(f"{label}{calls}")
                await asyncio.sleep(1)
                if label == "x" and calls == 1:
                    raise EngineError("died")
                return engine.name

            await requests.run(call, num_sequences=1, label=label)

        async with asyncio.TaskGroup() as group:
            for label in "xyz":
                group.create_task(ask(label))
            await asyncio.sleep(2)
            requests.serve({"a.2": ("a", Engine("a"))})
        assert order == ["x1", "y1", "x2", "y2", "z1"]

    run(work())
