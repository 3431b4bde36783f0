"""The reward service as a Ray actor, and its client in the driver.

User code runs in other processes and actors, so the service rarely dies. When it does, Ray restarts it, and the
client scores its groups again, one at a time: a group that kills the service again becomes a `Failure`.
"""

import asyncio
import logging
import pickle
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayError

from common.config.reward import RewardConfig
from common.errors import RewardError, last_line
from common.runtime import provenance
from common.types import Completion, Failure, Record, Score
from reward.hosts.actor_host import hosted
from reward.observations import Observations
from reward.outcome import NOTHING_PRECOMPUTED, Precomputed
from reward.request import requests_of
from reward.service import GroupReport, RewardService

logger = logging.getLogger(__name__)
ANSWER_S = 5.0
"""Seconds in which a process answers, unless code holds its interpreter."""
START_S = 600.0
"""Seconds in which a restarted process must be up, the rewards' models included."""
GRACE_S = 30.0
"""Seconds after `reward.deadline_s` in which a live service has reported the deadline itself."""


def pack(values: Any) -> bytes:
    # Ray would pack each argument separately, at a multiple of the cost
    return pickle.dumps(values, protocol=pickle.HIGHEST_PROTOCOL)


class RewardActor:
    """Scores groups with the configured rewards, any number at a time."""

    def __init__(self, *, config: RewardConfig) -> None:
        # the service before this one had found all actors: one that was lost with it may come back
        was_there = cast(Any, ray.get_runtime_context()).was_current_actor_reconstructed
        self._service = RewardService(config, host=partial(hosted, was_there=was_there), has_engines=True)

    async def sources(self) -> dict[str, str]:
        await self._service.start()
        return provenance.sources()

    async def decisions(self) -> tuple[str, ...]:
        await self._service.start()
        return self._service.decisions

    async def ready(self) -> None:
        await self._service.start()

    async def score(self, packed: bytes) -> bytes:
        """Takes a packed record, its completions and precomputed outcomes; returns a packed `GroupReport`."""
        record, completions, precomputed = pickle.loads(packed)
        requests = requests_of(record, unpack_completions(completions))
        return pack(await self._service.score_requests(requests, precomputed=precomputed))


