"""Conditions of a clip: what is taken away is gone, everything else stays bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from common.config.data import DataConfig
from common.datasets.synthetic.mp4 import write_mp4
from common.errors import MediaError
from common.media.conditions import audio_donor, presented
from common.prompts.preparation import MediaSettings, prepare
from common.prompts.preparation_ray import memory_key
from common.types import Clip, Condition, DecodedClip, Failure, ProcessedPrompt, Record

WAVE = np.sin(np.arange(16_000, dtype=np.float32) / 9) * np.float32(0.3)
OTHER_WAVE = np.sin(np.arange(24_000, dtype=np.float32) / 5) * np.float32(0.2)
FRAMES = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), dtype=np.uint8)
DECODED = DecodedClip(frames=FRAMES, fps=8.0, waveform=WAVE)


def record_of(name: str, *, label: str = "sad", video: Path | None = None, audio: Path | None = None) -> Record:
    """Over files."""
    clip = Clip(clip_id=name, video_path=video and str(video), audio_path=audio and str(audio))
    return Record(prompt_id=name, clip=clip, question="How?", label=label, dataset="d", split="train")


def asked(tiny: str, record: Record, *how: Any) -> tuple[ProcessedPrompt | None, Failure | None]:
    """The prompt, or why there is none."""
    settings = MediaSettings(data=DataConfig(), model_path=tiny)
    found, prompt = prepare(record, settings, *how)
    return prompt, found if isinstance(found, Failure) else None


def prompt_in(tiny: str, record: Record, *how: Any) -> ProcessedPrompt:
    """The prompt."""
    prompt, failure = asked(tiny, record, *how)
    assert prompt is not None, failure
    return prompt


@pytest.fixture
def sad(tmp_path: Path) -> Record:
    """A film with its sound inside."""
    path = tmp_path / "sad.mp4"
    write_mp4(path, frames=FRAMES, fps=8, waveform=WAVE)
    return record_of("sad", video=path, audio=path)


@pytest.fixture
def happy(tmp_path: Path) -> Record:
    """A sound of another label and length."""
    path = tmp_path / "happy.wav"
    soundfile.write(path, OTHER_WAVE, 16_000)
    return record_of("happy", label="happy", audio=path)


def test_a_muted_clip_keeps_its_length_and_its_picture() -> None:
    muted = presented(DECODED, "audio_muted")
    assert muted.waveform is not None
    assert (muted.waveform.shape, muted.waveform.dtype, float(np.abs(muted.waveform).max())) == (
        (16_000,),
        np.float32,
        0,
    )
    assert muted.frames is FRAMES


def test_a_blanked_clip_keeps_its_shape_and_its_sound() -> None:
    blanked = presented(DECODED, "video_blanked")
    assert blanked.frames is not None
    assert (blanked.frames.shape, blanked.frames.dtype, int(blanked.frames.max())) == (FRAMES.shape, np.uint8, 0)
    assert (blanked.waveform is WAVE, blanked.fps) == (True, 8.0)


def test_a_clip_as_given_is_the_clip() -> None:
    assert presented(DECODED, "av") is DECODED


@pytest.mark.parametrize(
    ("condition", "reason", "left"),
    [
        ("audio_muted", "no-audio-track", DecodedClip(frames=FRAMES, fps=8.0, waveform=None)),
        ("audio_swapped", "no-audio-track", DecodedClip(frames=FRAMES, fps=8.0, waveform=None)),
        ("video_blanked", "no-video-track", DecodedClip(frames=None, fps=0.0, waveform=WAVE)),
    ],
)
def test_what_is_not_there_cannot_be_taken_away(condition: Condition, reason: str, left: DecodedClip) -> None:
    with pytest.raises(MediaError, match=f"{condition} must have a clip with a") as caught:
        presented(left, condition, sound=OTHER_WAVE)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("condition", "changed"),
    [
        ("av", set[str]()),
        ("audio_muted", {"input_features"}),
        ("video_blanked", {"pixel_values_videos"}),
    ],
)
def test_a_prompts_tokens_stay_and_only_what_was_taken_changes(
    condition: Condition, changed: set[str], tiny: str, sad: Record
) -> None:
    given, other = prompt_in(tiny, sad), prompt_in(tiny, sad, condition)
    assert other.prompt_token_ids == given.prompt_token_ids
    assert {n for n, t in given.tensors.items() if not np.array_equal(t, other.tensors[n])} == changed
    assert (other.clip_hash != given.clip_hash) == bool(changed)


def test_a_swapped_sound_is_the_other_clips_and_the_picture_stays(tiny: str, sad: Record, happy: Record) -> None:
    given, alone = prompt_in(tiny, sad), prompt_in(tiny, happy)
    swapped = prompt_in(tiny, sad, "audio_swapped", happy)
    assert np.array_equal(swapped.tensors["input_features"], alone.tensors["input_features"])
    assert np.array_equal(swapped.tensors["pixel_values_videos"], given.tensors["pixel_values_videos"])


def test_a_film_whose_track_is_missing_is_asked_without_it_and_never_muted(tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    write_mp4(path, frames=FRAMES, fps=8, waveform=None)
    silent = record_of("silent", video=path, audio=path)
    assert set(prompt_in(tiny, silent).placeholders) == {"video"}
    assert set(prompt_in(tiny, silent, "video_blanked").placeholders) == {"video"}
    _, failure = asked(tiny, silent, "audio_muted")
    assert failure is not None
    assert (failure.stage, failure.reason) == ("media", "no-audio-track")


def test_a_sound_that_cannot_be_lent_is_not_the_clips_fault(tiny: str, sad: Record, tmp_path: Path) -> None:
    path = tmp_path / "mute.mp4"
    write_mp4(path, frames=FRAMES, fps=8, waveform=None)
    _, failure = asked(tiny, sad, "audio_swapped", record_of("mute", label="happy", video=path, audio=path))
    assert failure is not None
    assert failure.reason == "lent-no-audio-track"
    assert "mute.mp4" in failure.detail


def test_who_lends_a_sound_has_another_label_and_is_always_the_same() -> None:
    sound = Path("/data/a.wav")
    records = [record_of(f"{label}-{i}", label=label, audio=sound) for i in range(30) for label in ("sad", "happy")]
    records.append(record_of("unheard", label="fear", video=Path("/data/a.mp4")))
    asked = [record for record in records if record.label == "sad"]
    donors = [audio_donor(record, records) for record in asked]
    assert {lender.label for lender in donors} == {"happy"}
    assert [audio_donor(record, records) for record in asked] == donors
    assert len({lender.prompt_id for lender in donors}) > 10


def test_nobody_lends_a_sound_of_the_same_label() -> None:
    records = [record_of(f"sad-{i}", audio=Path("/data/a.wav")) for i in range(3)]
    with pytest.raises(
        MediaError, match="must have a clip with a label other than 'sad' and a sound, got none"
    ) as caught:
        audio_donor(records[0], records)
    assert caught.value.reason == "no-other-sound"


def test_a_clip_is_remembered_by_its_condition_and_by_who_lends_its_sound(sad: Record, happy: Record) -> None:
    other = record_of("other", audio=Path("/data/other.wav"))
    keys = [
        memory_key(sad),
        memory_key(sad, condition="audio_muted"),
        memory_key(sad, condition="video_blanked"),
        memory_key(sad, condition="audio_swapped", sound=happy),
        memory_key(sad, condition="audio_swapped", sound=other),
    ]
    assert len(set(keys)) == len(keys)
    assert memory_key(sad, condition="av") == memory_key(sad)
