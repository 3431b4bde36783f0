"""Rewards that run elsewhere: a queue, workers, a deadline and retries.

1. A reward has N workers. Calls are served first come, first served, one at a time in each worker; workers of async
   code take `max_concurrency` calls at a time.
2. A call's deadline runs while a worker has it. Past it the call fails, and its worker is killed and replaced at
   once; async code is cancelled instead, as long as its event loop still answers.
3. While all workers are busy for longer than x seconds and calls wait, up to k spare workers are opened, which end
   when no call waits. x is the largest of 1 s, a tenth of the deadline, and twice the longest recent answer. While
   spare workers are open, each group has one call at a time: no group that hangs can take them all.
4. A call whose worker died, was stopped from outside, or was killed because of another call, is repeated once,
   alone in a worker.
5. A call that fails in another way is retried `max_retries` times, after waits that double, within its deadline.
6. After the last failure of a completion, the reward is not called for the rest of the group.
"""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.config.reward import RewardEntry
from common.errors import ConfigError
from reward.hosts.reward_host import START_S, HostLostError, RewardHost
from reward.outcome import Outcome, RewardFault, fault_of
from reward.request import RewardRequest

logger = logging.getLogger(__name__)
FIRST_WAIT_S = 0.05
"""Seconds before the first retry; the wait doubles with each retry."""
MIN_BUSY_S, BUSY_FRACTION = 1.0, 0.1
"""Lower bounds of x in the policy; the second is a fraction of the deadline."""
REOPEN_S = 5.0
"""Seconds between attempts to start a worker while others serve."""
NUM_STARTS = 3
"""Attempts to start a worker before any serves."""
FINAL = frozenset({"deadline", "refused"})
"""Kinds of failures that are not retried."""
NOT_CALLED = RewardFault(kind="error", detail="not called: another completion of the group failed")
CLOSED = RewardFault(kind="died", detail="the reward was closed")


@dataclass(eq=False, slots=True)
class Group:
    has_failed: bool = False
    num_running: int = 0
    held: list["Call"] = field(default_factory=list["Call"])
    """Calls that wait for the running call of the group."""


@dataclass(eq=False, slots=True)
class Call:
    """One call: waiting, at a worker, or between two attempts."""

    requests: Sequence[RewardRequest]
    group: Group
    left_s: float
    """Seconds left of its deadline."""
    outcomes: asyncio.Future[list[Outcome]]
    """Cancelled together with the caller."""
    is_alone: bool = False
    num_retries: int = 0

    def end(self, outcomes: list[Outcome] | RewardFault) -> None:
        """Ends the call; a single failure counts for all requests."""
        if not self.outcomes.done():
            self.outcomes.set_result(outcomes if isinstance(outcomes, list) else [outcomes] * len(self.requests))


