"""One transfer of weights: each phase on all engines, then the receipts.

A phase has ended on every engine, with or without an error, before the next step: a failure leaves nothing running.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from common.errors import LearnerError, PublishError
from common.protocols import WeightReceiver, WeightSenders
from common.types import TensorReceipt
from learner.publishing.plan import PublishPlan
from learner.publishing.verification import check_receipt

logger = logging.getLogger(__name__)
T = TypeVar("T")
RANKS = "ranks"
"""The place of a phase that all learner ranks run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """The names of an engine's weights."""

    version: int
    weights_id: str
    """Salt of the prefix blocks."""
    tower_id: str
    """Identity of the encoder-cache entries."""


class Transfer:
    """Moves the ranks' weights to engines, bucket by bucket."""

    def __init__(
        self, *, senders: WeightSenders, plan: PublishPlan, segments: Sequence[str], deadline_s: float
    ) -> None:
        self._senders, self._plan, self._segments, self._deadline_s = senders, plan, segments, deadline_s
        self.seconds: dict[str, float] = defaultdict(float)
        """Durations of the last transfer's phases."""

    async def send(self, engines: Sequence[WeightReceiver], identity: Identity) -> list[TensorReceipt]:
        """Pause, start, every bucket, finish, receipt, resume. The next bucket is gathered while one loads."""
        self.seconds.clear()
        await self._each(engines, "pause", lambda e: e.pause())
        await self._each(engines, "start", lambda e: e.start_update())
        manifest: list[TensorReceipt] = []
        gathering = asyncio.ensure_future(self._gather(0))
        try:
            for bucket in range(len(self._plan.buckets)):
                manifest += await gathering
                if bucket + 1 < len(self._plan.buckets):
                    gathering = asyncio.ensure_future(self._gather(bucket + 1))
                path = self._segments[bucket % len(self._segments)]
                await self._each(engines, "update", lambda e, p=path, b=bucket: e.receive(p, b))
        finally:
            # an error that is already raised comes first
            await asyncio.wait([gathering])
            _ = gathering.cancelled() or gathering.exception()
        version, weights_id, tower_id = identity.version, identity.weights_id, identity.tower_id
        receipts = await self._each(
            engines,
            "finish",
            lambda e: e.finish_update(version=version, weights_id=weights_id, tower_id=tower_id),
        )
        for engine, receipt in zip(engines, receipts, strict=True):
            check_receipt(self._plan.names, manifest, receipt, engine=engine.name)
        await self._each(engines, "resume", lambda e: e.resume())
        return manifest

    async def _gather(self, bucket: int) -> list[TensorReceipt]:
        with self.timed("gather"):
            async with self.phase("gather", RANKS):
                return await self._senders.send_bucket(bucket)

    async def _each(
        self, engines: Sequence[WeightReceiver], phase: str, call: Callable[[WeightReceiver], Awaitable[T]]
    ) -> list[T]:
        async def call_in_phase(engine: WeightReceiver) -> T:
            async with self.phase(phase, engine.name):
                return await call(engine)

        with self.timed(phase):
            return await all_ended(map(call_in_phase, engines))

    @contextmanager
    def timed(self, phase: str) -> Generator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start

    @asynccontextmanager
    async def phase(self, phase: str, where: str) -> AsyncGenerator[None]:
        """A block with a deadline, whose errors name the phase and the engine, or `ranks`.

        Ranks that hang raise a `LearnerError`, so that they are rebuilt like dead ones.
        """
        deadline = asyncio.timeout(self._deadline_s)
        try:
            async with deadline:
                yield
        except (PublishError, LearnerError):
            # dead ranks are rebuilt, unlike engines: their error passes unchanged
            raise
        except Exception as error:  # a call into another process
            failed = (
                f"must end within {self._deadline_s} s, and did not" if deadline.expired() else f"failed: {error}"
            )
            if where == RANKS and deadline.expired():
                raise LearnerError(f"publish: {phase} on {where} {failed}") from error
            raise PublishError(
                f"publish: {phase} on {where} {failed}",
                proof=phase,
                engine=where,
                subject=phase if deadline.expired() else str(error),
            ) from error


async def all_ended(calls: Iterable[Awaitable[T]]) -> list[T]:
    """All answers once every call has ended, or the first failure in the order of the calls."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    failures = [a for a in answers if isinstance(a, BaseException)]
    for failure in failures[1:]:
        logger.error("another call of the same phase failed: %s", failure)
    if failures:
        raise failures[0]
    return [a for a in answers if not isinstance(a, BaseException)]
