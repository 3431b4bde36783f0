"""The lock on the learner ranks. While nobody holds it, the ranks hold exactly the published version."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from common.errors import LearnerError


class RankTurn:
    """One task at a time uses the ranks, in the order of the requests.

    A block that fails may leave the ranks without the published version. It closes the turn for good.

    Raises:
        LearnerError: an earlier block failed.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._is_closed = False

    @asynccontextmanager
    async def changing(self) -> AsyncGenerator[None]:
        """A block that trains and ends with a publish; if it is cancelled, it has failed."""
        async with self._held(BaseException):
            yield

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[None]:
        """A block that leaves the ranks at the published version, also if it is cancelled."""
        async with self._held(Exception):
            yield

    @asynccontextmanager
    async def _held(self, failure: type[BaseException]) -> AsyncGenerator[None]:
        async with self._lock:
            if self._is_closed:
                raise LearnerError("the ranks must hold the published version, and an earlier use of them failed")
            try:
                yield
            except failure:
                self._is_closed = True
                raise
