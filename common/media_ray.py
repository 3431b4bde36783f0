"""The media stage: each clip is decoded and processed in a Ray task whose results the driver owns.

The driver sees a length and a handle; pixels go from the task to the engine and to the ranks.
"""

import asyncio
import dataclasses
import functools
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.exceptions import RayError

from common.config.data import DataConfig
from common.errors import OmniError, last_line
from common.types import Failure, MediaRef, ProcessedPrompt, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaSettings:
    """What a task needs besides the record."""

    data: DataConfig
    model_path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prepared:
    """A clip in the object store."""

    media: MediaRef
    num_tokens: int
    num_bytes: int


def key_of(record: Record) -> str:
    """What is kept under one name: the files count, too, as a control asks of a clip with another's audio."""
    clip = record.clip
    return json.dumps(
        [record.dataset, record.split, record.prompt_id, record.question, clip.video_path, clip.audio_path]
    )


def prepare(record: Record, settings: MediaSettings) -> tuple[tuple[int, int] | Failure, ProcessedPrompt | None]:
    """Decodes and processes one clip.

    Returns:
        The prompt's length in tokens and its tensors' bytes, and the prompt; or a failure and nothing.
    """
    from common.datasets.phrasing import base_question, question_of
    from common.errors import MediaError
    from common.framing import framed
    from common.media import decode_clip
    from common.models.registry import family_of

    data = settings.data
    decode = functools.partial(
        decode_clip,
        max_fps=data.max_fps,
        max_frames=data.max_frames,
        max_audio_s=data.max_audio_s,
        max_video_s=data.max_video_s,
    )
    try:
        try:
            decoded = decode(record.clip)
        except MediaError as error:
            is_recoverable = error.reason == "no-audio-track" and record.clip.video_path is not None
            if data.missing_audio == "skip" or not is_recoverable:
                raise
            silent = dataclasses.replace(record.clip, audio_path=None)
            decoded = decode(silent)
            base = base_question(record.question, clip=record.clip, transcript=None)
            record = dataclasses.replace(record, clip=silent, question=question_of(silent, question=base))
        prompt = family_of(settings.model_path).process_prompt(
            framed(decoded, data.frame_shape, max_pixels=data.max_pixels),
            record.question,
            model_path=settings.model_path,
            min_pixels=data.min_pixels,
            max_pixels=data.max_pixels,
        )
    except MediaError as error:
        # the processor does not know the file
        names_file = any(path in str(error) for path in (record.clip.video_path, record.clip.audio_path) if path)
        detail = str(error) if names_file else f"{record.prompt_id}: {error}"
        return Failure(stage="media", reason=error.reason, detail=detail), None
    num_bytes = sum(tensor.nbytes for tensor in prompt.tensors.values())
    return (len(prompt.prompt_token_ids), num_bytes), prompt


def reference_prompts(settings: MediaSettings, *, question: str, max_prompt_tokens: int) -> list[ProcessedPrompt]:
    """The longest prompt of the run, then the probe's."""
    from common.models.registry import family_of
    from common.probe import longest_prompt, probe_prompts

    family = family_of(settings.model_path)
    longest = longest_prompt(
        family,
        model_path=settings.model_path,
        data=settings.data,
        question=question,
        max_prompt_tokens=max_prompt_tokens,
    )
    return [longest, *probe_prompts(family, model_path=settings.model_path, data=settings.data)]


class MediaStage:
    """A `PrepareFn` over Ray tasks, which remembers the clips that were asked last."""

    def __init__(self, settings: MediaSettings, *, env: dict[str, str]) -> None:
        self._settings = ray.put(settings)
        self._deadline_s = settings.data.deadline_s
        self._max_bytes = int(settings.data.cache_gib * 2**30)
        self._kept: OrderedDict[str, _Prepared] = OrderedDict()
        self._running: dict[str, asyncio.Task[_Prepared | Failure]] = {}
        options: Any = {"num_cpus": settings.data.num_cpus, "runtime_env": {"env_vars": env}, "max_retries": 2}
        self._task: Any = ray.remote(prepare).options(num_returns=2, **options)
        self._references: Any = ray.remote(cast(Any, reference_prompts)).options(**options)

    async def __call__(self, record: Record) -> tuple[MediaRef, int] | Failure:
        """A handle and a length; the handle keeps the memory alive, so drop it at the group's fate."""
        key = key_of(record)
        if key not in self._kept:
            task = self._running.get(key) or self._begin(record)
            # another draw may wait for the same clip: who is cancelled does not cancel it
            found = await asyncio.shield(task)
            if isinstance(found, Failure):
                return found
            return found.media, found.num_tokens
        self._kept.move_to_end(key)
        return self._kept[key].media, self._kept[key].num_tokens

    def prefetch(self, records: Sequence[Record]) -> None:
        """Begins what will be asked next; a failure is found again by who asks."""
        for record in records:
            if self._max_bytes and key_of(record) not in self._kept and key_of(record) not in self._running:
                self._begin(record)

    def _begin(self, record: Record) -> "asyncio.Task[_Prepared | Failure]":
        key = key_of(record)
        task = asyncio.create_task(self._prepare(record))
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))
        return task

    async def _prepare(self, record: Record) -> "_Prepared | Failure":
        header, prompt = self._task.remote(record, self._settings)
        try:
            async with asyncio.timeout(self._deadline_s):
                answer: tuple[int, int] | Failure = await header
        except TimeoutError:
            ray.cancel(header, force=True)
            return Failure(stage="media", reason="deadline", detail=f"{self._deadline_s:g} s passed")
        except RayError as error:
            return Failure(stage="media", reason="task-error", detail=last_line(error))
        if isinstance(answer, Failure):
            return answer
        num_tokens, num_bytes = answer
        prepared = _Prepared(media=prompt, num_tokens=num_tokens, num_bytes=num_bytes)
        self._keep(key_of(record), prepared)
        return prepared

    def _keep(self, key: str, prepared: "_Prepared") -> None:
        self._kept[key] = prepared
        while sum(p.num_bytes for p in self._kept.values()) > self._max_bytes:
            self._kept.popitem(last=False)

    async def references(self, *, question: str, max_prompt_tokens: int) -> list[ProcessedPrompt]:
        """The longest prompt of the run, then the probe's."""
        try:
            return await self._references.remote(
                self._settings, question=question, max_prompt_tokens=max_prompt_tokens
            )
        except RayError as error:
            raise OmniError(f"the probe could not be processed: {last_line(error)}") from error
