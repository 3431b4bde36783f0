"""The reward service as a Ray actor, and its handle in the driver.

A user's reward may be slow, hang, or end its process. Groups are therefore scored in threads, beside each other;
one that is over its deadline ends the process, which Ray restarts, and the others are scored again. Who ended it
cannot always be told: all that were in it are then scored alone, and what ends it again fails as data.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from common import provenance
from common.config.reward import RewardConfig
from common.errors import RewardError, last_line
from common.types import Completion, Failure, Record, Score

logger = logging.getLogger(__name__)
ANSWER_S = 5.0
"""Seconds within which a process answers in which nothing holds the interpreter."""
START_S = 600.0
"""Seconds that a restarted process may take until it is there, models that its rewards load included."""


class RewardActor:
    """Scores groups with the configured rubric, `reward.max_concurrency` of them at a time."""

    def __init__(self, *, config: RewardConfig) -> None:
        from reward.rubric import build_rubric

        self._rubric = build_rubric(config)
        self._threads = ThreadPoolExecutor(config.max_concurrency, thread_name_prefix="reward")

    def sources(self) -> dict[str, str]:
        """What this process runs."""
        return provenance.sources()

    async def ready(self) -> None:
        """Answers, so that one knows that it can."""

    async def score(self, record: Record, completions: Sequence[Completion]) -> list[Score] | Failure:
        """One score per completion, or one failure for all."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._rubric.score, record, completions)


class RewardClient:
    """The driver's handle of the reward service: a `ScoreFn`.

    What cannot be scored is a failure as data; that the service is gone for good is raised.
    """

    def __init__(self, handle: Any, *, deadline_s: float, max_concurrency: int = 4, max_retries: int = 2) -> None:
        self.handle = handle
        self._deadline_s = deadline_s
        self._width = max_concurrency
        self._max_retries = max_retries
        self._door = asyncio.Lock()
        self._slots = asyncio.Semaphore(max_concurrency)
        self._life = 0
        """How many processes have ended."""
        self._is_up = False
        self._explained: set[int] = set()
        """Lives that were ended for one group's sake: nobody else is to blame."""

    async def sources(self) -> dict[str, dict[str, str]]:
        """What its process runs.

        Raises:
            ConfigError: a reward of the user's cannot be imported there.
        """
        try:
            return {"the reward service": await self.handle.sources.remote()}
        except RayActorError as error:
            raise RewardError(f"the reward service did not start: {last_line(error)}") from error

    async def __call__(self, record: Record, completions: Sequence[Completion]) -> list[Score] | Failure:
        """Scores a group, within the deadline from when its turn has come.

        Raises:
            RewardError: the service cannot be restarted.
        """
        num_deaths = 0
        while num_deaths <= self._max_retries:
            async with self._room(alone=num_deaths > 0):
                await self._come_up()
                life = self._life
                is_alone = num_deaths > 0 or self._width == 1
                answer = await self._ask(record, completions, is_alone=is_alone)
            if answer is not None:
                return answer
            num_deaths += life not in self._explained
        return Failure(stage="reward", reason="service-died", detail=f"the service died {num_deaths} times over it")

    async def _ask(
        self, record: Record, completions: Sequence[Completion], *, is_alone: bool
    ) -> list[Score] | Failure | None:
        """None where the process ended meanwhile."""
        life = self._life
        try:
            async with asyncio.timeout(self._deadline_s):
                # whether to ask again is decided here: Ray would ask again what hangs, too
                return await self.handle.score.options(max_task_retries=0).remote(record, list(completions))
        except TimeoutError:
            # code that holds the interpreter stops the groups beside it, too: then any may be the one
            is_culprit = is_alone or await self._answers()
            self._end(life, is_explained=is_culprit)
            if not is_culprit:
                return None
            return Failure(stage="reward", reason="deadline", detail=f"{self._deadline_s:g} s passed")
        except RayActorError as error:
            if self._ended(life):
                logger.warning("the reward service died: %s", last_line(error))
            return None
        except RayError as error:
            return Failure(stage="reward", reason="service-error", detail=last_line(error))

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self.handle.ready.options(max_task_retries=0).remote()
        except (TimeoutError, RayError):
            return False
        return True

    def _end(self, life: int, *, is_explained: bool) -> None:
        """Ends the process, as nothing else ends a thread; Ray starts another."""
        if self._ended(life):
            if is_explained:
                self._explained.add(life)
            ray.kill(self.handle, no_restart=False)

    def _ended(self, life: int) -> bool:
        """Takes note of an end; whether it is news."""
        if life != self._life:
            return False
        self._life += 1
        self._is_up = False
        return True

    async def _come_up(self) -> None:
        if self._is_up:
            return
        try:
            async with asyncio.timeout(START_S):
                await self.handle.ready.options(max_task_retries=-1).remote()
        except TimeoutError as error:
            raise RewardError(f"the reward service did not come up within {START_S:g} s") from error
        except RayActorError as error:
            raise RewardError(f"the reward service died: {last_line(error)}") from error
        self._is_up = True

    @asynccontextmanager
    async def _room(self, *, alone: bool) -> AsyncGenerator[None]:
        """A turn, beside others or alone."""
        num_taken = 0
        try:
            # who waits to be alone lets nobody in before
            async with self._door:
                for _ in range(self._width if alone else 1):
                    await self._slots.acquire()
                    num_taken += 1
            yield
        finally:
            for _ in range(num_taken):
                self._slots.release()