class PooledReward:
    """A reward and its workers: a queue that follows the policy above."""

    def __init__(
        self,
        entry: RewardEntry,
        *,
        make_host: Callable[[], RewardHost],
        size: int,
        num_spare: int = 0,
        asks_all: bool = False,
    ) -> None:
        """Starts nothing yet; `size` is N and `num_spare` k in the policy.

        `make_host` makes a worker that is not open. `asks_all` also calls the reward for the completions that
        follow a failure in a group.
        """
        self.entry, self.decision = entry, ""
        self._make_host, self._size, self._num_spare, self._asks_all = make_host, size, num_spare, asks_all
        self._takes_groups = self._is_closed = False
        self._queue: asyncio.PriorityQueue[tuple[bool, int, Call]] = asyncio.PriorityQueue()
        self._numbers = itertools.count()
        self._hosts: set[RewardHost] = set()
        self._calls: set[Call] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._num_spare_open = 0
        self._waiting_since = 0.0
        self._answer_s: deque[float] = deque(maxlen=64)

    async def start(self) -> None:
        """Opens all workers; if one fails, all are closed.

        Raises:
            ConfigError: the reward cannot be loaded.
            RewardError: a worker did not start.
        """
        hosts = [self._make_host() for _ in range(self._size)]
        self._hosts.update(hosts)
        results = await asyncio.gather(*map(self._opened, hosts), return_exceptions=True)
        failure = next((result for result in results if isinstance(result, BaseException)), None)
        if failure is not None:
            self.close()
            raise failure
        hosts = [result for result in results if isinstance(result, RewardHost)]
        self.decision, self._takes_groups = hosts[0].decision, hosts[0].takes_groups
        for host in hosts:
            self._spawn(self._keep(host))
        if self._num_spare:
            self._spawn(self._open_spares())

    async def _opened(self, host: RewardHost) -> RewardHost:
        # a worker that is lost while it starts must not end a service that comes back after the loss of a node
        clock = asyncio.get_running_loop().time
        ends_at = clock() + START_S
        for attempts_left in reversed(range(NUM_STARTS)):
            try:
                await host.open()
            except HostLostError as error:
                self._hosts.discard(host)
                host.end()
                if not attempts_left or clock() >= ends_at:
                    raise
                logger.warning("a worker of reward %s did not start: %s", self.entry.name, error)
                host = self._make_host()
                self._hosts.add(host)
            else:
                return host
        raise AssertionError("the last attempt raises")

    def close(self) -> None:
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        for host in self._hosts:
            host.end()
        for call in self._calls:
            call.end(CLOSED)

    async def __call__(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        group, parts = Group(), [requests] if self._takes_groups else [[request] for request in requests]
        create_future = asyncio.get_running_loop().create_future
        calls = [Call(part, group, self.entry.deadline_s, create_future()) for part in parts]
        self._calls.update(calls)
        for call in calls:
            self._put(call)
        try:
            answers = await asyncio.gather(*(call.outcomes for call in calls))
        finally:
            self._calls.difference_update(calls)
        return [outcome for outcomes in answers for outcome in outcomes]

    def _put(self, call: Call) -> None:
        if self._is_closed:
            call.end(CLOSED)
        if self._queue.empty():
            self._waiting_since = asyncio.get_running_loop().time()
        self._queue.put_nowait((not call.is_alone, next(self._numbers), call))

    async def _take(self) -> Call:
        while True:
            _, _, call = await self._queue.get()
            if call.group.has_failed and not self._asks_all:
                call.end(NOT_CALLED)
            if call.outcomes.done():
                continue
            if call.group.num_running and self._num_spare_open:
                call.group.held.append(call)
                continue
            self._waiting_since = asyncio.get_running_loop().time()
            call.group.num_running += 1
            return call

    def _leave(self, call: Call) -> None:
        call.group.num_running -= 1
        while call.group.held:
            self._put(call.group.held.pop(0))

    def _settle(self, call: Call, outcomes: list[Outcome], *, seconds: float, is_lost: bool = False) -> None:
        if is_lost and not call.is_alone:
            call.is_alone, call.left_s = True, self.entry.deadline_s
            self._put(call)
            return
        wait_s = FIRST_WAIT_S * 2**call.num_retries
        call.left_s -= seconds + wait_s
        fault = next((o for o in outcomes if isinstance(o, RewardFault)), None)
        is_final = is_lost or call.num_retries == self.entry.max_retries or call.left_s <= 0
        if fault is None or is_final or fault.kind in FINAL:
            call.group.has_failed |= fault is not None
            call.end(outcomes)
        else:
            call.num_retries += 1
            asyncio.get_running_loop().call_later(wait_s, self._put, call)

    async def _keep(self, host: RewardHost, *, is_spare: bool = False) -> None:
        """Keeps one worker open; a spare worker while calls wait."""
        while True:
            try:
                if host not in self._hosts:
                    self._hosts.add(host)
                    await host.open()
                await self._serve(host, is_spare=is_spare)
            except Exception as error:  # noqa: BLE001 - a call fails with it, or it is logged
                if len(self._hosts) == 1:
                    call = await self._take()
                    self._leave(call)
                    self._settle(call, [_fault(error)] * len(call.requests), seconds=0.0)
                else:
                    logger.warning("a worker of reward %s did not start: %s", self.entry.name, error)
                    await asyncio.sleep(REOPEN_S)
            finally:
                self._hosts.discard(host)
                host.end()
            if is_spare:
                self._num_spare_open -= 1
                return
            host = self._make_host()

    async def _serve(self, host: RewardHost, *, is_spare: bool) -> None:
        """Passes calls to a worker until it is lost, or until a spare worker is no longer needed."""
        room, present = asyncio.Semaphore(host.concurrency), set[Call]()

        async def answer(call: Call, places: int) -> None:
            try:
                await self._run(call, host, present)
            finally:
                present.discard(call)
                for _ in range(places):
                    room.release()

        async with asyncio.TaskGroup() as running:
            while True:
                await room.acquire()
                if host.is_lost or (is_spare and self._queue.empty()):
                    return
                call = await self._take()
                places = host.concurrency if call.is_alone else 1
                for _ in range(places - 1):
                    await room.acquire()
                if host.is_lost:
                    self._leave(call)
                    self._put(call)
                    return
                present.add(call)
                running.create_task(answer(call, places))

    async def _run(self, call: Call, host: RewardHost, present: set[Call]) -> None:
        loop = asyncio.get_running_loop()
        started, answer = loop.time(), asyncio.ensure_future(host.ask(call.requests))
        try:
            await asyncio.wait((answer, call.outcomes), timeout=call.left_s, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                self._settle(call, answer.result(), seconds=loop.time() - started)
                self._answer_s.append(loop.time() - started)
                return
            answer.cancel()
            detail, is_shared = f"{self.entry.deadline_s:g} s passed", len(present) > 1
            is_stopped = await host.is_stopped()
            is_hung = is_stopped or not await host.can_go_on()
            if is_hung:
                stacks = "" if is_stopped else await host.stacks()
                detail += f"; it was at\n{stacks}" if stacks else ""
                host.end()
            fault, is_lost = RewardFault(kind="deadline", detail=detail), is_hung and (is_shared or is_stopped)
        except Exception as error:  # noqa: BLE001 - any error of a worker is a failure of its call
            fault, is_lost = _fault(error), isinstance(error, HostLostError) and host.is_lost
        finally:
            answer.cancel()
            self._leave(call)
        if not call.outcomes.done():
            self._settle(call, [fault] * len(call.requests), seconds=loop.time() - started, is_lost=is_lost)

    async def _open_spares(self) -> None:
        """Opens spare workers while all others are busy, at most one per group."""
        while True:
            await asyncio.sleep(self._busy_s / 4)
            if self._queue.empty() or asyncio.get_running_loop().time() - self._waiting_since < self._busy_s:
                continue
            num_groups = len({call.group for call in self._calls})
            for _ in range(min(self._num_spare - self._num_spare_open, num_groups)):
                self._num_spare_open += 1
                self._spawn(self._keep(self._make_host(), is_spare=True))

    @property
    def _busy_s(self) -> float:
        return max(MIN_BUSY_S, BUSY_FRACTION * self.entry.deadline_s, 2 * max(self._answer_s, default=0.0))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _fault(error: Exception) -> RewardFault:
    if isinstance(error, HostLostError):
        return RewardFault(kind="died", detail=str(error))
    return RewardFault(kind="error", detail=str(error)) if isinstance(error, ConfigError) else fault_of(error)
