"""A fleet's host and engines without processes: they start, answer, hang, die and end in the loop's own time."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from common.errors import EngineError
from common.protocols import WeightReceiver
from common.types import Failure, Generation
from rollout.engine_stats import EngineStats
from rollout.fleet.dispatcher import Dispatcher
from rollout.fleet.fleet import Fleet
from tests.support.builders import make_generation

START_S = 20.0
ANSWER_S = 2.0


def dispatcher_of(engines: Sequence[Any], *, max_sequences: int = 1000) -> Dispatcher:
    """A dispatcher whose engines all serve; one that is lost is not replaced."""
    lost: list[str] = []

    def fence(name: str, reason: str) -> None:
        lost.append(name)
        dispatcher.fence(name, reason=reason)

    dispatcher = Dispatcher(max_sequences=max_sequences, lost=fence)
    dispatcher.serve({f"{engine.name}.1": (engine.name, engine) for engine in engines})
    return dispatcher


class StubEngine:
    """A `ManagedEngine` that answers after some seconds, unless it is broken."""

    def __init__(self, name: str, *, incarnation: str, host: "StubHost") -> None:
        self.name, self.incarnation, self.node = name, incarnation, "node-0"
        self.host: Any = host
        self.has_ended = asyncio.Event()
        self.hangs = False
        self.num_steps = 0

    async def generate(self, media: Any, *, seed: int, group_size: int, **request: Any) -> Generation | Failure:
        """A group whose version is the seed, so that answers are told apart."""
        self.host.requests.append((self.incarnation, str(media), seed))
        await self._work(self.host.answer_s(str(media)))
        if str(media) in self.host.killers:
            self.break_down()
            raise EngineError(f"{self.incarnation} died")
        return make_generation(group_size, version=seed, engine=self.name)

    async def generate_together(
        self, media: Sequence[Any], *, seeds: Sequence[int], group_size: int, **request: Any
    ) -> list[Generation | Failure]:
        """The groups of a batch."""
        self.host.batches.append((self.incarnation, tuple(map(str, media))))
        await self._work(ANSWER_S)
        if self.host.killers & set(map(str, media)):
            self.break_down()
            raise EngineError(f"{self.incarnation} died")
        return [make_generation(group_size, version=seed, engine=self.name) for seed in seeds]

    async def score(self, media: Any, **request: Any) -> float | Failure:
        """A number."""
        await self._work(ANSWER_S)
        return -1.0

    async def heartbeat(self) -> None:
        """All workers live."""
        await self._work(0.01)

    async def stats(self) -> EngineStats:
        """A step for each look at an engine that works."""
        if not self.hangs:
            self.num_steps += 1
        self._require_alive()
        return EngineStats(
            num_steps=self.num_steps,
            num_running=1,
            num_waiting=0,
            kv_use=0.1,
            num_preemptions=0,
            longest_step_s=self.host.longest_step_s,
        )

    async def processes(self) -> dict[str, int]:
        """The actor's."""
        return {"actor": 1}

    def break_down(self) -> None:
        """It dies: calls fail at once, also those that are outstanding."""
        self.has_ended.set()

    async def _work(self, seconds: float) -> None:
        end = asyncio.ensure_future(self.has_ended.wait())
        try:
            await asyncio.wait([end], timeout=seconds)
            while self.hangs and not end.done():
                await asyncio.wait([end], timeout=1.0)
        finally:
            end.cancel()
        self._require_alive()

    def _require_alive(self) -> None:
        if self.has_ended.is_set():
            raise EngineError(f"{self.incarnation} died")


class StubHost:
    """An `EngineHost` of stub engines."""

    engine = StubEngine

    def __init__(self) -> None:
        self.engines: dict[str, StubEngine] = {}
        self.ended: list[str] = []
        self.requests: list[tuple[str, str, int]] = []
        """(incarnation, media, seed) of every group that was asked for."""
        self.batches: list[tuple[str, tuple[str, ...]]] = []
        self.killers: set[str] = set()
        """Media that kill the engine to which they are given."""
        self.start_errors: dict[str, Exception] = {}
        """By incarnation."""
        self.seconds: dict[str, float] = {}
        """Of an answer, by media."""
        self.longest_step_s = 0.1
        self.random = random.Random(0)

    def answer_s(self, media: str) -> float:
        """Seconds of an answer."""
        return self.seconds.get(media, ANSWER_S)

    async def ask(self, incarnation: str, *, slot: str) -> Any:
        """A place after a second."""
        await asyncio.sleep(1)
        engine = self.engines[incarnation] = self.engine(slot, incarnation=incarnation, host=self)
        return engine

    async def warm_up(self, engine: Any) -> None:
        """Takes a while."""
        await engine._work(START_S)
        if engine.incarnation in self.start_errors:
            raise self.start_errors[engine.incarnation]

    async def end(self, incarnation: str, *, is_lost: bool) -> None:
        """Ends it after a second."""
        await asyncio.sleep(1)
        if incarnation in self.engines:
            self.engines[incarnation].break_down()
        self.ended.append(incarnation)


async def deliver(fleet: Fleet, version: int | None = None) -> list[WeightReceiver]:
    """A transfer of the next version that nothing disturbs."""
    for engine in fleet.unverified():
        fleet.rehearsed(engine)
    standing = fleet.version
    members = fleet.begin_delivery(standing + 1 if version is None else version)
    for engine in members:
        fleet.delivered(engine)
    fleet.end_delivery()
    return list(members)
