"""Clips from files: decord for frames and audio tracks, soundfile for wav, flac and ogg.

This is the typed facade over decord. Every failure is a `MediaError` with a reason that metrics count.
"""

import contextlib
import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from common.errors import MediaError, last_line
from common.media.frame_folder import list_frames, read_frames
from common.media.tracks import SLACK_S, Track, num_decodable_frames, require_short, require_whole, survey
from common.types import Clip, DecodedClip, Modality

SAMPLE_RATE = 16_000
SOUND_FILE_SUFFIXES = frozenset({".wav", ".flac", ".ogg"})
NO_REPEATS = 1e-9
"""Share of frames that decord may replace by a repeat of the frame before: a single repeat is an error."""
MAX_MISSING_FRAMES, MAX_MISSING_FRACTION = 2, 0.1
"""Packets without a picture in healthy videos: the first after a cut, and references that are never shown."""


def decode_clip(
    clip: Clip, *, max_fps: float, max_frames: int, max_audio_s: float, max_video_s: float = math.inf
) -> DecodedClip:
    """Decodes a clip's frames and waveform. Clips that are too long are refused before they are decoded.

    Args:
        clip: at least one of its paths is set.
        max_fps: frames are taken at this rate if the file has more.
        max_frames: no more than this many frames, spread evenly over the clip.
        max_audio_s: a longer waveform is refused, never cut.
        max_video_s: a longer video is refused, never thinned out.

    Raises:
        MediaError: `missing`, `unreadable`, `undecodable`, `empty`, `no-video-track`, `no-audio-track` or
            `too-long`.
    """
    video, audio = clip.video_path, clip.audio_path
    is_folder = video is not None and Path(video).is_dir()
    is_sound_file = audio is not None and Path(audio).suffix.lower() in SOUND_FILE_SUFFIXES
    limits: dict[str, dict[Modality, float]] = {}
    if video is not None and not is_folder:
        limits.setdefault(video, {})["video"] = max_video_s
    if audio is not None and not is_sound_file:
        limits.setdefault(audio, {})["audio"] = max_audio_s
    tracks = {path: survey(path, limits=limits[path]) for path in limits}
    if audio is not None and is_sound_file:
        num_samples, rate = survey_sound_file(audio)
        require_short(audio, "audio", num_samples / rate, limit_s=max_audio_s)
    frames, fps, waveform = None, 0.0, None
    if video is not None and is_folder:
        frames, fps = _read_folder(clip, max_fps=max_fps, max_frames=max_frames, max_video_s=max_video_s)
    elif video is not None:
        frames, fps = _read_frames(video, tracks[video]["video"], max_fps=max_fps, max_frames=max_frames)
    if audio is not None:
        read = _read_sound_file(audio) if is_sound_file else _read_audio_track(audio, tracks[audio]["audio"])
        waveform = _waveform(*read, path=audio)
        # the resampled length decides: headers may differ by some samples
        require_short(audio, "audio", len(waveform) / SAMPLE_RATE, limit_s=max_audio_s)
    return DecodedClip(frames=frames, fps=fps, waveform=waveform)


def frame_indices(num_frames: int, fps: float, *, max_fps: float, max_frames: int) -> tuple[np.ndarray, float]:
    """Indices of the frames to take, and their true rate.

    Returns:
        int64 [T], strictly increasing, and frames per second. All frames at the file's rate if both limits allow
        it; otherwise the frame nearest to each tick of the lower rate.
    """
    rate = min(fps, max_fps)
    if num_frames * rate / fps > max_frames:
        rate = max_frames * fps / num_frames
    if rate >= fps:
        return np.arange(num_frames), fps
    num_taken = max(1, min(max_frames, int(num_frames * rate / fps + 1e-9)))
    return np.minimum(np.round(np.arange(num_taken) * fps / rate), num_frames - 1).astype(np.int64), rate


def _read_folder(clip: Clip, *, max_fps: float, max_frames: int, max_video_s: float) -> tuple[np.ndarray, float]:
    path = str(clip.video_path)
    if clip.frames_fps is None:
        raise MediaError(
            f"{path}: a folder of frames must come with frames per second, got none", reason="undecodable"
        )
    paths = list_frames(path)
    require_short(path, "video", len(paths) / clip.frames_fps, limit_s=max_video_s)
    indices, rate = frame_indices(len(paths), clip.frames_fps, max_fps=max_fps, max_frames=max_frames)
    return read_frames(paths, indices), rate


