"""Things that take longer than they must: a reward with a moment to be killed in, engines that get requests late.

python -m tests.e2e.slow --config my.yaml      0-200 ms pass before every submission to an engine
"""

import asyncio
import random
import sys
import time
from typing import Any

import deploy.wiring
import learner.main
from rollout.actor import EngineActor

LONGEST_DELAY_S = 0.2


def patient(completion: str, label: str) -> float:
    """Longer answers are worth more, after a moment."""
    time.sleep(0.05)
    return len(completion) / 1000


class DelayedEngineActor(EngineActor):
    """Waits before a batch is submitted, and before each request of it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        submit = self._engine._submit

        async def delayed(*args: Any) -> Any:
            await asyncio.sleep(random.uniform(0, LONGEST_DELAY_S))
            return await submit(*args)

        self._engine._submit = delayed  # pyright: ignore[reportAttributeAccessIssue]

    async def generate_together(self, media: list[Any], *, seeds: list[int], **request: Any) -> Any:
        """After a while."""
        await asyncio.sleep(random.uniform(0, LONGEST_DELAY_S))
        return await super().generate_together(media, seeds=seeds, **request)


if __name__ == "__main__":
    deploy.wiring.EngineActor = DelayedEngineActor  # pyright: ignore[reportAttributeAccessIssue]
    sys.exit(learner.main.main(sys.argv[1:]))
