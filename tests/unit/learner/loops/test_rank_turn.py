"""One task at a time uses the ranks, and nobody after a failure."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from common.errors import LearnerError, PublishError
from learner.loops.rank_turn import RankTurn
from tests.support.clock import run

KINDS: list[Callable[[RankTurn], AbstractAsyncContextManager[None]]] = [RankTurn.changing, RankTurn.reading]


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_the_turn_has_one_holder_at_a_time(
    first: Callable[[RankTurn], AbstractAsyncContextManager[None]],
    second: Callable[[RankTurn], AbstractAsyncContextManager[None]],
) -> None:
    turn = RankTurn()
    holders: list[int] = []
    most: list[int] = []

    async def use(index: int, kind: Callable[[RankTurn], AbstractAsyncContextManager[None]]) -> None:
        async with kind(turn):
            holders.append(index)
            most.append(len(holders))
            await asyncio.sleep(1)
            holders.remove(index)

    async def both() -> None:
        await asyncio.gather(*(use(i, first if i % 2 else second) for i in range(6)))

    run(both())
    assert most == [1] * 6


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_uses_the_ranks_after_a_failure(
    kind: Callable[[RankTurn], AbstractAsyncContextManager[None]],
) -> None:
    turn, used = RankTurn(), list[str]()

    async def fail() -> None:
        async with kind(turn):
            await asyncio.sleep(1)
            raise PublishError("no", proof="receipt", engine="e", subject="t")

    async def wait() -> None:
        async with turn.reading():
            used.append("reading")

    async def both() -> tuple[object, ...]:
        return tuple(await asyncio.gather(fail(), wait(), return_exceptions=True))

    first, second = run(both())
    assert isinstance(first, PublishError)
    assert isinstance(second, LearnerError)
    assert used == []


def test_a_step_that_is_cancelled_has_failed_and_an_admission_has_not() -> None:
    async def cancelled(kind: Callable[[RankTurn], AbstractAsyncContextManager[None]]) -> bool:
        turn = RankTurn()

        async def use() -> None:
            async with kind(turn):
                await asyncio.Event().wait()

        task = asyncio.create_task(use())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        try:
            async with turn.reading():
                return True
        except LearnerError:
            return False

    assert [run(cancelled(kind)) for kind in KINDS] == [False, True]
