"""Brings engines that start during a run into service.

Consumes the fleet's engines that join, and produces engines at the standing version. Waits for such an engine, for
the ranks' turn, and for the publisher; the fleet, the GRPO loop and the publisher's deadlines unblock it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from common.protocols import EngineFleet
from learner.loops.rank_turn import RankTurn
from learner.publishing.publisher import Publisher
from learner.records.event_log import EventLog


class EngineAdmission:
    """Admits engines while the ranks are free. Without it, a single engine that died could never return: no publish
    would come, because no group would.
    """

    def __init__(
        self,
        *,
        fleet: EngineFleet,
        publisher: Publisher,
        turn: RankTurn,
        events: EventLog,
        fail: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        """`fail` is called with the error that ends the admission, for example a `FleetError`."""
        self._fleet, self._publisher, self._turn, self._events = fleet, publisher, turn, events
        self._fail = fail
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Admits engines until the block ends."""
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)
        try:
            yield
        finally:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def unless_failed(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs work that may wait for engines, inside the block of `running`.

        The error of the admission cancels the work, and is raised.
        """
        assert self._task is not None, "the admission must run"
        task = asyncio.create_task(work)
        try:
            await asyncio.wait([task, self._task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        await (self._task if task.cancelled() else task)

    async def _run(self) -> None:
        while True:
            await self._fleet.until_joining()
            with self._events.phase("rehearse"):
                await self._publisher.rehearse_alone()
            async with self._turn.reading():
                with self._events.phase("admit"):
                    await self._publisher.admit()

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)
