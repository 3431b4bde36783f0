"""The owner of a run's engines: it starts them, watches them, condemns those that are lost, and starts others.

`Fleet` alone sends events to the `Lifecycle`. Its tasks run in the driver's event loop: one starts incarnations
when their slots' back-off is over; one for each incarnation starts it and watches its health; one for each
condemned incarnation ends its processes. They wait for the host and the engines, each with a deadline.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

from common.errors import ClusterError, EngineError, EngineStartError, FleetError, OmniError
from common.protocols import WeightReceiver
from rollout.fleet.dispatcher import Dispatcher, Request
from rollout.fleet.health import MIN_SILENCE_S, EngineHealth
from rollout.fleet.host import EngineHost, ManagedEngine
from rollout.fleet.lifecycle import ENDED, Delivery, Incarnation, Lifecycle, State

logger = logging.getLogger(__name__)
HEARTBEAT_S = 1.0
"""Seconds between two looks at an engine's health."""
END_ATTEMPTS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineEvent:
    """A transition of one incarnation."""

    engine: str
    state: str
    version: int | None
    reason: str
    node: str | None
    pids: dict[str, int]
    """Known from the end of the warm-up on."""


class Fleet:
    """An `EngineFleet` that starts and replaces its engines inside its `async with` block."""

    def __init__(
        self,
        host: EngineHost,
        *,
        slots: Sequence[str],
        min_engines: int,
        version: int,
        max_sequences: int,
        start_deadline_s: float,
        min_silence_s: float = MIN_SILENCE_S,
        is_static: bool = False,
        notify: Callable[[EngineEvent], None] = lambda event: None,
        resubmitted: Callable[[Request, str], None] = lambda request, engine: None,
    ) -> None:
        """Stores its arguments; the block starts the engines.

        Args:
            slots: names of the slots, one engine each.
            min_engines: engines that must be able to start; with fewer, the fleet fails.
            version: policy version of the checkpoint that engines load.
            max_sequences: sequences in flight above which an engine gets no further request.
            start_deadline_s: seconds in which an engine must be warm.
            min_silence_s: silence below which an engine never counts as hung.
            is_static: nothing is published: an engine serves the version that it has loaded.
        """
        self._host, self._notify, self._is_static = host, notify, is_static
        self._start_deadline_s, self._min_silence_s = start_deadline_s, min_silence_s
        self._lifecycle = Lifecycle(slots, min_engines=min_engines, version=version, on_change=self._on_change)
        self.dispatcher = Dispatcher(
            max_sequences=max_sequences, lost=self._lost, resubmitted=partial(self._report, resubmitted)
        )
        self.slots = tuple(slots)
        self._engines: dict[str, ManagedEngine] = {}
        self._pids: dict[str, dict[str, int]] = {}
        self._delivery: Delivery | None = None
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lives: dict[str, asyncio.Task[None]] = {}
        self.num_losses = 0
        """Engines that were lost."""
        self._has_been_warm = False
        self._is_closed = False
        self._error: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._spawn(self._fill_slots())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        self.dispatcher.fail(FleetError("the engines of the fleet have been ended"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        remaining = [i for i in self._lifecycle.in_state(*State) if i.state != State.GONE]
        await asyncio.gather(*(self._ended(i.name, is_lost=i.state == State.CONDEMNED) for i in remaining))

    @property
    def version(self) -> int:
        return self._lifecycle.version

    @property
    def num_possible(self) -> int:
        return self._lifecycle.num_possible

    async def until_warm(self) -> None:
        """Waits until all engines are warm, or enough of them where others were lost; raises as `until_joining`."""
        await self._until(lambda: self._lifecycle.has_started)

    async def until_serving(self) -> None:
        """Waits until an engine serves; raises as `until_joining`."""
        await self._until(lambda: bool(self._lifecycle.serving))

    async def until_joining(self) -> None:
        await self._until(lambda: bool(self._lifecycle.in_state(State.REHEARSING, State.WAITING)))

    def unverified(self) -> list[WeightReceiver]:
        return self._in_state(State.REHEARSING)

    def candidates(self) -> list[WeightReceiver]:
        return self._in_state(State.REHEARSING, State.WAITING, State.READY)

    def rehearsed(self, engine: WeightReceiver) -> None:
        incarnation = self._incarnation_of(engine)
        if incarnation is not None and incarnation.state == State.REHEARSING:
            self._lifecycle.rehearsed(incarnation.name)

    def begin_delivery(self, version: int, *, only_joining: bool = False) -> list[WeightReceiver]:
        self._delivery = self._lifecycle.begin_delivery(version, only_joining=only_joining)
        return [self._engines[name] for name in self._delivery.members]

    def delivered(self, engine: WeightReceiver) -> None:
        incarnation = self._incarnation_of(engine)
        if incarnation is not None:
            self._lifecycle.delivered(cast(Delivery, self._delivery), incarnation.name)

    def end_delivery(self) -> None:
        delivery, self._delivery = cast(Delivery, self._delivery), None
        self._lifecycle.end_delivery(delivery)
        self._update_serving()

    def abort_delivery(self) -> None:
        delivery, self._delivery = cast(Delivery, self._delivery), None
        self._lifecycle.abort_delivery(delivery)
        self._update_serving()

    def lost(self, engine: WeightReceiver, *, reason: str) -> None:
        incarnation = self._incarnation_of(engine)
        if incarnation is not None:
            self._lost(incarnation.name, reason)

    def _in_state(self, *states: State) -> list[WeightReceiver]:
        return [self._engines[i.name] for i in self._lifecycle.in_state(*states)]

    def _incarnation_of(self, engine: WeightReceiver) -> Incarnation | None:
        """The engine's incarnation; None if it is condemned, so that late events are void."""
        name = next((name for name, known in self._engines.items() if known is engine), None)
        return None if name is None or self._lifecycle[name].state in ENDED else self._lifecycle[name]

    def _on_change(self, incarnation: Incarnation, before: State) -> None:
        name, engine = incarnation.name, self._engines.get(incarnation.name)
        self._report(
            self._notify,
            EngineEvent(
                engine=name,
                state=incarnation.state.value,
                version=incarnation.version,
                reason=incarnation.reason,
                node=engine.node if engine else None,
                pids=self._pids.get(name, {}),
            ),
        )
        self._wake()

    def _report(self, listener: Callable[..., None], *details: Any) -> None:
        try:
            listener(*details)
        except Exception as error:  # noqa: BLE001 - a full disk, for example, must not interrupt a transition
            self._fail(error)

    def _wake(self) -> None:
        # each waiter holds the event that it read before its condition
        self._changed.set()
        self._changed = asyncio.Event()

    def _update_serving(self) -> None:
        serving = {i.name: (i.slot, cast(WeightReceiver, self._engines[i.name])) for i in self._lifecycle.serving}
        self.dispatcher.serve(serving)

    def _lost(self, name: str, reason: str) -> None:
        """Condemns an incarnation, and ends it in a task of its own."""
        if self._is_closed or self._lifecycle[name].state in ENDED:
            return
        is_fault_of_request = self.dispatcher.fence(name, reason=reason)
        now_s = asyncio.get_running_loop().time()
        self._lifecycle.lost(name, reason=reason, now_s=now_s, is_fault_of_draw=is_fault_of_request)
        self.num_losses += 1
        logger.warning("engine %s is lost: %s", name, reason)
        self._update_serving()
        self._spawn(self._end(name))

    async def _end(self, name: str) -> None:
        life = self._lives.pop(name, None)
        if life is not None:
            life.cancel()
        failure = await self._ended(name, is_lost=True)
        if failure:
            # a second engine beside what is left could find no memory
            self._lifecycle.retire(name, reason=f"{name} could not be ended: {failure}")
            self._wake()
            return
        self._engines.pop(name, None)
        self._lifecycle.reaped(name)

    async def _ended(self, name: str, *, is_lost: bool) -> str:
        """Ends an engine in several attempts; returns the last failure, or nothing."""
        failure = ""
        for _ in range(END_ATTEMPTS):
            try:
                await self._host.end(name, is_lost=is_lost)
                return ""
            except OmniError as error:
                failure = str(error)
                logger.error("engine %s could not be ended: %s", name, failure)
                await asyncio.sleep(HEARTBEAT_S)
        return failure

    async def _fill_slots(self) -> None:
        loop = asyncio.get_running_loop()
        while self._error is None:
            changed = self._changed
            try:
                self._lifecycle.require_possible()
            except FleetError as error:
                self._fail(error)
                return
            for incarnation in self._lifecycle.ask(loop.time()):
                self._lives[incarnation.name] = self._spawn(self._live(incarnation))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._lifecycle.next_request_s()):
                    await changed.wait()

    async def _live(self, incarnation: Incarnation) -> None:
        name = incarnation.name
        try:
            async with asyncio.timeout(self._start_deadline_s):
                await self._start(incarnation)
            await self._watch(name, self._engines[name])
        except TimeoutError:
            self._lost(name, f"it must be warm within {self._start_deadline_s:g} s, and was not")
        except EngineStartError as error:
            if not (error.is_killed or self._has_been_warm):
                # another start would meet the same configuration
                self._fail(error)
            self._lost(name, str(error))
        except ClusterError as error:
            self._fail(error)
        except OmniError as error:
            self._lost(name, str(error))

    async def _start(self, incarnation: Incarnation) -> None:
        name = incarnation.name
        engine = self._engines[name] = await self._host.ask(name, slot=incarnation.slot)
        if self._lifecycle.placed(name):
            await self._host.warm_up(engine)
            self._pids[name] = await engine.processes()
            self._has_been_warm = True
            self._lifecycle.warmed_up(name)
        if self._is_static and self._lifecycle.rehearsed(name):
            # the checkpoint that it has loaded is the delivery
            delivery = self._lifecycle.begin_delivery(self._lifecycle.version, only_joining=True)
            self._lifecycle.delivered(delivery, name)
            self._lifecycle.end_delivery(delivery)
            self._update_serving()

    async def _watch(self, name: str, engine: ManagedEngine) -> None:
        """Returns never; raises `EngineError` when the engine dies or hangs."""
        loop, health = asyncio.get_running_loop(), EngineHealth(min_silence_s=self._min_silence_s)
        health.warmed_up(loop.time(), longest_step_s=(await engine.stats()).longest_step_s)
        beat = asyncio.ensure_future(engine.heartbeat())
        look = asyncio.ensure_future(engine.stats())
        try:
            while True:
                health.unwatched(await _lateness_of_sleep(HEARTBEAT_S))
                if beat.done():
                    beat.result()
                    health.answered(loop.time())
                    beat = asyncio.ensure_future(engine.heartbeat())
                if look.done():
                    stats = look.result()
                    health.stepped(loop.time(), num_steps=stats.num_steps, longest_step_s=stats.longest_step_s)
                    look = asyncio.ensure_future(engine.stats())
                if health.hangs(loop.time()):
                    raise EngineError(
                        f"engine {name} hangs: its workers must answer or take a step within "
                        f"{health.max_silence_s:.0f} s, and did neither"
                    )
        finally:
            beat.cancel()
            look.cancel()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while self._error is None and not holds():
            await self._changed.wait()
        if self._error is not None:
            raise self._error

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self.dispatcher.fail(self._error)
        self._wake()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # a bug of the fleet itself must not leave callers waiting
            self._fail(cast(BaseException, task.exception()))


async def _lateness_of_sleep(seconds: float) -> float:
    # the driver stood still for the time beyond twice the duration
    loop = asyncio.get_running_loop()
    end_s = loop.time() + 2 * seconds
    await asyncio.sleep(seconds)
    return max(0.0, loop.time() - end_s)
