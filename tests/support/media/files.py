"""Small media files of many kinds: containers, rates, tracks of unequal length, variable rates, cuts."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

FASTSTART = {"movflags": "faststart"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
SIDE = 64


def pictures(num_frames: int) -> np.ndarray:
    """uint8 [T, 64, 64, 3]: a pattern that moves, so that every frame differs from its neighbours."""
    pattern = np.random.default_rng(0).integers(0, 256, (SIDE // 4, SIDE // 4, 3), dtype=np.uint8)
    pattern = pattern.repeat(4, axis=0).repeat(4, axis=1)
    return np.stack([np.roll(pattern, 3 * index, axis=1) for index in range(num_frames)])


def write_media(
    path: Path,
    *,
    num_frames: int = 48,
    fps: float = 12.0,
    audio_s: float = 4.0,
    rate: int = 44_100,
    options: dict[str, str] | None = None,
    codecs: tuple[str, str] = ("libx264", "aac"),
    frames_per_key: int = 12,
    shown_ms: Sequence[int] | None = None,
) -> Path:
    """Writes both tracks interleaved, in the container that the suffix names.

    Args:
        path: of the file.
        num_frames: 0 for no video.
        fps: of the video.
        audio_s: 0 for no audio; stereo otherwise.
        rate: of the audio.
        options: of the container.
        codecs: of video and audio.
        frames_per_key: between two key frames.
        shown_ms: when each frame is shown, for a variable rate.
    """
    import av

    with av.open(str(path), "w", options=options or {}) as container:
        packets: list[Any] = []
        if num_frames:
            step = Fraction(fps).limit_denominator(1001)
            video: Any = container.add_stream(codecs[0], rate=step, options={"threads": "1", "preset": "veryfast"})
            video.width, video.height, video.pix_fmt, video.gop_size = SIDE, SIDE, "yuv420p", frames_per_key
            base = Fraction(1, 1000) if shown_ms else 1 / step
            video.codec_context.time_base = base
            for index, pixels in enumerate(pictures(num_frames)):
                picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
                picture.pts, picture.time_base = (shown_ms[index] if shown_ms else index), base
                packets += video.encode(picture)
            packets += video.encode(None)
        if audio_s:
            packets += _encoded_sound(container.add_stream(codecs[1], rate=rate, layout="stereo"), audio_s, rate)
        container.mux(sorted(packets, key=lambda p: float((p.dts or 0) * p.time_base)))
    return path


def _encoded_sound(stream: Any, seconds: float, rate: int) -> list[Any]:
    import av

    hiss = np.random.default_rng(1).normal(0, 0.1, (2, round(seconds * rate))).astype(np.float32)
    packets: list[Any] = []
    size = stream.codec_context.frame_size or 1024
    for start in range(0, hiss.shape[1], size):
        chunk = np.ascontiguousarray(hiss[:, start : start + size])
        frame = av.AudioFrame.from_ndarray(chunk, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        packets += stream.encode(frame)
    return [*packets, *stream.encode(None)]


def copy_from(source: Path, target: Path, *, start_s: float) -> Path:
    """Copies packets as `ffmpeg -ss START -c copy` does: from the key frame before, with a list that hides what
    lies before the start."""
    import av

    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        streams = {s.index: written.add_stream_from_template(s) for s in read.streams}
        read.seek(int(start_s * 1e6))
        kept: list[Any] = []
        for packet in read.demux():
            if packet.dts is None or packet.pts is None:
                continue
            if packet.stream.type == "audio" and packet.pts * packet.time_base < start_s:
                continue
            offset = int(start_s / packet.time_base)
            packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
            packet.stream = streams[packet.stream_index]
            kept.append(packet)
        written.mux(kept)
    return target


def cut(path: Path, num_bytes: int) -> Path:
    """The first bytes of a file, as a copy that broke off."""
    target = path.with_name(f"cut-{path.name}")
    target.write_bytes(path.read_bytes()[:num_bytes])
    return target
