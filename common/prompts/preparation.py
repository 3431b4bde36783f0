"""Prepares the prompt of a record for both planes: decodes the clip, then runs the family's processor."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.config.data import DataConfig
from common.types import Clip, Condition, DecodedClip, Failure, ProcessedPrompt, Record

if TYPE_CHECKING:
    from common.errors import MediaError


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaSettings:
    data: DataConfig
    model_path: str


def prepare(
    record: Record, settings: MediaSettings, condition: Condition = "av", sound: Record | None = None
) -> tuple[tuple[int, int] | Failure, ProcessedPrompt | None]:
    """Decodes and processes one clip in a condition; the question is that of the unchanged clip.

    Returns:
        The prompt's length in tokens and its tensors' bytes, and the prompt; or a failure and None.
    """
    from common.errors import MediaError
    from common.media.conditions import presented
    from common.media.framing import framed
    from common.models.registry import family_of

    data = settings.data
    lent: DecodedClip | None = None
    if sound is not None:
        try:
            lent = _decode(dataclasses.replace(sound.clip, video_path=None), data)
        except MediaError as error:
            # the clip of the question is not at fault
            return _failure(error, sound, reason=f"lent-{error.reason}"), None
    try:
        decoded, record = _decoded(record, data)
        clip = framed(decoded, data.frame_shape, max_pixels=data.max_pixels)
        prompt = family_of(settings.model_path).process_prompt(
            presented(clip, condition, sound=lent and lent.waveform),
            record.question,
            model_path=settings.model_path,
            min_pixels=data.min_pixels,
            max_pixels=data.max_pixels,
        )
    except MediaError as error:
        return _failure(error, record, reason=error.reason), None
    num_bytes = sum(tensor.nbytes for tensor in prompt.tensors.values())
    return (len(prompt.prompt_token_ids), num_bytes), prompt


def _decoded(record: Record, data: DataConfig) -> tuple[DecodedClip, Record]:
    """The decoded clip and its record, which changes if the sound track is missing."""
    from common.errors import MediaError
    from common.prompts.phrasing import base_question, question_of

    try:
        return _decode(record.clip, data), record
    except MediaError as error:
        is_recoverable = error.reason == "no-audio-track" and record.clip.video_path is not None
        if data.missing_audio == "skip" or not is_recoverable:
            raise
        silent = dataclasses.replace(record.clip, audio_path=None)
        base = base_question(record.question, clip=record.clip, transcript=None)
        changed = dataclasses.replace(record, clip=silent, question=question_of(silent, question=base))
        return _decode(silent, data), changed


def _decode(clip: Clip, data: DataConfig) -> DecodedClip:
    from common.media.decode import decode_clip

    return decode_clip(
        clip,
        max_fps=data.max_fps,
        max_frames=data.max_frames,
        max_audio_s=data.max_audio_s,
        max_video_s=data.max_video_s,
    )


def _failure(error: "MediaError", record: Record, *, reason: str) -> Failure:
    # errors of the processor do not name the file
    names_file = any(path in str(error) for path in (record.clip.video_path, record.clip.audio_path) if path)
    detail = str(error) if names_file else f"{record.prompt_id}: {error}"
    return Failure(stage="media", reason=reason, detail=detail)


def reference_prompts(settings: MediaSettings, *, question: str, max_prompt_tokens: int) -> list[ProcessedPrompt]:
    """The longest prompt of the run, then the prompts of the probe."""
    from common.models.registry import family_of
    from common.prompts.probe_clips import longest_prompt, probe_prompts

    family = family_of(settings.model_path)
    longest = longest_prompt(
        family,
        model_path=settings.model_path,
        data=settings.data,
        question=question,
        max_prompt_tokens=max_prompt_tokens,
    )
    return [longest, *probe_prompts(family, model_path=settings.model_path, data=settings.data)]
