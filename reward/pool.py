"""Asking a reward that lives elsewhere: deadlines, attempts, outcomes. Whose turn it is `reward/turns.py` says.

A call waits for a channel, and its clock runs from there. One that passes its deadline is ended, and fails for
good; one that fails or whose channel is lost is asked again, after a wait that doubles, while its time lasts. Where
calls share a channel and one of them holds it, or ends it, it cannot be told which: each that was in it is asked
once more, alone, which is no attempt.
"""

import asyncio
from collections.abc import Callable, Sequence

from common.config.reward import RewardEntry
from common.errors import ConfigError
from reward.channel import Channel, ChannelEndedError, ChannelLostError
from reward.outcome import Outcome, RewardFault, fault_of
from reward.request import RewardRequest
from reward.turns import CallGroup, Turn, Turns, Way

FIRST_WAIT_S = 0.05
"""Before the second attempt; doubled before each further one."""

FINAL = frozenset({"deadline", "refused"})
"""Faults that asking again would not mend."""


class AskAgainError(Exception):
    """A call that is to be asked again, through no fault of its own."""

    def __init__(self, way: Way) -> None:
        super().__init__(way)
        self.way: Way = way


class PooledReward:
    """One reward behind so many channels."""

    def __init__(
        self,
        entry: RewardEntry,
        *,
        make_channel: Callable[[], Channel],
        size: int,
        num_spare: int = 0,
        asks_all: bool = False,
    ) -> None:
        """Nothing is started yet.

        Args:
            entry: its deadline and attempts.
            make_channel: a channel that is not open.
            size: so many of them.
            num_spare: so many more, for calls that are slow.
            asks_all: whether completions are asked about whose group has failed already.
        """
        self.entry = entry
        self.decision = ""
        self._asks_all = asks_all
        self._takes_groups = False
        self._turns = Turns(make_channel, size=size, num_spare=num_spare, deadline_s=entry.deadline_s)

    async def start(self) -> None:
        """Opens all channels.

        Raises:
            ConfigError: what is configured cannot be.
            RewardError: it does not come up.
        """
        channel = await self._turns.start()
        self.decision, self._takes_groups = channel.decision, channel.takes_groups

    def close(self) -> None:
        """Ends all channels."""
        self._turns.close()

    async def __call__(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """One outcome per request, in their order."""
        group = CallGroup()
        if self._takes_groups:
            return await self._settled(requests, group)
        calls = (self._settled([request], group) for request in requests)
        return [outcome for outcomes in await asyncio.gather(*calls) for outcome in outcomes]

    async def _settled(self, requests: Sequence[RewardRequest], group: CallGroup) -> list[Outcome]:
        """The outcomes of the last attempt."""
        loop = asyncio.get_running_loop()
        left_s, wait_s, num_attempts = self.entry.deadline_s, FIRST_WAIT_S, 0
        way: Way = "first"
        while True:
            try:
                outcomes, seconds = await self._attempt(requests, group, way, left_s)
            except AskAgainError as error:
                way = error.way
                if way != "again":
                    left_s = self.entry.deadline_s
                continue
            num_attempts += 1
            left_s -= seconds
            faults = [o for o in outcomes if isinstance(o, RewardFault)]
            if not faults:
                return outcomes
            is_last = num_attempts > self.entry.max_retries or left_s <= wait_s
            if is_last or (group.is_doomed and not self._asks_all) or faults[0].kind in FINAL:
                group.is_doomed = True
                return outcomes
            started = loop.time()
            await asyncio.sleep(wait_s)
            left_s, wait_s = left_s - (loop.time() - started), 2 * wait_s
            # who ended the channel of others has to be alone again
            way = "alone" if way == "alone" else "again"

    async def _attempt(
        self, requests: Sequence[RewardRequest], group: CallGroup, way: Way, left_s: float
    ) -> tuple[list[Outcome], float]:
        """One call, once there is a channel; and the seconds that it took from there."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with self._turns.turn(group, way) as turn:
                if group.is_doomed and not self._asks_all:
                    fault = RewardFault(
                        kind="error", detail="not asked: another completion of the group had failed"
                    )
                    return [fault] * len(requests), 0.0
                started = loop.time()
                return await self._called(turn, requests, left_s), loop.time() - started
        except (AskAgainError, asyncio.CancelledError):
            raise
        except ChannelLostError as error:
            fault = RewardFault(kind=error.kind, detail=str(error))
        except ConfigError as error:
            fault = RewardFault(kind="error", detail=str(error))
        except Exception as error:  # noqa: BLE001 - whatever a channel meets is its group's failure
            fault = fault_of(error)
        return [fault] * len(requests), loop.time() - started

    async def _called(self, turn: Turn, requests: Sequence[RewardRequest], left_s: float) -> list[Outcome]:
        seat = turn.seat
        channel = seat.channel
        try:
            async with asyncio.timeout(left_s) as turn.scope:
                outcomes = await channel.ask(requests)
                turn.has_answered = True
                return outcomes
        except ChannelEndedError as error:
            raise AskAgainError("alone" if turn.way == "alone" else "again") from error
        except ChannelLostError as error:
            if channel.is_lost and (seat.is_shared_loss or len(seat.turns) > 1):
                seat.is_shared_loss = True
                raise AskAgainError("alone") from error
            raise
        except TimeoutError as error:
            if turn.is_put_back:
                is_held = await channel.abandon()
                raise AskAgainError("alone" if is_held else "slow") from error
            where = await channel.where()
            if await channel.abandon() and turn.way != "alone":
                raise AskAgainError("alone") from error
            told = f"{self.entry.deadline_s:g} s passed" + (f"; it was at\n{where}" if where else "")
            return [RewardFault(kind="deadline", detail=told)] * len(requests)
