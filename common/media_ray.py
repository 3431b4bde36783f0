"""The media stage: each clip is decoded and processed in a Ray task whose results the driver owns.

The driver sees a length and a handle; pixels go from the task to the engine and to the ranks.
"""

import asyncio
import dataclasses
import functools
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


def prepare(record: Record, settings: MediaSettings) -> tuple[int | Failure, ProcessedPrompt | None]:
    """Decodes and processes one clip: its prompt's length and the prompt, or a failure and nothing."""
    from common.errors import MediaError
    from common.media import decode_clip
    from common.models.registry import family_of

    data = settings.data
    decode = functools.partial(
        decode_clip, max_fps=data.max_fps, max_frames=data.max_frames, max_audio_s=data.max_audio_s
    )
    try:
        try:
            decoded = decode(record.clip)
        except MediaError as error:
            is_recoverable = error.reason == "no-audio-track" and record.clip.video_path is not None
            if data.missing_audio == "skip" or not is_recoverable:
                raise
            decoded = decode(dataclasses.replace(record.clip, audio_path=None))
        prompt = family_of(settings.model_path).process_prompt(
            decoded,
            record.question,
            model_path=settings.model_path,
            min_pixels=data.min_pixels,
            max_pixels=data.max_pixels,
        )
    except MediaError as error:
        return Failure(stage="media", reason=error.reason, detail=str(error)), None
    return len(prompt.prompt_token_ids), prompt


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
    """A `PrepareFn` over Ray tasks."""

    def __init__(self, settings: MediaSettings, *, env: dict[str, str]) -> None:
        self._settings = ray.put(settings)
        self._deadline_s = settings.data.deadline_s
        options: Any = {"num_cpus": settings.data.num_cpus, "runtime_env": {"env_vars": env}, "max_retries": 2}
        self._task: Any = ray.remote(prepare).options(num_returns=2, **options)
        self._references: Any = ray.remote(cast(Any, reference_prompts)).options(**options)

    async def __call__(self, record: Record) -> tuple[MediaRef, int] | Failure:
        """A handle and a length; the handle keeps the memory alive, so drop it at the group's fate."""
        header, prompt = self._task.remote(record, self._settings)
        try:
            async with asyncio.timeout(self._deadline_s):
                length = await header
        except TimeoutError:
            ray.cancel(header, force=True)
            return Failure(stage="media", reason="deadline", detail=f"{self._deadline_s:g} s passed")
        except RayError as error:
            return Failure(stage="media", reason="task-error", detail=last_line(error))
        return length if isinstance(length, Failure) else (prompt, length)

    async def references(self, *, question: str, max_prompt_tokens: int) -> list[ProcessedPrompt]:
        """The longest prompt of the run, then the probe's."""
        try:
            return await self._references.remote(
                self._settings, question=question, max_prompt_tokens=max_prompt_tokens
            )
        except RayError as error:
            raise OmniError(f"the probe could not be processed: {last_line(error)}") from error
