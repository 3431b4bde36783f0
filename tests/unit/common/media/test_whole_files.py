"""A file that broke off is refused wherever that was; one that is whole, of whatever kind, never is."""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
import pytest
import soundfile

from common.errors import MediaError
from common.media.containers import declared_bytes
from common.media.decode import SAMPLE_RATE, decode_clip
from common.types import Clip, DecodedClip
from tests.support.media.files import FASTSTART, FRAGMENTED, copy_from, cut, pictures, write_media

FRACTIONS = (0.999, 0.98, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1, 0.02)
SOUND_FILES = (".wav", ".flac", ".ogg")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of file."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


VIDEOS = (
    Kind(name="plain.mp4"),
    Kind(name="faststart.mp4", options={"options": FASTSTART}),
    Kind(name="fragmented.mp4", options={"options": FRAGMENTED}),
    Kind(name="segments.mp4", options={"options": {"movflags": "dash+frag_keyframe+skip_trailer"}}),
    Kind(name="film.mov"),
    Kind(name="film.mkv"),
    Kind(name="film.webm", options={"codecs": ("libvpx", "libopus"), "rate": 48_000}),
    Kind(name="film.avi", options={"codecs": ("mpeg4", "mp3")}),
    Kind(name="film.flv"),
)
HEALTHY = (
    *VIDEOS,
    Kind(name="2fps.mp4", options={"fps": 2.0, "num_frames": 8, "options": FASTSTART}),
    Kind(name="8fps.mp4", options={"fps": 8.0, "num_frames": 32, "options": FASTSTART}),
    Kind(name="23.976fps.mp4", options={"fps": 24000 / 1001, "num_frames": 96, "options": FASTSTART}),
    Kind(name="30fps.mp4", options={"fps": 30.0, "num_frames": 120, "options": FASTSTART}),
    Kind(name="2fps.mkv", options={"fps": 2.0, "num_frames": 8}),
    Kind(name="23.976fps-fragmented.mp4", options={"fps": 24000 / 1001, "num_frames": 96, "options": FRAGMENTED}),
    Kind(name="audio-longer.mp4", options={"num_frames": 24}),
    Kind(name="audio-longer.mkv", options={"num_frames": 24}),
    Kind(name="audio-shorter.mp4", options={"num_frames": 60}),
    Kind(name="audio-shorter-fragmented.mp4", options={"num_frames": 60, "options": FRAGMENTED}),
    Kind(name="16kHz.mp4", options={"rate": 16_000}),
    Kind(name="variable.mp4", options={"shown_ms": [40 * i + 17 * i % 37 for i in range(48)]}),
    Kind(name="variable.mkv", options={"shown_ms": [80 * i + 7 * i % 37 for i in range(48)]}),
    Kind(name="pause.mp4", options={"shown_ms": [40 * i + (1500 if i >= 40 else 0) for i in range(48)]}),
    Kind(name="one-frame.mp4", options={"num_frames": 1, "audio_s": 1.0}),
)


def decode(
    path: Path, *, has_audio: bool = True, has_video: bool = True, max_video_s: float = 60.0, max_fps: float = 100.0
) -> DecodedClip:
    """With limits that take every frame unless told."""
    clip = Clip(
        clip_id="c", video_path=str(path) if has_video else None, audio_path=str(path) if has_audio else None
    )
    return decode_clip(clip, max_fps=max_fps, max_frames=10_000, max_audio_s=60.0, max_video_s=max_video_s)


def num_frames(clip: DecodedClip) -> int:
    """Of a clip with video."""
    assert clip.frames is not None
    return len(clip.frames)


