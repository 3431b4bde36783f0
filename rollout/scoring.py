"""Log-probabilities of answers, computed by the engines once per question and policy version, without Ray.

Like generation, scoring waits while the engines are paused for a publish.
"""

import asyncio
import functools
from collections.abc import Callable, Sequence

from common.errors import EngineError, MediaError
from common.media.conditions import audio_donor
from common.prompts.lost_clips import with_clip
from common.protocols import PrepareInConditionFn
from common.types import Condition, Failure, MediaRef, Record
from rollout.pool import RolloutPool


class LogprobScorer:
    """A `ScoreLogprobsFn` over a pool, which caches answers until the policy version changes.

    Equal questions that are in flight share a request. Failures are not cached.
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
        """Stores its arguments.

        Args:
            encode: returns the token ids of a text alone.
            version: returns the policy version of all engines.
            donors: records whose sounds `audio_swapped` may use.
            is_alone: an engine scores one question at a time, so that the same question gives the same bits.
        """
        self._pool, self._prepare, self._encode, self._version = pool, prepare, encode, version
        self._donors, self._is_alone = donors, is_alone
        self._answers: dict[tuple[str, ...], asyncio.Task[float]] = {}
        self._answers_version = version()

    async def __call__(self, record: Record, *, condition: Condition, prefix: str, text: str) -> float:
        if self._version() != self._answers_version:
            self._answers, self._answers_version = {}, self._version()
        answers, clip = self._answers, record.clip
        source = (record.dataset, record.split, record.prompt_id, f"{clip.audio_path}", f"{clip.video_path}")
        question = (*source, record.question, condition, prefix, text)
        task = answers.get(question)
        if task is None:
            task = answers[question] = asyncio.create_task(self._score(record, condition, prefix, text))
            task.add_done_callback(functools.partial(_forget_failure, answers, question))
        # several callers may wait for one task: the cancellation of a caller must not cancel it
        return await asyncio.shield(task)

    async def _score(self, record: Record, condition: Condition, prefix: str, text: str) -> float:
        sound = audio_donor(record, self._donors) if condition == "audio_swapped" else None
        prefix_ids, text_ids = self._encode(prefix), self._encode(text)

        async def use(media: MediaRef, _: int) -> float | Failure:
            return await self._pool.score(media, prefix_ids=prefix_ids, text_ids=text_ids, is_alone=self._is_alone)

        answer = await with_clip(functools.partial(self._prepare, record, condition=condition, sound=sound), use)
        if not isinstance(answer, Failure):
            return answer
        if answer.stage == "media":
            raise MediaError(answer.detail, reason=answer.reason)
        raise EngineError(f"{record.prompt_id}: scoring failed: {answer.reason}: {answer.detail}")


def _forget_failure(
    answers: dict[tuple[str, ...], "asyncio.Task[float]"], question: tuple[str, ...], task: "asyncio.Task[float]"
) -> None:
    # reading the exception keeps asyncio from logging it when no caller waits any more
    if task.cancelled() or task.exception() is not None:
        answers.pop(question, None)
