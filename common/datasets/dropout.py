"""Random removal of a modality or of the transcript from training prompts, against reliance on one of them.

The removal depends only on seed, epoch and clip: all samples of a group and a resumed run get the same prompt.
"""

from collections.abc import Callable
from dataclasses import replace

from common.config.data import DataConfig
from common.datasets.corpus import hash_fraction
from common.prompts.phrasing import base_question, question_of
from common.types import Record

Vary = Callable[[Record, int], Record]
"""Returns a record as presented in an epoch."""


def dropout_of(data: DataConfig, *, seed: int) -> Vary | None:
    """The configured dropout; None without any."""
    if not (data.transcript_dropout or data.video_dropout or data.audio_dropout):
        return None
    return lambda record, epoch: _varied(record, data=data, seed=seed, epoch=epoch)


def _varied(record: Record, *, data: DataConfig, seed: int, epoch: int) -> Record:
    """A record without the modality that an epoch drops, with its question; a clip keeps its only modality."""
    key = f"{seed}/{epoch}/{record.prompt_id}"
    clip, drawn = record.clip, hash_fraction(f"{key}/modality")
    if clip.video_path is not None and clip.audio_path is not None:
        if drawn < data.video_dropout:
            clip = replace(clip, video_path=None, frames_fps=None)
        elif drawn < data.video_dropout + data.audio_dropout:
            clip = replace(clip, audio_path=None)
    shown = record.transcript if data.show_transcripts else None
    transcript = shown if hash_fraction(f"{key}/transcript") >= data.transcript_dropout else None
    if clip == record.clip and transcript == shown:
        return record
    base = base_question(record.question, clip=record.clip, transcript=shown)
    return replace(record, clip=clip, question=question_of(clip, question=base, transcript=transcript))
