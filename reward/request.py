"""The request and the result of a reward for one completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from common.errors import MediaError
from common.types import Clip, Completion, DecodedClip, Modality, Record

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardRequest:
    """One completion and the known facts about its clip."""

    completion: str
    """Text, special tokens left out."""
    token_ids: tuple[int, ...]
    """[C]; empty if only the text is known."""
    record: Record
    """Question, label or labels, their distribution, dataset, taxonomy, transcript and files."""
    modalities: tuple[Modality, ...]
    """Modalities of the prompt."""
    duration_s: float | None = None
    """Seconds of the clip; None if unknown."""

    @property
    def label(self) -> str:
        return self.record.label

    def frames(self, *, max_fps: float = 4.0, max_frames: int = 32) -> tuple[np.ndarray, float]:
        """Decodes the clip's pictures; the completions of a group share them.

        Returns:
            uint8 [T, H, W, 3], and their true rate per second.

        Raises:
            MediaError: the clip has no video, or it cannot be decoded.
        """
        clip = self.record.clip
        if clip.video_path is None:
            raise MediaError(f"{self.record.prompt_id} has no video", reason="no-video-track")
        decoded = _decoded(replace(clip, audio_path=None), max_fps, max_frames)
        assert decoded.frames is not None
        return decoded.frames, decoded.fps

    def waveform(self) -> np.ndarray:
        """Decodes the clip's sound; the completions of a group share it.

        Returns:
            float32 [S] at 16 kHz, channels averaged.

        Raises:
            MediaError: the clip has no sound, or it cannot be decoded.
        """
        clip = self.record.clip
        if clip.audio_path is None:
            raise MediaError(f"{self.record.prompt_id} has no audio", reason="no-audio-track")
        decoded = _decoded(replace(clip, video_path=None, frames_fps=None), 1.0, 1)
        assert decoded.waveform is not None
        return decoded.waveform


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardResult:
    value: float | None
    """None if the reward does not apply."""
    detail: str = ""
    """Text for readers of the breakdown."""
    facts: Mapping[str, float] | None = None
    """Numbers that are logged with the value."""


def requests_of(record: Record, completions: Sequence[Completion]) -> list[RewardRequest]:
    modalities = modalities_of(record.clip)
    return [
        RewardRequest(completion=c.text, token_ids=c.token_ids, record=record, modalities=modalities)
        for c in completions
    ]


def modalities_of(clip: Clip) -> tuple[Modality, ...]:
    paths: dict[Modality, str | None] = {"video": clip.video_path, "audio": clip.audio_path}
    return tuple(modality for modality, path in paths.items() if path is not None)


@lru_cache(maxsize=4)
def _decoded(clip: Clip, max_fps: float, max_frames: int) -> DecodedClip:
    from common.media.decode import decode_clip

    return decode_clip(clip, max_fps=max_fps, max_frames=max_frames, max_audio_s=float("inf"))
