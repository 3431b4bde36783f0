"""Brings engines that start during a run into service.

Consumes the fleet's engines that join, and produces engines at the standing version. Waits for such an engine, for
the ranks' turn, and for the publisher; the fleet, the GRPO loop and the publisher's deadlines unblock it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from common.protocols import EngineFleet
from learner.loops.rank_turn import RankTurn
from learner.publishing.publisher import Publisher
from learner.records.event_log import EventLog


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineAdmission:
    """Admits engines while the ranks are free. Without it, a single engine that died could never return: no publish
    would come, because no group would.
    """

    fleet: EngineFleet
    publisher: Publisher
    turn: RankTurn
    events: EventLog
    fail: Callable[[BaseException], None]
    """Called with the error that ends the task, for example a `FleetError`."""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Admits engines until the block ends."""
        task = asyncio.create_task(self._run())
        task.add_done_callback(self._ended)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    @classmethod
    async def beside(
        cls, work: Coroutine[Any, Any, None], *, fleet: EngineFleet, publisher: Publisher, events: EventLog
    ) -> None:
        """Admits engines while work outside the GRPO loop runs, such as an evaluation; the ranks must be free.

        The error of an admission cancels the work, which may wait for engines, and is raised.
        """
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        admission = cls(fleet=fleet, publisher=publisher, turn=RankTurn(), events=events, fail=failed.set_exception)
        task = asyncio.create_task(work)
        try:
            async with admission.running():
                await asyncio.wait([task, failed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            failed.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        await (task if failed.cancelled() else failed)

    async def _run(self) -> None:
        while True:
            await self.fleet.until_joining()
            with self.events.phase("rehearse"):
                await self.publisher.rehearse_alone()
            async with self.turn.reading():
                with self.events.phase("admit"):
                    await self.publisher.admit()

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.fail(error)
