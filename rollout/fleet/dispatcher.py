"""Requests on their way to engines: a queue, a lease for each request in an engine, an answer.

A request is answered once. If its engine is lost, its lease ends, late answers are void, and the request returns to
the front of the queue unchanged. A request that was in flight at two losses is given to an engine that has nothing
else; after a third loss it fails with `kills-engines`.

Consumes requests of the pools, which bound their number. Waits for engines; an answer, a lost engine, a change of
the serving engines or the end of the fleet unblocks a request.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from common.errors import EngineError, RequestRefusedError
from common.protocols import WeightReceiver
from common.types import Failure
from rollout.fleet.router import Router

T = TypeVar("T")
ALONE_AFTER = 2
"""Losses after which a request gets an engine for itself."""
MAX_LOSSES = 3
"""Losses after which a request fails."""
KILLS_ENGINES = "kills-engines"
MAX_SILENT_LOSSES = 12
"""Losses in a row, without any answer in between, for which requests may be to blame."""
MAX_CLIPS = 4096
"""Clips whose last engine is known; the caches of engines hold fewer."""


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
    engine: str | None = None
    """The incarnation that has it; None in the queue."""
    answer: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def is_alone(self) -> bool:
        return self.num_losses >= ALONE_AFTER

    @property
    def is_particular(self) -> bool:
        """Not every engine with room may serve it."""
        return self.is_alone or self.slot is not None


@dataclass(kw_only=True, slots=True)
class Serving:
    """An engine that serves, and its leases."""

    engine: WeightReceiver
    slot: str
    leases: dict[Request, asyncio.Task[Any]] = field(default_factory=dict[Request, "asyncio.Task[Any]"])

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
        self._lost, self._resubmitted = lost, resubmitted
        self._router = Router(limit=max_sequences)
        # an answer must not cost more with a longer queue or more engines: nothing searches either of them
        self._queue: OrderedDict[Request, None] = OrderedDict()
        self._particular: OrderedDict[Request, None] = OrderedDict()
        """The queue of the requests that need a certain engine, or one for themselves: they are few."""
        self._engines: dict[str, Serving] = {}
        """Serving engines, and others until their leases have ended."""
        self._slots: dict[str, str] = {}
        """Serving engines by slot."""
        self._clips: OrderedDict[str, str] = OrderedDict()
        """The last engine of a clip."""
        self._num_silent_losses = 0
        """Engines lost since the last answer of any."""
        self._error: BaseException | None = None

    @property
    def num_queued(self) -> int:
        return len(self._queue) + len(self._particular)

    def num_in_flight(self, name: str) -> int:
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
        self._queue_of(request)[request] = None
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
        self._slots = {slot: name for name, (slot, _) in engines.items()}
        for name, serving in list(self._engines.items()):
            if not self._serves(name, serving):
                self._router.close(name)
                self._remove_idle(name, serving)
            elif not serving.is_alone:
                self._router.open(name)
        self._dispatch()

    def fence(self, name: str, *, reason: str) -> bool:
        """Makes an incarnation's leases void and queues their requests again.

        Returns:
            True if one of the requests was in flight at an earlier loss, so that it may be the cause. False after
                many losses without an answer in between: then it is not the requests.
        """
        serving = self._engines.pop(name, None)
        if serving is None:
            return False
        self._router.remove(name)
        if self._serves(name, serving):
            del self._slots[serving.slot]
        self._num_silent_losses += 1
        is_fault_of_request = (
            any(request.num_losses for request in serving.leases) and self._num_silent_losses <= MAX_SILENT_LOSSES
        )
        for request, task in reversed(serving.leases.items()):
            if task is not asyncio.current_task():
                task.cancel()
            request.engine = None
            if request.answer.done():
                # its caller is gone
                continue
            request.num_losses += 1
            if request.num_losses >= request.max_losses:
                self._settle(request, _killer(request, reason=reason))
            else:
                queue = self._queue_of(request)
                queue[request] = None
                queue.move_to_end(request, last=False)
                self._resubmitted(request, name)
        self._dispatch()
        return is_fault_of_request

    def fail(self, error: BaseException) -> None:
        """Ends every request with an error, now and later: no engine will serve again."""
        self._error = error
        leased = [request for serving in self._engines.values() for request in serving.leases]
        for request in [*self._queue, *self._particular, *leased]:
            self._settle(request, error)
        self._queue.clear()
        self._particular.clear()

    def _forget(self, request: Request) -> None:
        self._queue.pop(request, None)
        self._particular.pop(request, None)
        if request.engine is not None:
            # the end of its call frees the places of the request
            self._engines[request.engine].leases[request].cancel()

    def _queue_of(self, request: Request) -> OrderedDict[Request, None]:
        return self._particular if request.is_particular else self._queue

    def _serves(self, name: str, serving: Serving) -> bool:
        return self._slots.get(serving.slot) == name

    def _remove_idle(self, name: str, serving: Serving) -> None:
        if not serving.leases:
            self._router.remove(name)
            del self._engines[name]

    def _dispatch(self) -> None:
        """Leases queued requests in order, as long as engines have room."""
        reserved: list[str] = []
        for request in list(self._particular):
            name = self._engine_for(request, reserved)
            if name is not None:
                self._lease(request, name)
        while self._queue:
            request = next(iter(self._queue))
            previous = None if request.clip is None else self._clips.get(request.clip)
            name = self._router.choose(num_sequences=request.num_sequences, previous=previous)
            if name is None:
                # a smaller request must not overtake this one for ever
                break
            self._lease(request, name)
        for name in reserved:
            self._router.open(name)

    def _engine_for(self, request: Request, reserved: list[str]) -> str | None:
        """The engine of a particular request; one that has no room yet gets nothing more, and is reserved."""
        name = self._router.least() if request.slot is None else self._slots.get(request.slot)
        if name is None or not self._router.is_open(name):
            return None
        if self._router.num_sequences(name) == 0:
            return name
        if not request.is_alone and self._router.has_room(name, request.num_sequences):
            return name
        self._router.close(name)
        reserved.append(name)
        return None

    def _lease(self, request: Request, name: str) -> None:
        del self._queue_of(request)[request]
        serving, request.engine = self._engines[name], name
        if request.clip is not None:
            self._clips[request.clip] = name
            self._clips.move_to_end(request.clip)
            if len(self._clips) > MAX_CLIPS:
                self._clips.popitem(last=False)
        self._router.add(name, request.num_sequences)
        if request.is_alone:
            self._router.close(name)
        task = serving.leases[request] = asyncio.create_task(self._answer(request, name, serving))
        # not at the end of the task's own code: a task that is cancelled before it starts runs none of it
        task.add_done_callback(partial(self._ended, request, name, serving))

    async def _answer(self, request: Request, name: str, serving: Serving) -> Any:
        try:
            return await request.call(serving.engine)
        except RequestRefusedError as error:
            return Failure(stage="rollout", reason="refused", detail=str(error))
        except EngineError as error:
            if self._engines.get(name) is serving:
                self._lost(name, str(error))
                assert self._engines.get(name) is not serving, "a lost engine must be fenced"

    def _ended(self, request: Request, name: str, serving: Serving, task: "asyncio.Task[Any]") -> None:
        error = None if task.cancelled() else task.exception()
        # of an engine that was lost meanwhile, nothing counts
        if self._engines.get(name) is not serving:
            return
        del serving.leases[request]
        request.engine = None
        if not task.cancelled():
            # any other error is a bug, and must reach the caller
            answer = error or task.result()
            if not isinstance(answer, BaseException):
                self._num_silent_losses = 0
            if request.clip is not None and isinstance(answer, Failure):
                # an engine that fails fast would get the clip's next draws as well
                self._clips.pop(request.clip, None)
            self._settle(request, answer)
        self._router.add(name, -request.num_sequences)
        if not self._serves(name, serving):
            self._remove_idle(name, serving)
        elif request.is_alone:
            self._router.open(name)
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
