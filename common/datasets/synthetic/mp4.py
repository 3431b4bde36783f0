"""Writes mp4 files whose sizes do not depend on their content.

Both tracks have a constant rate with padding: otherwise the labels of a corpus could be read off the file sizes.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from common.media.decode import SAMPLE_RATE

VIDEO_BITS_PER_S = 200_000
AUDIO_BITS_PER_S = 48_000
AAC_FRAME_BYTES = 768
"""The most that one channel's frame may take (ISO/IEC 14496-3); decoders skip zeros behind the last element."""


def write_mp4(path: Path, *, frames: np.ndarray | None, fps: float, waveform: np.ndarray | None) -> None:
    """Writes H.264 video of uint8 [T, H, W, 3], AAC audio of float32 [S] at 16 kHz in [-1, 1], or both."""
    import av

    with av.open(str(path), "w", format="mp4") as container:
        # both streams come before the first packet, with which PyAV writes the header
        video = audio = None
        rate = Fraction(fps).limit_denominator(1001)
        if frames is not None:
            video = container.add_stream("libx264", rate=rate, options=_x264_options())
            video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
            video.bit_rate = VIDEO_BITS_PER_S
        if waveform is not None:
            audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            audio.bit_rate = AUDIO_BITS_PER_S
        if video is not None and frames is not None:
            for index, pixels in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
                picture.pts, picture.time_base = index, 1 / rate
                container.mux(video.encode(picture))
            container.mux(video.encode(None))
        if audio is not None and waveform is not None:
            frame = av.AudioFrame.from_ndarray(waveform[None, :], format="fltp", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            frame.pts, frame.time_base = 0, Fraction(1, SAMPLE_RATE)
            container.mux(list(_filled([*audio.encode(frame), *audio.encode(None)], audio)))


def _filled(packets: Iterable[Any], stream: Any) -> Iterator[Any]:
    import av

    for packet in packets:
        filled = av.Packet(bytes(packet).ljust(AAC_FRAME_BYTES, b"\0"))
        filled.pts, filled.dts, filled.time_base = packet.pts, packet.dts, packet.time_base
        filled.duration, filled.stream, filled.is_keyframe = packet.duration, stream, True
        yield filled


def _x264_options() -> dict[str, str]:
    kilobits = VIDEO_BITS_PER_S // 1000
    # no lookahead and no processor-specific code: with them the same pictures sometimes made other bytes
    constant = f"nal-hrd=cbr:filler=1:vbv-maxrate={kilobits}:vbv-bufsize={kilobits // 4}:force-cfr=1:no-asm=1"
    return {"preset": "veryfast", "tune": "zerolatency", "threads": "1", "x264-params": constant}
