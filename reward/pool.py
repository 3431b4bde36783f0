"""Asking a reward that lives elsewhere: turns, deadlines, attempts. Where it lives is a `Channel`'s matter.

A call waits for a channel, and its clock runs from there. One that passes its deadline ends its channel, and fails
for good; one that fails or whose channel is lost is asked again, after a wait that doubles, while its time lasts. A
call that takes a tenth of its deadline gives its turn to another channel meanwhile, so that who is stuck stops
nobody; when it comes back, one of the two is ended. Where calls share a channel and one of them holds it, it cannot
be told which: each whose deadline passes is asked once more, alone.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from common.config.reward import RewardEntry
from common.errors import ConfigError, RewardError
from reward.outcome import FaultKind, Outcome, RewardFault
from reward.request import RewardRequest

logger = logging.getLogger(__name__)
FIRST_WAIT_S = 0.05
"""Before the second attempt; doubled before each further one."""
STUCK_FRACTION = 0.1
"""Of its deadline, after which a call no longer keeps others from their turn."""


class ChannelLostError(RewardError):
    """Whom a channel leads to is gone, or cannot be reached; asking another may help."""

    def __init__(self, message: str, *, kind: FaultKind = "died") -> None:
        super().__init__(message)
        self.kind: FaultKind = kind


class ChannelEndedError(ChannelLostError):
    """The channel was ended for another call's sake."""


class Channel(Protocol):
    """A way to one process, actor or service."""

    takes_groups: bool
    """Whether one call is for a whole group."""
    concurrency: int
    """Calls at a time."""
    decision: str
    """How it is called, for people; empty where there is nothing to tell."""

    @property
    def is_lost(self) -> bool:
        """Whether it leads nowhere."""
        ...

    async def open(self) -> None:
        """Until it can be asked.

        Raises:
            ConfigError: what is configured cannot be.
            ChannelLostError: it did not come up.
        """
        ...

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """One call.

        Raises:
            ChannelLostError: it was lost meanwhile.
        """
        ...

    async def where(self) -> str:
        """Where it is stuck, as far as that can be told."""
        ...

    async def abandon(self) -> bool:
        """Has a call that was given up stop; whether calls share the channel, and it had to be ended."""
        ...

    def end(self) -> None:
        """For good; harmless when repeated."""
        ...


@dataclass(slots=True)
class _Group:
    """What the calls of one group know of each other."""

    is_doomed: bool = False
    """Whether one has failed for good: nothing that the others say can matter."""


