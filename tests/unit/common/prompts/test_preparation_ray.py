"""What becomes of a clip: a prompt, or one failure with a name. The task's function alone; Ray is not started."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import soundfile

from common.config.data import DataConfig
from common.datasets.synthetic.mp4 import write_mp4
from common.evaluation.controls import CONDITIONS, asked_as
from common.models.qwen2_5_omni.processor import load_processor
from common.prompts.preparation import MediaSettings, prepare
from common.prompts.preparation_ray import memory_key
from common.types import Clip, Failure, ProcessedPrompt, Record

FRAMES = np.full((5, 64, 64, 3), 90, dtype=np.uint8)


def ask(
    tiny: str,
    *,
    video: Path | None,
    audio: Path | None,
    missing_audio: Literal["video_only", "skip"] = "video_only",
    max_audio_s: float = 30.0,
    max_video_s: float = 60.0,
    **changed: Any,
) -> tuple[tuple[int, int] | Failure, ProcessedPrompt | None]:
    """Decodes and processes one clip."""
    clip = Clip(clip_id="c", video_path=video and str(video), audio_path=audio and str(audio))
    record = Record(prompt_id="c", clip=clip, question="How?", label="sad", dataset="d", split="train")
    data = DataConfig(missing_audio=missing_audio, max_audio_s=max_audio_s, max_video_s=max_video_s, **changed)
    return prepare(record, MediaSettings(data=data, model_path=tiny))


def test_a_clip_becomes_a_prompt_and_its_length(tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_mp4(path, frames=FRAMES, fps=8, waveform=np.zeros(16_000, dtype=np.float32))
    size, prompt = ask(tiny, video=path, audio=path)
    assert prompt is not None
    assert size == (len(prompt.prompt_token_ids), sum(t.nbytes for t in prompt.tensors.values()))
    assert set(prompt.placeholders) == {"video", "audio"}


def test_a_clip_without_sound_is_asked_without_it(tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    write_mp4(path, frames=FRAMES, fps=8, waveform=None)
    _, prompt = ask(tiny, video=path, audio=path)
    assert prompt is not None
    assert set(prompt.placeholders) == {"video"}
    text = load_processor(tiny).tokenizer.decode(prompt.prompt_token_ids)
    assert "How?\nThe clip has no sound.<|im_end|>" in text


def test_a_clip_without_sound_is_left_out_where_told(tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    write_mp4(path, frames=FRAMES, fps=8, waveform=None)
    failure, prompt = ask(tiny, video=path, audio=path, missing_audio="skip")
    assert prompt is None
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.reason) == ("media", "no-audio-track")


def test_a_sound_alone_without_a_track_is_a_failure(tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    write_mp4(path, frames=FRAMES, fps=8, waveform=None)
    failure, _ = ask(tiny, video=None, audio=path)
    assert isinstance(failure, Failure)
    assert failure.reason == "no-audio-track"


@pytest.mark.parametrize("missing_audio", ["video_only", "skip"])
def test_a_sound_that_is_too_long_is_never_cut_nor_left_out(
    tiny: str, tmp_path: Path, missing_audio: Literal["video_only", "skip"]
) -> None:
    path = tmp_path / "clip.mp4"
    write_mp4(path, frames=FRAMES, fps=8, waveform=np.zeros(32_000, dtype=np.float32))
    failure, prompt = ask(tiny, video=path, audio=path, missing_audio=missing_audio, max_audio_s=1.5)
    assert prompt is None
    assert isinstance(failure, Failure)
    assert failure.reason == "too-long"


@pytest.mark.parametrize("num_samples", [1, 160, 320])
def test_a_sound_too_short_for_one_token_is_one_named_failure(tiny: str, tmp_path: Path, num_samples: int) -> None:
    path = tmp_path / "click.wav"
    soundfile.write(path, np.full(num_samples, 0.1), 16_000)
    failure, prompt = ask(tiny, video=None, audio=path)
    assert prompt is None
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.reason) == ("media", "too-short")
    assert failure.detail == "c: audio must last for at least one token of 40 ms, got less"


def test_a_film_whose_sound_is_too_short_for_one_token_is_the_same_failure(tiny: str, tmp_path: Path) -> None:
    write_mp4(tmp_path / "film.mp4", frames=FRAMES, fps=8, waveform=None)
    soundfile.write(tmp_path / "click.wav", np.full(160, 0.1), 16_000)
    failure, prompt = ask(tiny, video=tmp_path / "film.mp4", audio=tmp_path / "click.wav")
    assert prompt is None
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.detail[:3]) == ("too-short", "c: ")


def test_a_film_that_is_too_long_is_one_named_failure(tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    write_mp4(path, frames=np.repeat(FRAMES, 4, axis=0), fps=8, waveform=None)
    failure, prompt = ask(tiny, video=path, audio=None, max_video_s=2.0)
    assert prompt is None
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.reason) == ("media", "too-long")
    assert failure.detail == f"{path}: video must last at most 2.0 s, got 2.50 s"


@pytest.mark.parametrize("num_frames", [1, 2])
def test_one_frame_is_a_film(tiny: str, tmp_path: Path, num_frames: int) -> None:
    path = tmp_path / "film.mp4"
    write_mp4(path, frames=FRAMES[:num_frames], fps=8, waveform=None)
    _, prompt = ask(tiny, video=path, audio=None)
    assert prompt is not None
    assert set(prompt.placeholders) == {"video"}


def test_a_sound_file_alone_becomes_a_prompt(tiny: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "voice.wav", np.full(16_000, 0.1), 16_000)
    _, prompt = ask(tiny, video=None, audio=tmp_path / "voice.wav")
    assert prompt is not None
    assert set(prompt.placeholders) == {"audio"}


def test_frames_are_shaped_before_they_are_processed(tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "wide.mp4"
    write_mp4(path, frames=np.full((4, 56, 112, 3), 90, dtype=np.uint8), fps=8, waveform=None)
    grids: dict[str, list[int]] = {}
    for shape in ("keep", "pad", "square"):
        _, prompt = ask(tiny, video=path, audio=None, frame_shape=shape, max_pixels=112 * 112)
        assert prompt is not None
        grids[shape] = prompt.tensors["video_grid_thw"][0].tolist()
    # in patches of 14: half as high as wide, or square
    assert grids == {"keep": [2, 4, 8], "pad": [2, 8, 8], "square": [2, 8, 8]}


def test_a_clip_is_remembered_by_all_that_it_is_asked_with() -> None:
    records = [
        Record(
            prompt_id=label,
            clip=Clip(clip_id=label, video_path=f"{label}.mp4", audio_path=f"{label}.wav"),
            question="How?",
            label=label,
            dataset="d",
            split="test",
        )
        for label in ("sad", "happy")
    ]
    keys = {memory_key(asked_as(records, condition, classes=("sad",))[0]) for condition in CONDITIONS}
    assert len(keys) == len(CONDITIONS)
