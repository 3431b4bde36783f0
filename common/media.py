"""Clips from files: decord for frames and audio tracks, soundfile for wav, flac and ogg.

The typed facade over decord. Every failure is a `MediaError` with a countable reason.
"""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from common.errors import MediaError
from common.types import Clip, DecodedClip

SAMPLE_RATE = 16_000
SOUND_FILE_SUFFIXES = frozenset({".wav", ".flac", ".ogg"})


def decode_clip(clip: Clip, *, max_fps: float, max_frames: int, max_audio_s: float) -> DecodedClip:
    """Decodes a clip's frames and waveform.

    Args:
        clip: at least one of its paths is set.
        max_fps: frames are taken at this rate where the file has more.
        max_frames: no more than this many frames, spread evenly over the clip.
        max_audio_s: a longer waveform is refused, never cut.

    Raises:
        MediaError: `missing`, `undecodable`, `empty`, `no-audio-track` or `too-long`.
    """
    frames, fps = None, 0.0
    if clip.video_path is not None:
        frames, fps = _read_frames(clip.video_path, max_fps=max_fps, max_frames=max_frames)
    waveform = None
    if clip.audio_path is not None:
        waveform = _read_waveform(clip.audio_path)
        if len(waveform) > max_audio_s * SAMPLE_RATE:
            raise MediaError(
                f"{clip.audio_path}: audio must last at most {max_audio_s} s, "
                f"got {len(waveform) / SAMPLE_RATE:.2f} s",
                reason="too-long",
            )
    return DecodedClip(frames=frames, fps=fps, waveform=waveform)


def frame_indices(num_frames: int, fps: float, *, max_fps: float, max_frames: int) -> tuple[np.ndarray, float]:
    """Which frames to take, and their true rate.

    Returns:
        int64 [T] strictly increasing, and the frames per second of what was taken. All frames at the
        file's rate where both limits allow it; otherwise one frame nearest to each tick of the lower rate.
    """
    rate = min(fps, max_fps)
    if num_frames * rate / fps > max_frames:
        rate = max_frames * fps / num_frames
    if rate >= fps:
        return np.arange(num_frames), fps
    num_taken = max(1, min(max_frames, int(num_frames * rate / fps + 1e-9)))
    return np.minimum(np.round(np.arange(num_taken) * fps / rate), num_frames - 1).astype(np.int64), rate


def _read_frames(path: str, *, max_fps: float, max_frames: int) -> tuple[np.ndarray, float]:
    decord = _decord(path)
    with _as_media_error(path):
        reader = decord.VideoReader(path, num_threads=1)
        num_frames, fps = len(reader), float(reader.get_avg_fps())
        if num_frames > 0 and fps > 0:
            indices, rate = frame_indices(num_frames, fps, max_fps=max_fps, max_frames=max_frames)
            return reader.get_batch(indices.tolist()).asnumpy(), rate
    raise MediaError(f"{path}: a video must have frames, got {num_frames} at {fps} fps", reason="empty")


def _read_waveform(path: str) -> np.ndarray:
    if Path(path).suffix.lower() in SOUND_FILE_SUFFIXES:
        channels, rate = _read_sound_file(path)
    else:
        channels, rate = _read_audio_track(path)
    waveform = channels.mean(axis=0, dtype=np.float32)
    if rate != SAMPLE_RATE:
        waveform = soxr.resample(waveform, rate, SAMPLE_RATE).astype(np.float32)
    if len(waveform) == 0:
        raise MediaError(f"{path}: audio must have samples, got none", reason="empty")
    if not np.isfinite(waveform).all():
        raise MediaError(f"{path}: audio must be finite, got NaN or infinity", reason="undecodable")
    return waveform


def _read_sound_file(path: str) -> tuple[np.ndarray, int]:
    import soundfile

    _require_file(path)
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise MediaError(f"{path}: {error}", reason="undecodable") from error
    return samples.T, int(rate)


def _read_audio_track(path: str) -> tuple[np.ndarray, int]:
    decord = _decord(path)
    rate = _audio_rate(path)
    if rate is None:
        raise MediaError(f"{path}: has no audio track", reason="no-audio-track")
    # decord's own mono mix is 0.707 (L + R) and its resampler slips: native rate, channels apart.
    with _as_media_error(path):
        reader = decord.AudioReader(path, sample_rate=rate, mono=False)
        return np.asarray(reader[:].asnumpy(), dtype=np.float32), rate
    raise AssertionError("unreachable")


def _audio_rate(path: str) -> int | None:
    import av
    from av.error import FFmpegError

    try:
        with av.open(path) as container:
            streams = container.streams.audio
            return int(streams[0].rate) if streams else None
    except FFmpegError as error:
        raise MediaError(f"{path}: {error}", reason="undecodable") from error


def _decord(path: str) -> Any:
    import decord

    # what FFmpeg would print on stderr is in the exception already
    decord.logging.set_level(decord.logging.QUIET)
    _require_file(path)
    return decord


def _require_file(path: str) -> None:
    if not Path(path).is_file():
        raise MediaError(f"{path}: no such file", reason="missing")
    if Path(path).stat().st_size == 0:
        raise MediaError(f"{path}: the file has no bytes", reason="empty")


@contextlib.contextmanager
def _as_media_error(path: str) -> Generator[None]:
    """decord raises RuntimeError and its own error for whatever FFmpeg could not do."""
    import decord  # pyright: ignore[reportMissingTypeStubs]

    try:
        yield
    except (RuntimeError, IndexError, decord.DECORDError) as error:
        line = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise MediaError(f"{path}: {line}", reason="undecodable") from error
