"""Scores of answers by the engines: each question once per policy version. No Ray here.

The engines answer while they serve: scoring waits where they are paused for a publish, as generation does.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from common.errors import EngineError, MediaError
from common.media.conditions import audio_donor
from common.protocols import PrepareInConditionFn
from common.types import Condition, Failure, Record
from rollout.pool import RolloutPool


class _Question(NamedTuple):
    record: tuple[str, ...]
    condition: Condition
    prefix: str
    text: str


class LogprobScorer:
    """A `ScoreLogprobsFn` over a pool, with a cache for the current policy version.

    Failures are not cached. Concurrent calls with the same question share one request.
    """

    def __init__(
        self,
        pool: RolloutPool,
        *,
        prepare: PrepareInConditionFn,
        encode: Callable[[str], Sequence[int]],
        version: Callable[[], int],
        donors: Sequence[Record],
        is_alone: bool = False,
    ) -> None:
        """Scores with the pool's engines.

        Args:
            encode: returns the token ids of a text alone.
            version: the policy version that all engines hold.
            donors: records whose sounds may be swapped in.
            is_alone: an engine scores one question at a time, so that the same question gives the same bits.
        """
        self._pool, self._prepare, self._encode, self._version = pool, prepare, encode, version
        self._donors, self._is_alone = donors, is_alone
        self._asked: dict[_Question, asyncio.Task[float]] = {}
        self._asked_version = version()

    async def __call__(self, record: Record, *, condition: Condition, prefix: str, text: str) -> float:
        if self._version() != self._asked_version:
            self._asked, self._asked_version = {}, self._version()
        tasks, clip = self._asked, record.clip
        whose = (record.dataset, record.split, record.prompt_id, record.question, f"{clip.audio_path}")
        question = _Question((*whose, f"{clip.video_path}"), condition, prefix, text)
        task = tasks.get(question)
        if task is None:
            task = asyncio.create_task(self._ask(record, condition, prefix, text))
            tasks[question] = task
            task.add_done_callback(lambda done: _forget_failure(tasks, question, done))
        # others may wait for the same answer: who is cancelled does not cancel it
        return await asyncio.shield(task)

    async def _ask(self, record: Record, condition: Condition, prefix: str, text: str) -> float:
        sound = audio_donor(record, self._donors) if condition == "audio_swapped" else None
        prepared = await self._prepare(record, condition=condition, sound=sound)
        if isinstance(prepared, Failure):
            raise MediaError(prepared.detail, reason=prepared.reason)
        answer = await self._pool.score(
            prepared[0],
            prefix_ids=self._encode(prefix),
            text_ids=self._encode(text),
            is_alone=self._is_alone,
        )
        if isinstance(answer, Failure):
            raise EngineError(f"{record.prompt_id}: scoring failed: {answer.reason}: {answer.detail}")
        return answer


def _forget_failure(
    tasks: dict[_Question, "asyncio.Task[float]"], question: _Question, done: "asyncio.Task[float]"
) -> None:
    # asking for the exception takes note of it, where nobody waits any more
    if done.cancelled() or done.exception() is not None:
        tasks.pop(question, None)
