"""Who is asked next, and where: the channels of one reward, and the calls that wait for one.

A call is slow once it takes longer than a tenth of its deadline, and than twice the longest of late that came back;
so are all calls of its group, until one of them comes back. Slow calls have places of their own, in as many spare
channels as are allowed: who is slow beyond these is stopped where others wait, and asked anew when a spare channel
is free, for its whole deadline. Calls that were never asked go before those that failed before. A channel is opened
behind the waiting calls' backs: they take whichever is free first. Without spare channels a slow call keeps its
place.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from reward.channel import Channel, ChannelLostError

logger = logging.getLogger(__name__)
SLOW_FRACTION = 0.1
"""Of its deadline, after which a call may be slow."""
MIN_SLOW_S = 1.0
PAUSE_S = 5.0
"""Before another channel is opened after one did not come up, where there are others."""
NUM_REMEMBERED = 64
"""Answers that tell how long a call may take."""
Way = Literal["first", "again", "slow", "alone"]


@dataclass(eq=False, slots=True)
class CallGroup:
    """What the calls of one group have in common."""

    is_doomed: bool = False
    """Whether one has failed for good: nothing that the others say can matter."""
    is_slow: bool = False


@dataclass(eq=False, slots=True)
class Seat:
    """An open channel, and the calls that are at it."""

    channel: Channel
    width: int
    """Calls that it may be asked at a time."""
    turns: list["Turn"] = field(default_factory=list["Turn"])
    is_kept: bool = False
    """Whether it is for one call alone."""
    is_shared_loss: bool = False
    """Whether it was lost with several calls in it: any of them may be to blame."""


@dataclass(eq=False, slots=True)
class Turn:
    """A call that waits, or is at a channel."""

    group: CallGroup
    way: Way
    given: asyncio.Future[Seat]
    started: float = 0.0
    timer: asyncio.TimerHandle | None = None
    scope: asyncio.Timeout | None = None
    """Of the call, once it is asked."""
    is_stoppable: bool = False
    """Whether it is slow and may be asked anew."""
    is_put_back: bool = False
    has_answered: bool = False

    @property
    def seat(self) -> Seat:
        """Where it is; once it was given."""
        return self.given.result()

    @property
    def is_given(self) -> bool:
        """Whether it has a channel."""
        return self.given.done() and not self.given.cancelled() and self.given.exception() is None


class Turns:
    """Gives so many channels to the calls of one reward."""

    def __init__(
        self, make_channel: Callable[[], Channel], *, size: int, num_spare: int, deadline_s: float
    ) -> None:
        self._make_channel, self._size, self._num_spare = make_channel, size, num_spare
        self._slow_s = max(MIN_SLOW_S, SLOW_FRACTION * deadline_s)
        self._seats: list[Seat] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: dict[Way, deque[Turn]] = {way: deque() for way in ("first", "again", "slow", "alone")}
        self._answer_s: deque[float] = deque(maxlen=NUM_REMEMBERED)
        self._pause: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def start(self) -> Channel:
        """Opens the channels; one of them.

        Raises:
            ConfigError: what is configured cannot be.
            RewardError: it does not come up.
        """
        first = await self._opened()
        others = await asyncio.gather(*(self._opened() for _ in range(self._size - 1)))
        self._seats += [Seat(channel, channel.concurrency) for channel in (first, *others)]
        return first

    def close(self) -> None:
        """Ends all channels, and every wait for one."""
        self._is_closed = True
        if self._pause is not None:
            self._pause.cancel()
        for task in self._opening:
            task.cancel()
        for seat in self._seats:
            seat.channel.end()
        self._seats.clear()
        for queue in self._waiting.values():
            for turn in queue:
                if not turn.given.done():
                    turn.given.set_exception(ChannelLostError("the reward was closed"))
            queue.clear()

    @asynccontextmanager
    async def turn(self, group: CallGroup, way: Way) -> AsyncGenerator[Turn]:
        """A channel for one call, once there is one.

        Raises:
            ChannelLostError: there is none, and none comes up.
            ConfigError: what is configured cannot be.
        """
        if self._is_closed:
            raise ChannelLostError("the reward was closed")
        way = "slow" if group.is_slow and way != "alone" else way
        turn = Turn(group=group, way=way, given=asyncio.get_running_loop().create_future())
        self._waiting[way].append(turn)
        self._arrange()
        try:
            await turn.given
            yield turn
        except asyncio.CancelledError:
            if turn.is_given:
                # what it is still at is nobody's any more
                await asyncio.shield(turn.seat.channel.abandon())
            raise
        finally:
            if turn.is_given:
                self._leave(turn, turn.seat)
            elif turn in self._waiting[turn.way]:
                self._waiting[turn.way].remove(turn)
                self._arrange()

    def _leave(self, turn: Turn, seat: Seat) -> None:
        if turn.timer is not None:
            turn.timer.cancel()
        if turn.has_answered:
            self._answer_s.append(asyncio.get_running_loop().time() - turn.started)
            if turn.group.is_slow:
                # it took its time, and came back
                turn.group.is_slow = False
                self._move(turn.group, ("slow",), "again")
        seat.turns.remove(turn)
        if turn.way == "alone":
            seat.channel.concurrency = seat.width
        if seat not in self._seats and not seat.turns:
            seat.channel.end()
        self._arrange()

    def _arrange(self) -> None:
        """Gives what is free, opens what is missing, and puts back who is slow beyond the spare channels."""
        if self._is_closed:
            return
        for seat in [seat for seat in self._seats if seat.channel.is_lost]:
            seat.is_shared_loss |= len(seat.turns) > 1
            self._seats.remove(seat)
            if not seat.turns:
                seat.channel.end()
        if not self._waiting["alone"]:
            for seat in self._seats:
                seat.is_kept = any(turn.way == "alone" for turn in seat.turns)
        self._end_surplus()
        while self._give():
            pass
        num_missing = self._wanted() - len(self._seats) - len(self._opening)
        if num_missing > 0:
            for _ in range(num_missing if self._may_open() else 0):
                task = asyncio.get_running_loop().create_task(self._open_another())
                self._opening.add(task)
                task.add_done_callback(self._opening.discard)
        elif self._num_waiting("first", "again"):
            self._put_back()

    def _give(self) -> bool:
        """One waiting call its channel; whether there was one for one."""
        alone = self._waiting["alone"]
        if alone and (seat := self._kept_seat()) and not seat.turns:
            self._start(alone.popleft(), seat)
            return True
        free = [s for s in self._seats if not s.is_kept and len(s.turns) < s.width]
        way = self._next_way() if free else None
        if way is None:
            return False
        self._start(self._waiting[way].popleft(), min(free, key=lambda seat: len(seat.turns)))
        return True

    def _next_way(self) -> Way | None:
        """Whose turn it is: as many as are slow have the spare places, whoever else waits."""
        quick: Way | None = next((way for way in ("first", "again") if self._waiting[way]), None)
        may_be_slow = self._waiting["slow"] and (not self._num_spare or self._num_slow() < self._num_slow_places)
        if quick is not None and not (may_be_slow and self._num_spare and self._num_quick() >= self._num_places):
            return quick
        return "slow" if may_be_slow else None

    def _start(self, turn: Turn, seat: Seat) -> None:
        if turn.given.done():
            return  # who waited was cancelled
        loop = asyncio.get_running_loop()
        seat.turns.append(turn)
        turn.started = loop.time()
        if turn.way == "alone":
            # it can be ended for this call's sake
            seat.channel.concurrency = 1
        elif turn.way != "slow":
            turn.timer = loop.call_later(self._is_slow_after(), self._look_at, turn)
        turn.given.set_result(seat)

    def _is_slow_after(self) -> float:
        return max(self._slow_s, 2 * max(self._answer_s, default=0.0))

    def _look_at(self, turn: Turn) -> None:
        """Whether a call is slow by now."""
        loop = asyncio.get_running_loop()
        left_s = turn.started + self._is_slow_after() - loop.time()
        if left_s > 0:
            turn.timer = loop.call_later(left_s, self._look_at, turn)
            return
        turn.timer = None
        turn.way, turn.group.is_slow, turn.is_stoppable = "slow", True, True
        self._move(turn.group, ("first", "again"), "slow")
        self._arrange()

    def _move(self, group: CallGroup, origins: Sequence[Way], target: Way) -> None:
        """Has what waits of a group wait elsewhere."""
        for origin in origins:
            for turn in [turn for turn in self._waiting[origin] if turn.group is group]:
                self._waiting[origin].remove(turn)
                turn.way = target
                self._waiting[target].append(turn)

    def _put_back(self) -> None:
        """Stops the calls that are slow beyond the spare places, those first that were asked last."""
        if not self._num_spare:
            return
        slow = [t for s in self._seats for t in s.turns if t.way == "slow" and not t.is_put_back]
        stoppable = [t for t in slow if t.is_stoppable and t.scope is not None and not t.scope.expired()]
        stoppable.sort(key=lambda turn: turn.started, reverse=True)
        for turn in stoppable[: max(0, len(slow) - self._num_slow_places)]:
            assert turn.scope is not None
            turn.is_put_back = True
            turn.scope.reschedule(asyncio.get_running_loop().time())

    def _kept_seat(self) -> Seat | None:
        """The channel that is kept for one call alone, which the others leave one by one."""
        kept = next((seat for seat in self._seats if seat.is_kept), None)
        if kept is None and self._seats:
            kept = min(self._seats, key=lambda seat: len(seat.turns))
            if kept.turns and len(self._seats) < self._size + self._num_spare:
                return None
            kept.is_kept = True
        return kept

    def _wanted(self) -> int:
        """Channels that there should be."""
        num_slow = self._num_slow() + self._num_waiting("slow")
        width = self._num_places // self._size
        is_kept = self._num_waiting("alone") > 0 or any(seat.is_kept for seat in self._seats)
        return self._size + min(math.ceil(num_slow / width) + int(is_kept), self._num_spare)

    def _may_open(self) -> bool:
        """Whether somebody waits for a channel, and the last attempt at one is long enough ago."""
        if not any(self._waiting.values()):
            return False
        return self._pause is None or not self._seats

    def _resume(self) -> None:
        self._pause = None
        self._arrange()

    async def _open_another(self) -> None:
        failure: Exception | None = None
        try:
            channel = await self._opened()
        except Exception as error:  # noqa: BLE001 - told to a call that waits for it
            failure = error
        else:
            self._seats.append(Seat(channel, channel.concurrency))
        own = asyncio.current_task()
        assert own is not None
        self._opening.discard(own)
        if failure is not None:
            self._did_not_come_up(failure)
        self._arrange()

    def _did_not_come_up(self, error: Exception) -> None:
        """A call that waits fails of it where there is no other channel, and is asked again as of any failure."""
        waiting = next((t for queue in self._waiting.values() for t in queue if not t.given.done()), None)
        if waiting is not None and not self._seats:
            self._waiting[waiting.way].remove(waiting)
            waiting.given.set_exception(error)
            return
        logger.warning("another channel of a reward did not come up: %s", error)
        if self._pause is None:
            self._pause = asyncio.get_running_loop().call_later(PAUSE_S, self._resume)

    async def _opened(self) -> Channel:
        channel = self._make_channel()
        try:
            await channel.open()
        except BaseException:
            channel.end()
            raise
        return channel

    def _end_surplus(self) -> None:
        """The spare channels that nobody needs any more."""
        for seat in [seat for seat in self._seats if not seat.turns and not seat.is_kept]:
            if len(self._seats) > self._wanted():
                self._seats.remove(seat)
                seat.channel.end()

    @property
    def _num_places(self) -> int:
        """Calls that may be asked at a time in the configured channels."""
        return self._size * max((seat.width for seat in self._seats), default=1)

    @property
    def _num_slow_places(self) -> int:
        return self._num_places // self._size * self._num_spare

    def _num_slow(self) -> int:
        return sum(turn.way == "slow" for seat in self._seats for turn in seat.turns)

    def _num_quick(self) -> int:
        return sum(turn.way in ("first", "again") for seat in self._seats for turn in seat.turns)

    def _num_waiting(self, *ways: Way) -> int:
        return sum(len(self._waiting[way]) for way in ways)
