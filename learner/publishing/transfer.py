"""One transfer of weights: each phase on all engines, then the receipts.

A phase has ended on every engine, with or without an error, before the next step: a failure leaves nothing running.
An engine that fails or passes the deadline of a phase leaves the transfer, and the others go on.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from common.errors import LearnerError, PublishError, ReceiveError
from common.protocols import WeightReceiver, WeightSenders
from common.types import TensorReceipt
from learner.publishing.members import Members
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
        self,
        *,
        senders: WeightSenders,
        plan: PublishPlan,
        segments: Sequence[str],
        deadline_s: float,
        engine_deadline_s: float,
    ) -> None:
        """`deadline_s` is that of a phase of the ranks."""
        self._senders, self._plan, self._segments = senders, plan, segments
        self._deadline_s, self.engine_deadline_s = deadline_s, engine_deadline_s
        self.seconds: dict[str, float] = defaultdict(float)
        """Durations of the last transfer's phases."""

    async def send(self, members: Members, identity: Identity) -> list[TensorReceipt]:
        """Gather, pause, start, every bucket, finish, receipt, resume.

        The first buckets are gathered while the engines generate, and a later one while another loads.
        Returns the manifest; it ends early if no member remains.

        Raises:
            LearnerError: the ranks failed or passed their deadline. No call of an engine runs any more.
        """
        self.seconds.clear()
        if not members.engines:
            return []
        early: list[TensorReceipt] = []
        for bucket in range(len(self._plan.buckets))[: len(self._segments)]:
            early += await self._gather(bucket)
        await self._timed_each(members, "pause", lambda e: e.pause())
        await self._timed_each(members, "start", lambda e: e.start_update())
        manifest = early + await self._send_buckets(members)
        with self.timed("finish"):
            receipts = await self._finish(members, identity)
        for engine in list(members.engines):
            try:
                check_receipt(self._plan.names, manifest, receipts[engine.name], engine=engine.name)
            except PublishError as error:
                members.reject(engine, error)
        with self.timed("resume"):
            await self.resume(members)
        return manifest

    async def perturb(
        self, members: Members, identity: Identity, *, scale: float, nonce: int
    ) -> dict[str, list[TensorReceipt]]:
        """An update of the members' own checkpoint with noise, without the ranks; returns the receipts.

        The members stay paused. May run beside any other call.
        """
        await self.each(members, "pause", lambda e: e.pause())
        await self.each(members, "start", lambda e: e.start_update(is_alone=True))
        for names in self._plan.buckets:
            # the engine computes noise on its CPU, which takes as long as the ranks' own
            await self.each(
                members,
                "update",
                lambda e, n=names: e.receive_perturbed(n, scale=scale, nonce=nonce),
                deadline_s=self._deadline_s,
            )
        return await self._finish(members, identity)

    async def resume(self, members: Members) -> None:
        await self.each(members, "resume", lambda e: e.resume())

    async def _finish(self, members: Members, identity: Identity) -> dict[str, list[TensorReceipt]]:
        version, weights_id, tower_id = identity.version, identity.weights_id, identity.tower_id
        return await self.each(
            members,
            "finish",
            lambda e: e.finish_update(version=version, weights_id=weights_id, tower_id=tower_id),
        )

    async def _send_buckets(self, members: Members) -> list[TensorReceipt]:
        """Loads all buckets, of which each segment holds one; returns the manifest of those gathered here."""
        manifest: list[TensorReceipt] = []
        num_buckets, num_segments = len(self._plan.buckets), len(self._segments)
        gathering: asyncio.Future[list[TensorReceipt]] | None = None
        try:
            for bucket in range(num_buckets):
                if gathering is not None:
                    manifest += await gathering
                    gathering = None
                if not members.engines:
                    break
                # the segment of the last bucket is free now
                if bucket and bucket - 1 + num_segments < num_buckets:
                    gathering = asyncio.ensure_future(self._gather(bucket - 1 + num_segments))
                path = self._segments[bucket % num_segments]
                await self._timed_each(members, "update", lambda e, p=path, b=bucket: e.receive(p, b))
        finally:
            if gathering is not None:
                # an error that is already raised comes first
                await asyncio.wait([gathering])
                _ = gathering.cancelled() or gathering.exception()
        return manifest

    async def _gather(self, bucket: int) -> list[TensorReceipt]:
        with self.timed("gather"):
            async with self.rank_phase("gather"):
                return await self._senders.send_bucket(bucket)

    async def _timed_each(
        self, members: Members, phase: str, call: Callable[[WeightReceiver], Awaitable[T]]
    ) -> dict[str, T]:
        with self.timed(phase):
            return await self.each(members, phase, call)

    async def each(
        self,
        members: Members,
        phase: str,
        call: Callable[[WeightReceiver], Awaitable[T]],
        *,
        deadline_s: float | None = None,
    ) -> dict[str, T]:
        """Calls all members at the same time; returns the answers of those that remain, by name.

        A `PublishError` or `ReceiveError` of a call rejects its engine; another error or the deadline loses it.
        """
        answers: dict[str, T] = {}
        limit_s = deadline_s or self.engine_deadline_s

        async def call_in_phase(engine: WeightReceiver) -> None:
            deadline = asyncio.timeout(limit_s)
            try:
                async with deadline:
                    answers[engine.name] = await call(engine)
            except PublishError as error:
                members.reject(engine, error)
            except Exception as error:  # a call into another process
                logger.warning("publish: %s failed on %s", phase, engine.name, exc_info=True)
                failure = _failure(phase, engine.name, error, deadline, limit_s=limit_s)
                (members.reject if isinstance(error, ReceiveError) else members.lose)(engine, failure)

        await all_ended(map(call_in_phase, list(members.engines)))
        # in an order that does not depend on the engines' speed
        return {engine.name: answers[engine.name] for engine in members.engines}

    @contextmanager
    def timed(self, phase: str) -> Generator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start

    @asynccontextmanager
    async def rank_phase(self, phase: str) -> AsyncGenerator[None]:
        """A block with a deadline, whose errors name the phase.

        Ranks that hang raise a `LearnerError`, so that they are rebuilt like dead ones.
        """
        deadline = asyncio.timeout(self._deadline_s)
        try:
            async with deadline:
                yield
        except (PublishError, LearnerError):
            raise
        except Exception as error:  # a call into another process
            failure = _failure(phase, RANKS, error, deadline, limit_s=self._deadline_s)
            if deadline.expired():
                raise LearnerError(str(failure)) from error
            raise failure from error


def _failure(
    phase: str, where: str, error: Exception, deadline: asyncio.Timeout, *, limit_s: float
) -> PublishError:
    is_late = deadline.expired()
    failed = f"must end within {limit_s:g} s, and did not" if is_late else f"failed: {error}"
    return PublishError(
        f"publish: {phase} on {where} {failed}",
        proof=phase,
        engine=where,
        subject=phase if is_late else str(error),
    )


async def all_ended(calls: Iterable[Awaitable[T]]) -> list[T]:
    """All answers once every call has ended, or the first failure in the order of the calls."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    failures = [a for a in answers if isinstance(a, BaseException)]
    for failure in failures[1:]:
        logger.error("another call of the same phase failed: %s", failure)
    if failures:
        raise failures[0]
    return [a for a in answers if not isinstance(a, BaseException)]
