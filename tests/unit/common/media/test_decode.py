"""Real files in, frames and waveforms out; every failure has its reason."""

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from common.datasets.synthetic.mp4 import write_mp4
from common.errors import MediaError
from common.media.decode import SAMPLE_RATE, decode_clip, frame_indices
from common.types import Clip, DecodedClip
from tests.support.builders import write_stereo_mp4

TONE_HZ = 440.0


def decode(
    *,
    video: Path | None = None,
    audio: Path | None = None,
    max_fps: float = 100.0,
    max_frames: int = 1000,
    max_audio_s: float = 60.0,
) -> DecodedClip:
    """With limits that cut nothing unless told."""
    clip = Clip(clip_id="c", video_path=video and str(video), audio_path=audio and str(audio))
    return decode_clip(clip, max_fps=max_fps, max_frames=max_frames, max_audio_s=max_audio_s)


def steps(num_frames: int) -> np.ndarray:
    """Each frame of one grey, apart from its neighbours by more than a codec's error."""
    levels = np.linspace(20, 235, num_frames).round().astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num_frames, 64, 64, 3)).copy()


def tone(rate: int, *, seconds: float, silence_s: float, amplitude: float) -> np.ndarray:
    """float64 [S]: silence, then 440 Hz."""
    time = np.arange(round(rate * seconds)) / rate
    return amplitude * np.sin(2 * np.pi * TONE_HZ * time) * (time >= silence_s)


def onset_s(waveform: np.ndarray) -> float:
    """When it first reaches a fifth of its loudest."""
    return float(np.argmax(np.abs(waveform) > 0.2 * np.abs(waveform).max())) / SAMPLE_RATE