class PooledReward:
    """One reward behind so many channels."""

    def __init__(
        self, entry: RewardEntry, *, make_channel: Callable[[], Channel], size: int, asks_all: bool = False
    ) -> None:
        """Nothing is started yet.

        Args:
            entry: its deadline and attempts.
            make_channel: a channel that is not open.
            size: so many of them.
            asks_all: whether completions are asked about whose group has failed already.
        """
        self.entry = entry
        self._asks_all = asks_all
        self.decision = ""
        self._make_channel, self._size = make_channel, size
        self._takes_groups = False
        self._num_lent = 0
        self._open: list[Channel] = []
        self._free: list[Channel] = []
        """Each as often as it can be asked at a time."""
        self._turns = asyncio.Semaphore(0)
        self._opening = asyncio.Lock()
        self._asking_alone = asyncio.Lock()

    async def start(self) -> None:
        """Opens all channels.

        Raises:
            ConfigError: what is configured cannot be.
            RewardError: it does not come up.
        """
        first = await self._opened()
        self.decision, self._takes_groups = first.decision, first.takes_groups
        others = await asyncio.gather(*(self._opened() for _ in range(self._size - 1)))
        for channel in (first, *others):
            self._free += [channel] * channel.concurrency
            for _ in range(channel.concurrency):
                self._turns.release()

    def close(self) -> None:
        """Ends all channels."""
        for channel in self._open:
            channel.end()
        self._open.clear()
        self._free.clear()

    async def __call__(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """One outcome per request, in their order."""
        group = _Group()
        if self._takes_groups:
            return await self._settled(requests, group)
        calls = (self._settled([request], group) for request in requests)
        return [outcome for outcomes in await asyncio.gather(*calls) for outcome in outcomes]

    async def _settled(self, requests: Sequence[RewardRequest], group: _Group) -> list[Outcome]:
        """The outcomes of the last attempt."""
        loop = asyncio.get_running_loop()
        left_s, wait_s, num_attempts = self.entry.deadline_s, FIRST_WAIT_S, 0
        while True:
            num_attempts += 1
            await self._turns.acquire()
            if group.is_doomed and not self._asks_all:
                self._turns.release()
                fault = RewardFault(kind="error", detail="not asked: another completion of the group had failed")
                return [fault] * len(requests)
            try:
                outcomes, seconds = await self._attempt(requests, left_s)
            except ChannelEndedError:
                num_attempts -= 1
                continue
            left_s -= seconds
            faults = [o for o in outcomes if isinstance(o, RewardFault)]
            if not faults:
                return outcomes
            is_last = num_attempts > self.entry.max_retries or left_s <= wait_s
            if is_last or (group.is_doomed and not self._asks_all) or faults[0].kind == "deadline":
                group.is_doomed = True
                return outcomes
            started = loop.time()
            await asyncio.sleep(wait_s)
            left_s, wait_s = left_s - (loop.time() - started), 2 * wait_s

    async def _attempt(self, requests: Sequence[RewardRequest], left_s: float) -> tuple[list[Outcome], float]:
        """One call, its turn taken; and the seconds that it took, from when there was a channel."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with self._turn() as channel:
                started = loop.time()
                return await self._called(channel, requests, left_s), loop.time() - started
        except ChannelEndedError:
            raise
        except (ConfigError, ChannelLostError) as error:
            kind: FaultKind = error.kind if isinstance(error, ChannelLostError) else "error"
            return [RewardFault(kind=kind, detail=str(error))] * len(requests), loop.time() - started

    async def _called(self, channel: Channel, requests: Sequence[RewardRequest], left_s: float) -> list[Outcome]:
        try:
            async with asyncio.timeout(left_s):
                return await channel.ask(requests)
        except TimeoutError:
            where = await channel.where()
            if await channel.abandon():
                return await self._alone(requests)
            told = f"{self.entry.deadline_s:g} s passed" + (f"; it was at\n{where}" if where else "")
            return [RewardFault(kind="deadline", detail=told)] * len(requests)

    async def _alone(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """Asks a channel that nobody shares."""
        async with self._asking_alone:
            channel = await self._opened()
            channel.concurrency = 1
            try:
                return await self._called(channel, requests, self.entry.deadline_s)
            finally:
                channel.end()
                self._open.remove(channel)

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[Channel]:
        """A channel for one call, whose turn the caller has acquired; another has it where the call is stuck."""
        loop = asyncio.get_running_loop()
        is_lent = False

        def lend() -> None:
            nonlocal is_lent
            if self._num_lent < self._size:
                is_lent = True
                self._num_lent += 1
                self._turns.release()

        channel: Channel | None = None
        timer: asyncio.TimerHandle | None = None
        try:
            channel = await self._taken()
            timer = loop.call_later(max(1.0, STUCK_FRACTION * self.entry.deadline_s), lend)
            yield channel
        except asyncio.CancelledError:
            if channel is not None:
                # what it is still at is nobody's any more
                await asyncio.shield(channel.abandon())
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._num_lent -= is_lent
            self._put_back(channel)
            if not is_lent:
                self._turns.release()

    async def _taken(self) -> Channel:
        """A free channel, opened where there is none."""
        async with self._opening:
            while self._free:
                channel = self._free.pop()
                if not channel.is_lost:
                    return channel
            channel = await self._opened()
            self._free += [channel] * (channel.concurrency - 1)
            return channel

    async def _opened(self) -> Channel:
        channel = self._make_channel()
        self._open.append(channel)
        try:
            await channel.open()
        except BaseException:
            channel.end()
            self._open.remove(channel)
            raise
        return channel

    def _put_back(self, channel: Channel | None) -> None:
        if channel is None:
            return
        self._open = [other for other in self._open if not other.is_lost]
        if channel.is_lost:
            channel.end()
            return
        if len(self._open) > self._size + self._num_lent and channel.concurrency == 1:
            channel.end()
            self._open.remove(channel)
        else:
            self._free.append(channel)
