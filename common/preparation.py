"""From a record to the prompt that both planes consume: decoded, then processed as the model's family does it."""

import dataclasses
import functools
from dataclasses import dataclass

from common.config.data import DataConfig
from common.types import Failure, ProcessedPrompt, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaSettings:
    """What a task needs besides the record."""

    data: DataConfig
    model_path: str


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
