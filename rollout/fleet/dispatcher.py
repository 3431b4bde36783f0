"""Requests on their way to engines: a queue, a lease for each request in an engine, an answer.

A request is answered once. If its engine is lost, its lease ends, late answers are void, and the request returns to
the front of the queue unchanged. A request that was in flight at two losses is given to an engine that has nothing
else; after a third loss it fails with `kills-engines`.

Consumes requests of the pools, which bound their number. Waits for engines; an answer, a lost engine, a change of
the serving engines or the end of the fleet unblocks a request.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from common.errors import EngineError, RequestRefusedError
from common.protocols import WeightReceiver
from common.types import Failure
from rollout.fleet.router import Load, choose

T = TypeVar("T")
ALONE_AFTER = 2
"""Losses after which a request gets an engine for itself."""
MAX_LOSSES = 3
"""Losses after which a request fails."""
KILLS_ENGINES = "kills-engines"


@dataclass(kw_only=True, eq=False, slots=True)
class Request:
    """One call of an engine. `eq=False`: requests are told apart by identity."""

    call: Callable[[WeightReceiver], Awaitable[Any]]
    num_sequences: int
    label: str
    """The draw or clip, for events and failures."""
    clip: str | None = None
    """Requests of one clip prefer one engine."""
    slot: str | None = None
    """The slot whose engine alone may serve the request; None for any."""
    num_losses: int = 0
    max_losses: int = MAX_LOSSES
    answer: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def is_alone(self) -> bool:
        return self.num_losses >= ALONE_AFTER


@dataclass(kw_only=True, slots=True)
class Serving:
    """An engine that serves, and its leases."""

    engine: WeightReceiver
    slot: str
    leases: dict[Request, asyncio.Task[None]] = field(default_factory=dict[Request, "asyncio.Task[None]"])

    @property
    def num_sequences(self) -> int:
        return sum(request.num_sequences for request in self.leases)

    @property
    def is_alone(self) -> bool:
        return any(request.is_alone for request in self.leases)


class Dispatcher:
    """Gives requests to the serving engines of one fleet."""

    def __init__(
        self,
        *,
        max_sequences: int,
        lost: Callable[[str, str], None],
        resubmitted: Callable[[Request, str], None] = lambda request, engine: None,
    ) -> None:
        """Stores its arguments.

        Args:
            max_sequences: sequences in flight above which an engine gets no further request.
            lost: called with the incarnation and the reason when a call shows that an engine is lost; must call
                `fence`.
            resubmitted: called with a request that returns to the queue and the incarnation that lost it.
        """
        self._max_sequences, self._lost, self._resubmitted = max_sequences, lost, resubmitted
        self._queue: deque[Request] = deque()
        self._engines: dict[str, Serving] = {}
        """Serving engines, and others until their leases have ended."""
        self._serving: set[str] = set()
        self._clips: dict[str, str] = {}
        """The last engine of a clip, for clips in flight or in the queue."""
        self._previous = ""
        """The last engine that got a request."""
        self._error: BaseException | None = None

    @property
    def num_queued(self) -> int:
        return len(self._queue)

    def num_in_flight(self, name: str) -> int:
        """Requests that an incarnation has."""
        return len(self._engines[name].leases) if name in self._engines else 0

    async def run(
        self,
        call: Callable[[WeightReceiver], Awaitable[T]],
        *,
        num_sequences: int,
        label: str,
        clip: str | None = None,
        slot: str | None = None,
        num_losses: int = 0,
        max_losses: int = MAX_LOSSES,
    ) -> T | Failure:
        """The answer of one engine to a call, which is repeated while engines are lost.

        Returns:
            The answer; or a failure `kills-engines` after `max_losses` losses, counted from `num_losses`, or
                `refused` if a living engine refuses the request.

        Raises:
            FleetError: too few engines can still start.
        """
        if self._error is not None:
            raise self._error
        request = Request(
            call=call,
            num_sequences=num_sequences,
            label=label,
            clip=clip,
            slot=slot,
            num_losses=num_losses,
            max_losses=max_losses,
        )
        self._queue.append(request)
        self._dispatch()
        try:
            return cast("T | Failure", await request.answer)
        finally:
            # also after a cancellation: nobody waits for the answer any more
            self._forget(request)

    def serve(self, engines: Mapping[str, tuple[str, WeightReceiver]]) -> None:
        """Sets the engines that get requests: slot and engine by incarnation. Others keep their leases."""
        for name, (slot, engine) in engines.items():
            self._engines.setdefault(name, Serving(engine=engine, slot=slot))
        self._serving = set(engines)
        for name in [name for name, serving in self._engines.items() if not serving.leases]:
            if name not in self._serving:
                del self._engines[name]
        self._dispatch()

    def fence(self, name: str, *, reason: str) -> bool:
        """Makes an incarnation's leases void and queues their requests again.

        Returns:
            True if one of the requests was in flight at an earlier loss, so that it may be the cause.
        """
        self._serving.discard(name)
        serving = self._engines.pop(name, None)
        if serving is None:
            return False
        is_fault_of_request = any(request.num_losses for request in serving.leases)
        for request, task in reversed(serving.leases.items()):
            if task is not asyncio.current_task():
                task.cancel()
            request.num_losses += 1
            if request.num_losses >= request.max_losses:
                self._settle(request, _killer(request, reason=reason))
            else:
                self._queue.appendleft(request)
                self._resubmitted(request, name)
        self._dispatch()
        return is_fault_of_request

    def fail(self, error: BaseException) -> None:
        """Ends every request with an error, now and later: no engine will serve again."""
        self._error = error
        for request in [*self._queue, *(r for serving in self._engines.values() for r in serving.leases)]:
            if not request.answer.done():
                request.answer.set_exception(error)

    def _forget(self, request: Request) -> None:
        if request in self._queue:
            self._queue.remove(request)
        for serving in self._engines.values():
            task = serving.leases.get(request)
            if task is not None and not task.done():
                # its end frees the places of the request
                task.cancel()
        if request.clip is not None and not any(r.clip == request.clip for r in self._requests()):
            self._clips.pop(request.clip, None)

    def _requests(self) -> list[Request]:
        return [*self._queue, *(request for serving in self._engines.values() for request in serving.leases)]

    def _dispatch(self) -> None:
        """Leases queued requests in order, as long as engines have room."""
        reserved: set[str] = set()
        is_full = False
        for request in list(self._queue):
            if is_full and request.slot is None:
                continue
            name = self._engine_for(request, reserved)
            if name is not None:
                self._queue.remove(request)
                self._lease(request, name)
            elif request.slot is None:
                # a request must not be overtaken for ever; one that waits for an engine of its own blocks only that
                is_full = not request.is_alone

    def _engine_for(self, request: Request, reserved: set[str]) -> str | None:
        names = [
            name
            for name, serving in self._engines.items()
            if name in self._serving
            and name not in reserved
            and not serving.is_alone
            and request.slot in (None, serving.slot)
        ]
        loads = [
            Load(name=name, num_sequences=self._engines[name].num_sequences, limit=self._max_sequences)
            for name in names
        ]
        if not loads:
            return None
        if request.is_alone:
            idle = min(loads, key=lambda load: load.num_sequences)
            if idle.num_sequences:
                # it gets nothing more, and will be idle
                reserved.add(idle.name)
                return None
            return idle.name
        previous = self._clips.get(request.clip) if request.clip is not None else None
        turn = names.index(self._previous) + 1 if self._previous in names else 0
        load = choose(loads, num_sequences=request.num_sequences, previous=previous, turn=turn)
        return None if load is None else load.name

    def _lease(self, request: Request, name: str) -> None:
        serving, self._previous = self._engines[name], name
        if request.clip is not None:
            self._clips[request.clip] = name
        serving.leases[request] = asyncio.create_task(self._serve(request, name, serving))

    async def _serve(self, request: Request, name: str, serving: Serving) -> None:
        answer: Any = None
        try:
            answer = await request.call(serving.engine)
        except RequestRefusedError as error:
            answer = Failure(stage="rollout", reason="refused", detail=str(error))
        except EngineError as error:
            if self._engines.get(name) is serving:
                self._lost(name, str(error))
                assert self._engines.get(name) is not serving, "a lost engine must be fenced"
        except Exception as error:  # noqa: BLE001 - a bug, which must reach the caller
            answer = error
        finally:
            serving.leases.pop(request, None)
            # of an engine that was lost meanwhile, nothing counts
            if self._engines.get(name) is serving:
                self._settle(request, answer)
                if not serving.leases and name not in self._serving:
                    del self._engines[name]
                self._dispatch()

    def _settle(self, request: Request, answer: Any) -> None:
        if request.answer.done():
            return
        if isinstance(answer, BaseException):
            request.answer.set_exception(answer)
        else:
            request.answer.set_result(answer)


def _killer(request: Request, *, reason: str) -> Failure:
    detail = f"{request.label} was in flight when {request.num_losses} engines were lost; at last: {reason}"
    return Failure(stage="rollout", reason=KILLS_ENGINES, detail=detail)