def refusal(path: Path, **asked: Any) -> MediaError:
    """The error that decoding raises."""
    with pytest.raises(MediaError) as caught:
        decode(path, **asked)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files of this module are kept."""
    return tmp_path_factory.mktemp("media")


def written(folder: Path, kind: Kind) -> Path:
    """A file of a kind, written once."""
    path = folder / kind.name
    return path if path.exists() else write_media(path, **kind.options)


# -- whole ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HEALTHY, ids=lambda k: k.name)
def test_a_whole_file_is_taken_whole(folder: Path, kind: Kind) -> None:
    got = decode(written(folder, kind))
    assert got.waveform is not None
    assert num_frames(got) == kind.options.get("num_frames", 48)
    if "shown_ms" not in kind.options:
        assert got.fps == pytest.approx(kind.options.get("fps", 12.0), rel=0.01)
    # encoders fill their last packet, and some do not take out what they begin with
    assert len(got.waveform) / SAMPLE_RATE == pytest.approx(kind.options.get("audio_s", 4.0), abs=0.1)


@pytest.mark.parametrize("suffix", SOUND_FILES)
def test_a_whole_sound_file_is_taken_whole(tmp_path: Path, suffix: str) -> None:
    soundfile.write(tmp_path / f"s{suffix}", np.random.default_rng(0).normal(0, 0.1, 64_000), 16_000)
    got = decode(tmp_path / f"s{suffix}", has_video=False)
    assert got.waveform is not None
    assert len(got.waveform) == 64_000


@pytest.mark.parametrize(("riff", "data"), [(0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFF024, 0x7FFFF000)])
def test_a_wav_that_came_through_a_pipe_declares_nothing(tmp_path: Path, riff: int, data: int) -> None:
    soundfile.write(tmp_path / "s.wav", np.full(16_000, 0.1), 16_000)
    whole = bytearray((tmp_path / "s.wav").read_bytes())
    whole[4:8], whole[40:44] = struct.pack("<I", riff), struct.pack("<I", data)
    (tmp_path / "s.wav").write_bytes(whole)
    assert declared_bytes(tmp_path / "s.wav") == len(whole)
    assert decode(tmp_path / "s.wav", has_video=False).waveform is not None


@pytest.mark.parametrize("kind", VIDEOS, ids=lambda k: k.name)
def test_a_whole_file_declares_no_more_than_it_has(folder: Path, kind: Kind) -> None:
    path = written(folder, kind)
    declared = declared_bytes(path)
    assert declared is None or declared <= path.stat().st_size
    assert (declared is None) == (path.suffix == ".flv")


@pytest.mark.parametrize("tail", [b"\0" * 4, b"\0" * 100, b"appended by something else"])
def test_what_stands_behind_a_file_is_not_its_own(folder: Path, tmp_path: Path, tail: bytes) -> None:
    for kind in VIDEOS[:6]:
        path = tmp_path / kind.name
        path.write_bytes(written(folder, kind).read_bytes() + tail)
        assert num_frames(decode(path)) == 48


# -- cut off --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("kind", VIDEOS, ids=lambda k: k.name)
def test_a_film_that_broke_off_is_undecodable(folder: Path, kind: Kind, fraction: float) -> None:
    path = written(folder, kind)
    # what stands behind the last fragment is an index that nobody needs
    whole = declared_bytes(path) or path.stat().st_size
    part = cut(path, int(whole * fraction))
    for asked in ({}, {"has_audio": False}, {"has_video": False}):
        assert refusal(part, **asked).reason == "undecodable"


def test_a_single_byte_is_missed(folder: Path) -> None:
    for kind in VIDEOS[:7]:
        path = written(folder, kind)
        whole = declared_bytes(path)
        assert whole is not None
        error = refusal(cut(path, whole - 1))
        if kind.name not in {"plain.mp4", "film.mov"}:
            assert f"the {whole} bytes that it declares, got {whole - 1}" in str(error)


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("suffix", SOUND_FILES)
def test_a_sound_that_broke_off_is_undecodable(tmp_path: Path, suffix: str, fraction: float) -> None:
    path = tmp_path / f"s{suffix}"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 64_000), 16_000)
    assert refusal(cut(path, int(path.stat().st_size * fraction)), has_video=False).reason == "undecodable"


def test_a_wav_that_broke_off_says_both_sizes(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "s.wav", np.full(16_000, 0.1), 16_000)
    part = cut(tmp_path / "s.wav", 20_000)
    assert "the 32044 bytes that it declares, got 20000" in str(refusal(part, has_video=False))


@pytest.mark.parametrize("name", ["faststart.mp4", "fragmented.mp4", "film.mkv"])
def test_a_file_of_the_right_length_with_nothing_in_its_end_is_undecodable(folder: Path, name: str) -> None:
    path = written(folder, next(kind for kind in VIDEOS if kind.name == name))
    whole = path.read_bytes()
    hollow = path.with_name(f"hollow-{name}")
    hollow.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    assert refusal(hollow).reason == "undecodable"
    error = refusal(hollow, has_video=False)
    assert error.reason == "undecodable"
    # both numbers
    assert len([word for word in str(error).split() if word.replace(".", "").isdigit()]) == 2


def test_sound_that_ends_where_it_cannot_be_decoded_is_undecodable(tmp_path: Path) -> None:
    path = write_media(tmp_path / "c.mp4", num_frames=0)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 2_000] = bytes(2_000)
    path.write_bytes(whole)
    error = refusal(path, has_video=False)
    assert error.reason == "undecodable"
    assert "s of audio that it declares, got" in str(error)


def test_a_film_without_a_fragment_is_empty(folder: Path) -> None:
    path = written(folder, VIDEOS[2])
    assert refusal(cut(path, path.read_bytes().index(b"moof") - 4)).reason == "empty"


def test_a_file_that_may_not_be_read_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("common.media.tracks.declared_bytes", forbid)
    error = refusal(written(folder, VIDEOS[0]))
    assert (error.reason, str(error).endswith("Permission denied")) == ("unreadable", True)


# -- pictures that a packet does not show ---------------------------------------------------------


@pytest.mark.parametrize("start_s", [2.5, 3.9])
@pytest.mark.parametrize("max_fps", [100.0, 3.0, 1.5])
def test_frames_that_an_edit_list_hides_are_neither_shown_nor_made_up_for(
    tmp_path: Path, start_s: float, max_fps: float
) -> None:
    source = write_media(tmp_path / "source.mp4", num_frames=96, audio_s=8.0, frames_per_key=24)
    path = copy_from(source, tmp_path / "copy.mp4", start_s=start_s)
    with av.open(str(path)) as container:
        shown = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(shown) == 96 - round(start_s * 12)
    got = decode(path, max_fps=max_fps)
    assert got.frames is not None
    assert got.fps == pytest.approx(min(12.0, max_fps), rel=0.01)
    assert num_frames(got) == pytest.approx(len(shown) * got.fps / 12, abs=1)
    for index, frame in enumerate(got.frames):
        assert np.array_equal(frame, shown[round(index * 12 / got.fps)])


@pytest.mark.parametrize("name", ["faststart.mp4", "fragmented.mp4", "film.mkv", "film.webm"])
@pytest.mark.parametrize("max_fps", [7.0, 3.0, 1.0])
def test_frames_taken_across_key_frames_are_those_that_were_asked(folder: Path, name: str, max_fps: float) -> None:
    path = written(folder, next(kind for kind in VIDEOS if kind.name == name))
    every = decode(path, has_audio=False).frames
    some = decode(path, has_audio=False, max_fps=max_fps)
    assert every is not None
    assert some.frames is not None
    assert every.shape == pictures(48).shape
    for index, frame in enumerate(some.frames):
        assert np.array_equal(frame, every[round(index * 12 / some.fps)])


def test_a_video_of_which_too_little_can_be_decoded_says_both_numbers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(folder, VIDEOS[1])
    monkeypatch.setattr("common.media.decode.num_decodable_frames", lambda _: 40)

    def repeats(*_: Any, **__: Any) -> None:
        raise decord.DECORDLimitReachedError("You have received more than 0 duplicate frames")

    monkeypatch.setattr(decord.VideoReader, "get_batch", repeats)
    error = refusal(path)
    assert error.reason == "undecodable"
    assert "must have the 48 frames that it declares, got 40" in str(error)
    monkeypatch.setattr("common.media.decode.num_decodable_frames", lambda _: 46)
    assert num_frames(decode(path)) == 46


# -- length ---------------------------------------------------------------------------------------


@pytest.fixture
def undecodable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever decodes fails."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(decord, "VideoReader", fail)
    monkeypatch.setattr(decord, "AudioReader", fail)
    monkeypatch.setattr(soundfile, "read", fail)


@pytest.mark.usefixtures("undecodable")
@pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "long-fragmented.mp4"])
def test_a_film_that_is_too_long_is_refused_before_it_is_decoded(tmp_path: Path, name: str) -> None:
    options = FRAGMENTED if "fragmented" in name else {}
    path = write_media(tmp_path / name, num_frames=140, fps=2.0, audio_s=3.0, options=options)
    error = refusal(path)
    assert error.reason == "too-long"
    assert "video must last at most 60.0 s, got " in str(error)
    if not options:
        assert "got 70.00 s" in str(error)


@pytest.mark.usefixtures("undecodable")
def test_sound_that_is_too_long_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    path = write_media(tmp_path / "c.mp4", num_frames=24, audio_s=61.0, rate=16_000)
    error = refusal(path)
    assert (error.reason, "audio must last at most 60.0 s, got 61.00 s" in str(error)) == ("too-long", True)
    soundfile.write(tmp_path / "c.wav", np.zeros(61 * 16_000), 16_000)
    error = refusal(tmp_path / "c.wav", has_video=False)
    assert (error.reason, "audio must last at most 60.0 s, got 61.00 s" in str(error)) == ("too-long", True)


def test_the_longest_video_is_taken(tmp_path: Path) -> None:
    path = write_media(tmp_path / "c.mp4", num_frames=8, fps=2.0, audio_s=0)
    assert decode(path, has_audio=False, max_video_s=4.0).frames is not None
    assert refusal(path, has_audio=False, max_video_s=3.5).reason == "too-long"


def test_a_sound_file_asked_for_its_picture_has_none(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "c.wav", np.zeros(16_000), 16_000)
    assert refusal(tmp_path / "c.wav").reason == "no-video-track"
