"""The tracks of a media file, read from its packets before decoding: the typed facade over PyAV.

A file is complete if its length (`common/media/containers.py`), its packets (FFmpeg marks a torn packet) and the
duration that MP4, Matroska and FLV declare agree. Two kinds of damage are not detected: damage inside a packet that
the decoder conceals, and the cases that `common/media/containers.py` lists.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import MediaError
from common.media.containers import declared_bytes
from common.types import Modality

SLACK_S = 0.25
"""Tolerance for audio tracks: an encoder's priming and padding take up to 3136 samples, 0.2 s at 16 kHz."""
DECLARING_FORMATS = frozenset({"mov", "matroska", "flv"})
"""In other formats FFmpeg may guess the duration from the bit rate."""


@dataclass(kw_only=True, slots=True)
class Track:
    """The video or audio track of a file; packets are counted while they are read."""

    modality: Modality
    limit_s: float
    """Longest allowed duration."""
    sample_rate: int
    """Hz; 0 for video."""
    period_s: float
    """Mean duration of a frame; 0.0 for audio."""
    declared_s: float | None
    """The track's end by the container."""
    start_s: float
    num_packets: int = 0
    """Shown packets: one for each frame of a video."""
    num_hidden: int = 0
    """Packets that only help to decode others, because an edit list shows a part of the track."""
    packets_s: float = 0.0
    """Sum of the durations of shown packets."""
    end_s: float = 0.0
    """The end of the last packet."""


def survey(path: str, *, limits: Mapping[Modality, float]) -> dict[Modality, Track]:
    """Reads the wanted tracks of a file without decoding; `limits` maps them to their longest duration in seconds.

    Raises:
        MediaError: `missing`, `unreadable`, `empty`, `undecodable`, `too-long`, `no-video-track` or
            `no-audio-track`.
    """
    import av
    from av.error import FFmpegError

    require_whole(path)
    try:
        with av.open(path, metadata_errors="replace") as container:
            is_declaring = container.format.name.split(",")[0] in DECLARING_FORMATS
            tracks: dict[int, Track] = {}
            for modality, limit_s in limits.items():
                stream = _stream(container, modality, path)
                tracks[stream.index] = _track(stream, modality, limit_s=limit_s, is_declaring=is_declaring)
            for track in tracks.values():
                _require_within(path, track, (track.declared_s or 0.0) - track.start_s)
            end_s = _read_packets(container, path, tracks)
            if is_declaring:
                declared_s = container.duration / 1e6 if container.duration else None
                _require_declared(path, list(tracks.values()), declared_s=declared_s, end_s=end_s)
    except FFmpegError as error:
        raise MediaError(f"{path}: {error}", reason="undecodable") from error
    for track in tracks.values():
        if track.num_packets == 0:
            raise MediaError(f"{path}: {track.modality} must have packets, got none", reason="empty")
    return {track.modality: track for track in tracks.values()}


def require_whole(path: str) -> None:
    """Raises `MediaError` if the file is absent or shorter than its headers declare."""
    try:
        if not Path(path).is_file():
            raise MediaError(f"{path}: no such file", reason="missing")
        size = Path(path).stat().st_size
        if size == 0:
            raise MediaError(f"{path}: the file has no bytes", reason="empty")
        declared = declared_bytes(path)
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror}", reason="unreadable") from error
    if declared is not None and declared > size:
        raise MediaError(
            f"{path}: must have the {declared} bytes that it declares, got {size}; it was cut off",
            reason="undecodable",
        )


def require_short(path: str, modality: Modality, seconds: float, *, limit_s: float) -> None:
    """Raises `MediaError` (`too-long`)."""
    if seconds > limit_s:
        raise MediaError(
            f"{path}: {modality} must last at most {limit_s} s, got {seconds:.2f} s", reason="too-long"
        )


def num_decodable_frames(path: str) -> int:
    """The number of frames, counted by decoding the video."""
    import av

    with av.open(path, metadata_errors="replace") as container:
        return sum(1 for _ in container.decode(container.streams.best("video")))


def _stream(container: Any, modality: Modality, path: str) -> Any:
    # the same streams as decord: the best video stream, the first audio stream
    audio = container.streams.audio
    stream = container.streams.best("video") if modality == "video" else audio[0] if audio else None
    if stream is None:
        raise MediaError(f"{path}: has no {modality} track", reason=f"no-{modality}-track")
    return stream


def _track(stream: Any, modality: Modality, *, limit_s: float, is_declaring: bool) -> Track:
    is_video = modality == "video"
    declared_s = None
    if is_declaring:
        tag = stream.metadata.get("DURATION")
        declared_s = float(stream.duration * stream.time_base) if stream.duration else _seconds(tag)
    return Track(
        modality=modality,
        limit_s=limit_s,
        sample_rate=0 if is_video else int(stream.rate or 0),
        period_s=1 / float(stream.average_rate) if is_video and stream.average_rate else 0.0,
        declared_s=declared_s,
        start_s=max(0.0, float(stream.start_time * stream.time_base)) if stream.start_time else 0.0,
    )


def _seconds(tag: str | None) -> float | None:
    try:
        hours, minutes, seconds = (tag or "").strip("\0 ").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def _read_packets(container: Any, path: str, tracks: Mapping[int, Track]) -> float:
    """Adds the packets to the tracks; returns the end of the last packet of any stream."""
    end_s = 0.0
    for packet in container.demux():
        if packet.size == 0:
            continue
        if packet.is_corrupt:
            raise MediaError(
                f"{path}: every packet must be whole, got a torn one at byte {packet.pos}", reason="undecodable"
            )
        seconds = float((packet.duration or 0) * packet.time_base)
        ends_s = float(packet.pts * packet.time_base) + seconds if packet.pts is not None else end_s
        end_s = max(end_s, ends_s)
        track = tracks.get(packet.stream_index)
        if track is None:
            continue
        track.end_s = max(track.end_s, ends_s)
        if packet.is_discard:
            track.num_hidden += 1
            continue
        track.num_packets += 1
        track.packets_s += seconds
        _require_within(path, track, track.end_s - track.start_s)
    return end_s


def _require_within(path: str, track: Track, seconds: float) -> None:
    # a track within `SLACK_S` of the limit is measured after decoding
    if seconds > track.limit_s + SLACK_S:
        require_short(path, track.modality, seconds, limit_s=track.limit_s)


def _require_declared(path: str, tracks: Sequence[Track], *, declared_s: float | None, end_s: float) -> None:
    # the last frames may lack a duration
    slack_s = SLACK_S + 2 * max(track.period_s for track in tracks)
    for declared, held in [*((t.declared_s, t.end_s) for t in tracks), (declared_s, end_s)]:
        if declared is not None and declared > held + slack_s:
            raise MediaError(
                f"{path}: must last the {declared:.2f} s that it declares, got {held:.2f} s; it was cut off",
                reason="undecodable",
            )
