"""The reward service as a Ray actor, and its handle in the driver."""

import asyncio
from collections.abc import Sequence
from typing import Any

from ray.exceptions import RayActorError, RayError

from common import provenance
from common.config.reward import RewardConfig
from common.errors import RewardError, last_line
from common.types import Completion, Failure, Record, Score


class RewardActor:
    """Scores groups with the configured rubric."""

    def __init__(self, *, config: RewardConfig) -> None:
        from reward.rubric import build_rubric

        self._rubric = build_rubric(config)

    def sources(self) -> dict[str, str]:
        """What this process runs."""
        return provenance.sources()

    async def score(self, record: Record, completions: Sequence[Completion]) -> list[Score] | Failure:
        """One score per completion, or one failure for all."""
        return self._rubric.score(record, completions)


class RewardClient:
    """The driver's handle of the reward service: a `ScoreFn`. A failure is data, the service's death is raised."""

    def __init__(self, handle: Any, *, deadline_s: float) -> None:
        self.handle = handle
        self._deadline_s = deadline_s

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
        """Scores a group within the deadline."""
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self.handle.score.remote(record, list(completions))
        except TimeoutError:
            return Failure(stage="reward", reason="deadline", detail=f"{self._deadline_s} s passed")
        except RayActorError as error:
            raise RewardError(f"the reward service died: {last_line(error)}") from error
        except RayError as error:
            return Failure(stage="reward", reason="service-error", detail=last_line(error))