class RewardClient:
    """The driver's handle of the reward service: a `ScoreFn`, with outcomes of engines in `precomputed`.

    Raises:
        RewardError: the service cannot be restarted, or a reward stops the run.
    """

    def __init__(self, handle: Any, *, deadline_s: float, max_concurrency: int = 64, max_retries: int = 2) -> None:
        self.handle = handle
        self._deadline_s = deadline_s
        self._width = max_concurrency
        self._max_retries = max_retries
        self._door = asyncio.Lock()
        self._slots = asyncio.Semaphore(max_concurrency)
        self._observed = Observations()
        self._life = 0
        """Number of processes that have ended."""
        self._is_up = False
        self._silent: set[int] = set()
        """Lives that stopped to answer."""
        self._explained: set[int] = set()
        """Lives that were ended because of one known group: no other group caused their end."""

    def take_metrics(self) -> dict[str, float]:
        """Latency and error rate of each reward since the last call."""
        return self._observed.take()

    async def decisions(self) -> tuple[str, ...]:
        """One line per user reward, which describes its calls."""
        return await self.handle.decisions.remote()

    async def sources(self) -> dict[str, dict[str, str]]:
        """Digests of the service's sources; raises `ConfigError` for a reward that cannot be imported there."""
        try:
            return {"the reward service": await self.handle.sources.remote()}
        except RayActorError as error:
            raise RewardError(f"the reward service did not start: {last_line(error)}") from error

    async def __call__(
        self, record: Record, completions: Sequence[Completion], *, precomputed: Precomputed = NOTHING_PRECOMPUTED
    ) -> list[Score] | Failure:
        packed = pack((record, pack_completions(completions), dict(precomputed)))
        # the deadline is that of scoring alone: waiting for a turn does not count
        num_deaths = num_silences = 0
        while num_deaths <= self._max_retries:
            async with self._room(alone=num_deaths > 0):
                await self._wait_until_up()
                life = self._life
                answer = await self._ask(packed, count=len(completions), was_silent=num_silences > 0)
            if answer is not None:
                return answer
            num_silences += life in self._silent
            num_deaths += life not in self._explained
        return self._lost("service-died", f"the service died {num_deaths} times while it scored this group")

    def _lost(self, reason: str, detail: str) -> Failure:
        self._observed.add_lost()
        return Failure(stage="reward", reason=reason, detail=detail)

    async def _ask(self, packed: bytes, *, count: int, was_silent: bool) -> list[Score] | Failure | None:
        """None if the process ended meanwhile; `was_silent` if one that had this group once stopped to answer."""
        life = self._life
        try:
            async with asyncio.timeout(self._deadline_s):
                # the client retries: Ray would also retry calls that hang
                call = self.handle.score.options(max_task_retries=0)
                report: GroupReport = pickle.loads(await call.remote(packed))
        except TimeoutError:
            # A process is silent if it was stopped from outside, or if code holds its interpreter, for any of its
            # groups. The group that is there, alone, when the next one falls silent is the cause.
            is_silent = not await self._answers()
            is_culprit = was_silent or not is_silent
            if is_silent:
                self._silent.add(life)
            self._end(life, is_explained=is_culprit)
            if not is_culprit:
                return None
            return self._lost("deadline", f"{self._deadline_s:g} s passed")
        except RayActorError as error:
            if self._ended(life):
                logger.warning("the reward service died: %s", last_line(error))
            return None
        except RayError as error:
            return self._lost("service-error", last_line(error))
        self._observed.add(report, count)
        if report.stops_run:
            assert isinstance(report.scores, Failure)
            reason = f"{report.scores.reason}: {report.scores.detail}"
            raise RewardError(f"a reward with on_error=stop_run failed: {reason}")
        return report.scores

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self.handle.ready.options(max_task_retries=0).remote()
        except (TimeoutError, RayError):
            return False
        return True

    def _end(self, life: int, *, is_explained: bool) -> None:
        # a thread ends only with its process; Ray starts another process
        if self._ended(life):
            if is_explained:
                self._explained.add(life)
            ray.kill(self.handle, no_restart=False)

    def _ended(self, life: int) -> bool:
        """Counts a life's end; False if it was counted before."""
        if life != self._life:
            return False
        self._life += 1
        self._is_up = False
        return True

    async def _wait_until_up(self) -> None:
        if self._is_up:
            return
        try:
            async with asyncio.timeout(START_S):
                await self.handle.ready.options(max_task_retries=-1).remote()
        except TimeoutError as error:
            raise RewardError(f"the reward service did not start within {START_S:g} s") from error
        except RayActorError as error:
            raise RewardError(f"the reward service died: {last_line(error)}") from error
        self._is_up = True

    @asynccontextmanager
    async def _room(self, *, alone: bool) -> AsyncGenerator[None]:
        """A turn, alone or together with other groups."""
        num_taken = 0
        try:
            # a group that waits to be alone holds the door against later groups
            async with self._door:
                for _ in range(self._width if alone else 1):
                    await self._slots.acquire()
                    num_taken += 1
            yield
        finally:
            for _ in range(num_taken):
                self._slots.release()


def pack_completions(completions: Sequence[Completion]) -> list[tuple[Any, ...]]:
    """The fields that rewards use, as tuples, which pickle in a third of the time."""
    return [(c.token_ids, c.text, c.finish_reason) for c in completions]


def unpack_completions(packed: Sequence[tuple[Any, ...]]) -> list[Completion]:
    return [
        Completion(token_ids=ids, text=text, finish_reason=reason, rollout_logprobs=(), version_spans=())
        for ids, text, reason in packed
    ]
