"""Conditions of a decoded clip: silence, another clip's sound, black frames. The question stays."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.errors import MediaError
from common.types import Condition, DecodedClip, Record

if TYPE_CHECKING:
    import numpy as np

SILENT = "no-audio-track"
"""Reason of a clip without sound."""


def presented(clip: DecodedClip, condition: Condition, *, sound: np.ndarray | None = None) -> DecodedClip:
    """The decoded clip in a condition.

    `audio_muted` has silence of the same length and `video_blanked` black frames of the same shape, so the number
    of tokens stays. `audio_swapped` has `sound`, float32 [S] at 16 kHz of another clip.

    Raises:
        MediaError: the clip lacks the modality.
    """
    import numpy as np

    if condition == "av":
        return clip
    if condition == "video_blanked":
        if clip.frames is None:
            raise MediaError("video_blanked must have a clip with a picture, got none", reason="no-video-track")
        return dataclasses.replace(clip, frames=np.zeros_like(clip.frames))
    if clip.waveform is None:
        raise MediaError(f"{condition} must have a clip with a sound, got none", reason=SILENT)
    if condition == "audio_muted":
        return dataclasses.replace(clip, waveform=np.zeros_like(clip.waveform))
    assert condition == "audio_swapped", f"{condition} changes a record, not a decoded clip"
    assert sound is not None, "audio_swapped needs another clip's sound"
    return dataclasses.replace(clip, waveform=sound)


def audio_donor(record: Record, records: Sequence[Record]) -> Record:
    """The record whose sound replaces that of `record`; the choice depends only on the arguments.

    Raises:
        MediaError: no record with another label has a sound.
    """
    donors = [r for r in records if r.label != record.label and r.clip.audio_path is not None]
    if not donors:
        raise MediaError(
            f"{record.prompt_id}: audio_swapped must have a clip with a label other than {record.label!r} and a "
            f"sound, got none among {len(records)}",
            reason="no-other-sound",
        )
    return random.Random(f"{record.dataset}/{record.prompt_id}").choice(donors)