def loudest_tone(waveform: np.ndarray) -> tuple[float, float]:
    """Frequency and amplitude over the middle second."""
    middle = waveform[len(waveform) // 2 - 8_000 : len(waveform) // 2 + 8_000]
    window = np.hanning(len(middle))
    spectrum = np.abs(np.fft.rfft(middle * window))
    peak = int(spectrum.argmax())
    return peak * SAMPLE_RATE / len(middle), float(2 * spectrum[peak] / window.sum())


# -- frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [8, 12, 12.5, 25, 29.97])
def test_every_frame_comes_back_at_the_files_own_rate(tmp_path: Path, fps: float) -> None:
    frames = steps(20)
    write_mp4(tmp_path / "v.mp4", frames=frames, fps=fps, waveform=None)
    got = decode(video=tmp_path / "v.mp4")
    assert got.frames is not None
    assert got.frames.shape == (20, 64, 64, 3)
    assert got.frames.dtype == np.uint8
    assert got.fps == pytest.approx(fps, rel=1e-6)
    assert got.waveform is None
    # in order: each nearer to itself than to its neighbours
    assert np.abs(got.frames.mean(axis=(1, 2, 3)) - frames.mean(axis=(1, 2, 3))).max() < 4


def test_colours_come_back_red_first(tmp_path: Path) -> None:
    frames = np.zeros((4, 64, 64, 3), dtype=np.uint8)
    frames[..., 0] = 200
    write_mp4(tmp_path / "v.mp4", frames=frames, fps=8, waveform=None)
    got = decode(video=tmp_path / "v.mp4").frames
    assert got is not None
    assert got[..., 0].mean() == pytest.approx(200, abs=6)
    assert got[..., 1:].mean() < 10


def test_frames_are_taken_at_the_lower_rate(tmp_path: Path) -> None:
    frames = steps(24)
    write_mp4(tmp_path / "v.mp4", frames=frames, fps=24, waveform=None)
    got = decode(video=tmp_path / "v.mp4", max_fps=8.0)
    assert got.fps == 8.0
    assert got.frames is not None
    assert np.abs(got.frames.mean(axis=(1, 2, 3)) - frames[::3].mean(axis=(1, 2, 3))).max() < 4


def test_a_single_frame_is_a_video(tmp_path: Path) -> None:
    write_mp4(tmp_path / "v.mp4", frames=steps(1), fps=8, waveform=None)
    got = decode(video=tmp_path / "v.mp4")
    assert got.frames is not None
    assert len(got.frames) == 1


@given(st.integers(1, 3000), st.floats(0.5, 120), st.floats(0.1, 60), st.integers(1, 200))
def test_taken_frames_keep_to_both_limits(num_frames: int, fps: float, max_fps: float, max_frames: int) -> None:
    indices, rate = frame_indices(num_frames, fps, max_fps=max_fps, max_frames=max_frames)
    assert 1 <= len(indices) <= max_frames
    assert indices[0] >= 0
    assert indices[-1] < num_frames
    assert (np.diff(indices) > 0).all()
    assert rate <= min(fps, max_fps) * (1 + 1e-9)
    # each is the frame nearest to its tick
    assert np.abs(indices - np.arange(len(indices)) * fps / rate).max() <= 0.5 + 1e-6


@given(st.integers(1, 3000), st.floats(0.5, 120))
def test_nothing_is_dropped_within_the_limits(num_frames: int, fps: float) -> None:
    indices, rate = frame_indices(num_frames, fps, max_fps=fps, max_frames=num_frames)
    assert indices.tolist() == list(range(num_frames))
    assert rate == fps


@given(st.integers(2, 3000), st.floats(0.5, 120), st.floats(0.1, 60), st.integers(2, 200))
def test_taken_frames_cover_the_clip(num_frames: int, fps: float, max_fps: float, max_frames: int) -> None:
    indices, rate = frame_indices(num_frames, fps, max_fps=max_fps, max_frames=max_frames)
    # what lies behind the last tick is less than two of them, and a frame is at most half a frame off
    assert num_frames - indices[-1] <= 2 * fps / rate + 0.5 + 1e-6


# -- sound ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp4"])
def test_a_stereo_tone_comes_back_as_the_mean_of_its_channels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tone.{suffix}"
    channels = np.stack([tone(44_100, seconds=2.0, silence_s=0.5, amplitude=a) for a in (0.6, 0.2)])
    if suffix == "mp4":
        write_stereo_mp4(path, channels.astype(np.float32), rate=44_100)
    else:
        soundfile.write(path, channels.T, 44_100)
    waveform = decode(audio=path).waveform
    assert waveform is not None
    assert waveform.dtype == np.float32
    frequency, amplitude = loudest_tone(waveform)
    assert frequency == pytest.approx(TONE_HZ, abs=1.0)
    assert amplitude == pytest.approx(0.4, rel=0.03)
    assert onset_s(waveform) == pytest.approx(0.5, abs=0.002)
    # AAC fills its last packet
    assert 0 <= len(waveform) - 2 * SAMPLE_RATE <= 1024


def test_opposite_channels_cancel(tmp_path: Path) -> None:
    left = tone(16_000, seconds=0.5, silence_s=0.0, amplitude=0.5)
    soundfile.write(tmp_path / "s.wav", np.stack([left, -left]).T, 16_000, subtype="FLOAT")
    waveform = decode(audio=tmp_path / "s.wav").waveform
    assert waveform is not None
    assert float(np.abs(waveform).max()) < 1e-6


def test_mono_at_the_right_rate_is_left_as_it_is(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 5_000).astype(np.float32)
    soundfile.write(tmp_path / "m.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    waveform = decode(audio=tmp_path / "m.wav").waveform
    assert waveform is not None
    assert np.array_equal(waveform, samples)


def test_our_own_clips_keep_sound_and_picture_together(tmp_path: Path) -> None:
    waveform = tone(SAMPLE_RATE, seconds=2.0, silence_s=0.5, amplitude=0.5).astype(np.float32)
    write_mp4(tmp_path / "c.mp4", frames=steps(16), fps=8, waveform=waveform)
    got = decode(video=tmp_path / "c.mp4", audio=tmp_path / "c.mp4").waveform
    assert got is not None
    assert onset_s(got) == pytest.approx(0.5, abs=0.002)
    assert loudest_tone(got)[1] == pytest.approx(0.5, rel=0.03)


# -- failures -------------------------------------------------------------------------------------


def reason_of(**paths: Path) -> str:
    """Of the `MediaError` that decoding raises; its message names the file."""
    with pytest.raises(MediaError) as caught:
        decode(**paths)  # pyright: ignore[reportArgumentType]
    assert str(next(iter(paths.values()))) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["video", "audio"])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.wav"])
def test_a_missing_file_says_so(tmp_path: Path, kind: str, name: str) -> None:
    assert reason_of(**{kind: tmp_path / name}) == "missing"


@pytest.mark.parametrize("kind", ["video", "audio"])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.wav"])
def test_a_file_without_bytes_is_empty(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert reason_of(**{kind: tmp_path / name}) == "empty"


@pytest.mark.parametrize("kind", ["video", "audio"])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.wav"])
def test_a_text_file_is_undecodable(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / name).write_text("this is no media\n" * 99)
    assert reason_of(**{kind: tmp_path / name}) == "undecodable"


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_a_file_that_was_cut_off_is_undecodable(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    noise, hiss = rng.integers(0, 256, (16, 64, 64, 3), dtype=np.uint8), rng.normal(0, 0.1, 32_000)
    write_mp4(tmp_path / "c.mp4", frames=noise, fps=8, waveform=hiss.astype(np.float32))
    whole = (tmp_path / "c.mp4").read_bytes()
    (tmp_path / "c.mp4").write_bytes(whole[: len(whole) // 2])
    assert reason_of(**{kind: tmp_path / "c.mp4"}) == "undecodable"


def test_a_stream_that_was_cut_off_behind_its_index_is_undecodable(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)
    with av.open(str(tmp_path / "c.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=8, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for pixels in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    whole = (tmp_path / "c.mp4").read_bytes()
    (tmp_path / "c.mp4").write_bytes(whole[: len(whole) // 2])
    assert reason_of(video=tmp_path / "c.mp4") == "undecodable"


def test_a_sound_asked_for_its_picture_has_no_track(tmp_path: Path) -> None:
    write_mp4(tmp_path / "c.mp4", frames=None, fps=8, waveform=np.zeros(16_000, dtype=np.float32))
    assert reason_of(video=tmp_path / "c.mp4") == "no-video-track"


def test_a_video_without_sound_has_no_track(tmp_path: Path) -> None:
    write_mp4(tmp_path / "c.mp4", frames=steps(4), fps=8, waveform=None)
    assert reason_of(audio=tmp_path / "c.mp4") == "no-audio-track"


def test_a_sound_without_samples_is_empty(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "e.wav", np.zeros((0, 1)), 16_000)
    assert reason_of(audio=tmp_path / "e.wav") == "empty"


def test_a_sound_with_nan_is_undecodable(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "n.wav", np.array([0, np.nan, 1], dtype=np.float32), 16_000, subtype="FLOAT")
    assert reason_of(audio=tmp_path / "n.wav") == "undecodable"


def test_a_longer_sound_is_refused_and_the_longest_is_not(tmp_path: Path) -> None:
    path = tmp_path / "l.wav"
    soundfile.write(path, np.zeros(16_001), 16_000)
    assert decode(audio=path, max_audio_s=1.001).waveform is not None
    with pytest.raises(MediaError, match=r"at most 1\.0 s, got 1\.00 s") as caught:
        decode(audio=path, max_audio_s=1.0)
    assert caught.value.reason == "too-long"