def _read_frames(path: str, track: Track, *, max_fps: float, max_frames: int) -> tuple[np.ndarray, float]:
    decord = _decord()
    with _as_media_error(path):
        reader = decord.VideoReader(path, num_threads=1, fault_tol=NO_REPEATS)
        fps = float(reader.get_avg_fps())
        if not fps > 0:
            raise MediaError(f"{path}: a video must have a frame rate, got {fps}", reason="undecodable")
        # decord finds frames by counting packets: where some show nothing, it would take the wrong frames
        if track.num_hidden == 0:
            with contextlib.suppress(decord.DECORDLimitReachedError):
                indices, rate = frame_indices(len(reader), fps, max_fps=max_fps, max_frames=max_frames)
                return reader.get_batch(indices.tolist()).asnumpy(), rate
        num_frames = num_decodable_frames(path)
        missing = track.num_packets - num_frames
        if num_frames == 0 or missing > max(MAX_MISSING_FRAMES, MAX_MISSING_FRACTION * track.num_packets):
            raise MediaError(
                f"{path}: must have the {track.num_packets} frames that it declares, got {num_frames}",
                reason="undecodable",
            )
        shown_s = track.end_s - track.start_s
        # decord's rate also counts hidden packets
        fps = track.num_packets / shown_s if track.num_hidden and shown_s > 0 else fps
        indices, rate = frame_indices(num_frames, fps, max_fps=max_fps, max_frames=max_frames)
        reader, wanted = decord.VideoReader(path, num_threads=1), set(indices.tolist())
        frames = ((index, reader.next()) for index in range(int(indices[-1]) + 1))
        return np.stack([frame.asnumpy() for index, frame in frames if index in wanted]), rate


def _waveform(channels: np.ndarray, rate: int, *, path: str) -> np.ndarray:
    """float32 [S] at 16 kHz, from float32 [C, S] at another rate."""
    waveform = channels.mean(axis=0, dtype=np.float32)
    if rate != SAMPLE_RATE:
        waveform = soxr.resample(waveform, rate, SAMPLE_RATE).astype(np.float32)
    if len(waveform) == 0:
        raise MediaError(f"{path}: audio must have samples, got none", reason="empty")
    if not np.isfinite(waveform).all():
        raise MediaError(f"{path}: audio must be finite, got NaN or infinity", reason="undecodable")
    return waveform


def survey_sound_file(path: str) -> tuple[int, int]:
    """Number of samples and their rate from the header; raises `MediaError`."""
    import soundfile

    require_whole(path)
    with _as_media_error(path):
        info = soundfile.info(path)
        return int(info.frames), int(info.samplerate)


def _read_sound_file(path: str) -> tuple[np.ndarray, int]:
    import soundfile

    with _as_media_error(path):
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return samples.T, int(rate)


def _read_audio_track(path: str, track: Track) -> tuple[np.ndarray, int]:
    rate = track.sample_rate
    if rate == 0:
        raise MediaError(f"{path}: audio must have a sample rate, got none", reason="undecodable")
    # native rate and separate channels: decord's mono mix is 0.707 (L + R), and its resampler drops samples
    with _as_media_error(path):
        reader = _decord().AudioReader(path, sample_rate=rate, mono=False)
        channels = np.asarray(reader[:].asnumpy(), dtype=np.float32)
        # decord stops silently at the first packet that it cannot decode
        if channels.shape[-1] / rate < track.packets_s - SLACK_S:
            raise MediaError(
                f"{path}: must have the {track.packets_s:.2f} s of audio that it declares, got "
                f"{channels.shape[-1] / rate:.2f} s that can be decoded",
                reason="undecodable",
            )
        return channels, rate


def _decord() -> Any:
    import decord

    # the exception already has what FFmpeg would print on stderr
    decord.logging.set_level(decord.logging.QUIET)
    return decord


@contextlib.contextmanager
def _as_media_error(path: str) -> Generator[None]:
    import decord  # pyright: ignore[reportMissingTypeStubs]
    from av.error import FFmpegError

    failures = (RuntimeError, IndexError, AssertionError, FFmpegError)
    try:
        yield
    except (*failures, decord.DECORDError, decord.DECORDLimitReachedError) as error:
        raise MediaError(f"{path}: {last_line(error)}", reason="undecodable") from error
