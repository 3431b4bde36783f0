"""The media stage: Ray tasks decode and process clips, and the driver owns their results.

The driver receives a length and a handle; the tensors go from the task directly to engines and ranks.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.exceptions import RayError

from common.errors import OmniError, last_line
from common.prompts.preparation import MediaSettings, prepare, reference_prompts
from common.types import Condition, Failure, MediaRef, ProcessedPrompt, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prepared:
    media: MediaRef
    num_tokens: int
    num_bytes: int


MemoryKey = tuple[str | None, ...]
TURN_S = 3600.0
"""Seconds that a task may wait for a CPU."""


def prepare_in_turn(*arguments: Any) -> Iterator[Any]:
    """`prepare` as a Ray generator, whose first item shows that the task runs: it may have waited for a CPU."""
    yield None
    # no `yield from`: Ray sends values into a generator, which a tuple does not take
    for value in prepare(*arguments):  # noqa: UP028
        yield value


def memory_key(record: Record, *, condition: Condition = "av", sound: Record | None = None) -> MemoryKey:
    """Cache key of a prepared clip: a clip may occur without its sound or with another's."""
    clip, heard = record.clip, sound and sound.clip.audio_path
    files = (clip.video_path, clip.audio_path)
    return record.dataset, record.split, record.prompt_id, record.question, *files, condition, heard


class MediaStage:
    """A `PrepareInConditionFn` over Ray tasks, with a cache of recent clips."""

    def __init__(self, settings: MediaSettings, *, env: dict[str, str], max_retries: int = 2) -> None:
        """Stores its arguments.

        Args:
            max_retries: number of times that Ray makes a clip again by itself, before its handle is lost.
        """
        self._settings = ray.put(settings)
        self._deadline_s = settings.data.deadline_s
        self._max_bytes = int(settings.data.cache_gib * 2**30)
        self._kept: OrderedDict[MemoryKey, _Prepared] = OrderedDict()
        self._running: dict[MemoryKey, asyncio.Task[_Prepared | Failure]] = {}
        options: Any = {"num_cpus": settings.data.num_cpus, "runtime_env": {"env_vars": env}}
        options["max_retries"] = max_retries
        self._task: Any = ray.remote(prepare_in_turn).options(num_returns="streaming", **options)
        self._references: Any = ray.remote(cast(Any, reference_prompts)).options(**options)

    async def __call__(
        self,
        record: Record,
        *,
        condition: Condition = "av",
        sound: Record | None = None,
        lost: MediaRef | None = None,
    ) -> tuple[MediaRef, int] | Failure:
        """Returns a handle and the length in tokens; the handle keeps the clip in memory."""
        key = memory_key(record, condition=condition, sound=sound)
        # of several callers that report a loss, only the first finds the lost handle here
        if lost is not None and key in self._kept and self._kept[key].media == lost:
            del self._kept[key]
        if key in self._kept:
            self._kept.move_to_end(key)
            prepared = self._kept[key]
        else:
            # shielded: a cancelled caller must not cancel a task on which others wait
            prepared = await asyncio.shield(self._running.get(key) or self._begin(key, record, condition, sound))
        return prepared if isinstance(prepared, Failure) else (prepared.media, prepared.num_tokens)

    def prefetch(self, records: Sequence[Record]) -> None:
        """Starts the next tasks; later calls report their failures."""
        for record in records:
            key = memory_key(record)
            if self._max_bytes and key not in self._kept and key not in self._running:
                self._begin(key, record)

    def _begin(
        self, key: MemoryKey, record: Record, condition: Condition = "av", sound: Record | None = None
    ) -> asyncio.Task[_Prepared | Failure]:
        task = asyncio.create_task(self._prepare(key, record, condition, sound))
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))
        return task

    async def _prepare(
        self, key: MemoryKey, record: Record, condition: Condition, sound: Record | None
    ) -> _Prepared | Failure:
        values = self._task.remote(record, self._settings, condition, sound)
        limit_s = TURN_S
        try:
            async with asyncio.timeout(limit_s):
                await (await anext(values))
            limit_s = self._deadline_s
            async with asyncio.timeout(limit_s):
                answer: tuple[int, int] | Failure = await (await anext(values))
                # `anext` waits for a value by fetching it: the clip would be copied to the driver
                await values.completed()
            prompt = next(values)
        except TimeoutError:
            # force: native code of a decoder does not react to an interrupt
            ray.cancel(values, force=True)
            return Failure(stage="media", reason="deadline", detail=f"{limit_s:g} s passed")
        except RayError as error:
            return Failure(stage="media", reason="task-error", detail=last_line(error))
        if isinstance(answer, Failure):
            return answer
        num_tokens, num_bytes = answer
        prepared = _Prepared(media=prompt, num_tokens=num_tokens, num_bytes=num_bytes)
        self._kept[key] = prepared
        while sum(p.num_bytes for p in self._kept.values()) > self._max_bytes:
            self._kept.popitem(last=False)
        return prepared

    async def references(self, *, question: str, max_prompt_tokens: int) -> list[ProcessedPrompt]:
        try:
            return await self._references.remote(
                self._settings, question=question, max_prompt_tokens=max_prompt_tokens
            )
        except RayError as error:
            raise OmniError(f"the prompts of the probe could not be processed: {last_line(error)}") from error
