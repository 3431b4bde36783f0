"""Checks of media files in many processes: faults and durations."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from common.errors import MediaError
from common.media.frame_folder import list_frames
from common.types import Clip

Level = Literal["none", "header", "full"]
"""`header` opens each file and reads what it declares; `full` decodes it."""
SILENCE = 1e-4
"""Largest sample of a silent track: 80 dB below full scale."""
END_BYTES = 65_536
"""Bytes of a file's start and end that identify its content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckLimits:
    """The level of the check, and the longest clip."""

    level: Level
    max_video_s: float
    max_audio_s: float
    missing_audio: Literal["video_only", "skip"] = "video_only"
    """The value of `data.missing_audio`: a clip without a sound track is an error or is used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    clip_id: str
    seconds: float = 0.0
    """Seconds of the video, or of the audio without a video."""
    reason: str | None = None
    """The reason why the clip cannot be used, as in the ledger of a run; None if it can."""
    detail: str = ""
    lacks_track: bool = False
    """True if the clip has no sound track and is used without sound."""
    content: str = ""
    """Hash of the files: the same for the same bytes."""


def check_clips(
    clips: Sequence[Clip], limits: CheckLimits, *, num_workers: int, on_clip: Callable[[], None]
) -> Iterator[Facts]:
    """Facts of every clip, in order; `on_clip` is called after each. A single worker runs in this process."""
    if num_workers == 1:
        for clip in clips:
            yield check_clip(clip, limits)
            on_clip()
        return
    with ProcessPoolExecutor(max_workers=num_workers, mp_context=get_context("spawn")) as pool:
        for facts in pool.map(check_clip, clips, [limits] * len(clips), chunksize=16):
            yield facts
            on_clip()


def check_clip(clip: Clip, limits: CheckLimits) -> Facts:
    """Checks the files of one clip; without its sound if it has no track and needs none."""
    facts = _facts(clip, limits)
    if facts.reason != "no-audio-track" or clip.video_path is None or limits.missing_audio == "skip":
        return facts
    return replace(_facts(replace(clip, audio_path=None), limits), lacks_track=True)


def _facts(clip: Clip, limits: CheckLimits) -> Facts:
    facts = Facts(clip_id=clip.clip_id)
    try:
        if limits.level == "none":
            missing = next((path for path in _paths(clip) if not os.path.exists(path)), None)
            if missing is not None:
                raise MediaError(f"{missing}: no such file", reason="missing")
            return facts
        facts = replace(facts, seconds=_declared_s(clip, limits))
        facts = replace(facts, content=_content(clip, is_whole=limits.level == "full"))
        return _decoded(clip, facts, limits) if limits.level == "full" else facts
    except MediaError as error:
        return replace(facts, reason=error.reason, detail=str(error))


def _paths(clip: Clip) -> list[str]:
    return list(dict.fromkeys(path for path in (clip.video_path, clip.audio_path) if path is not None))


def _declared_s(clip: Clip, limits: CheckLimits) -> float:
    """Seconds by the headers; raises `MediaError` for a file that is incomplete, too long or without a track."""
    from common.media.decode import SOUND_FILE_SUFFIXES
    from common.media.tracks import require_short

    seconds = {"video": 0.0, "audio": 0.0}
    for path in _paths(clip):
        modalities = [m for m, p in (("video", clip.video_path), ("audio", clip.audio_path)) if p == path]
        if os.path.isdir(path):
            seconds["video"] = len(list_frames(path)) / (clip.frames_fps or 1.0)
            continue
        is_sound = Path(path).suffix.lower() in SOUND_FILE_SUFFIXES
        duration_s = _sound_s(path) if is_sound else _container_s(path, modalities)
        seconds.update(dict.fromkeys(modalities, duration_s))
    if clip.video_path is not None:
        require_short(clip.video_path, "video", seconds["video"], limit_s=limits.max_video_s)
    if clip.audio_path is not None:
        require_short(clip.audio_path, "audio", seconds["audio"], limit_s=limits.max_audio_s)
    return seconds["video"] or seconds["audio"]


def _sound_s(path: str) -> float:
    from common.media.decode import survey_sound_file

    num_samples, rate = survey_sound_file(path)
    if num_samples == 0:
        raise MediaError(f"{path}: audio must have samples, got none", reason="empty")
    return num_samples / rate


def _container_s(path: str, modalities: Sequence[str]) -> float:
    import av
    from av.error import FFmpegError

    from common.media.tracks import require_whole

    require_whole(path)
    try:
        with av.open(path, metadata_errors="replace") as container:
            kinds = {stream.type for stream in container.streams}
            for modality in modalities:
                if modality not in kinds:
                    raise MediaError(f"{path}: has no {modality} track", reason=f"no-{modality}-track")
            return container.duration / 1e6 if container.duration else 0.0
    except FFmpegError as error:
        raise MediaError(f"{path}: {error}", reason="undecodable") from error


def _decoded(clip: Clip, facts: Facts, limits: CheckLimits) -> Facts:
    import numpy as np

    from common.media.decode import SAMPLE_RATE, decode_clip

    decoded = decode_clip(
        clip, max_fps=1.0, max_frames=8, max_audio_s=limits.max_audio_s, max_video_s=limits.max_video_s
    )
    waveform = decoded.waveform
    if waveform is not None and float(np.abs(waveform).max()) <= SILENCE:
        raise MediaError(f"{clip.audio_path}: no sample of the sound is above {SILENCE:g}", reason="silent")
    if decoded.frames is None and waveform is not None:
        return replace(facts, seconds=len(waveform) / SAMPLE_RATE)
    return facts


def _content(clip: Clip, *, is_whole: bool) -> str:
    import blake3

    digest = blake3.blake3()
    for path in _paths(clip):
        files = list_frames(path) if os.path.isdir(path) else [path]
        for file in files:
            # missing and locked files are reported by the check that reads them
            with suppress(OSError), open(file, "rb") as opened:
                size = os.path.getsize(file)
                digest.update(f"{size};".encode())
                if is_whole or size <= 2 * END_BYTES:
                    digest.update(opened.read())
                else:
                    digest.update(opened.read(END_BYTES))
                    opened.seek(-END_BYTES, os.SEEK_END)
                    digest.update(opened.read(END_BYTES))
    return digest.hexdigest(length=16)
