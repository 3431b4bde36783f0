"""The conditions that a clip is asked in: what each changes, what it leaves, and where it cannot be."""

import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.datasets.corpora.r1_omni import QUESTION
from common.errors import DatasetError
from common.evaluation.controls import CONDITIONS, MEANINGS, THINK, asked_as, no_think, swapped_audio
from common.labels import DFEW
from common.types import Clip, Condition, Record


def record(name: str, *, label: str = "sad", question: str = QUESTION, has_video: bool = True) -> Record:
    """A clip whose sound is a file of its own."""
    clip = Clip(clip_id=name, video_path=f"/data/{name}.mp4" if has_video else None, audio_path=f"/data/{name}.wav")
    return Record(prompt_id=name, clip=clip, question=question, label=label, dataset="d", split="test")


def silent(name: str) -> Record:
    """A clip without sound."""
    given = record(name)
    return dataclasses.replace(given, clip=dataclasses.replace(given.clip, audio_path=None))


RECORDS = [record("a"), record("b", label="happy"), record("c", label="fear"), record("d", label="happy")]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_ids_labels_and_order_stay(condition: Condition) -> None:
    asked = asked_as(RECORDS, condition, classes=DFEW)
    assert [(r.prompt_id, r.label, r.clip.clip_id) for r in asked] == [
        (r.prompt_id, r.label, r.clip.clip_id) for r in RECORDS
    ]
    assert condition in MEANINGS


def test_as_given_is_as_given() -> None:
    assert asked_as(RECORDS, "av") == RECORDS


VIDEO_QUESTION = """\
As an emotional recognition expert; throughout the video, which has no sound, which emotion conveyed by the \
characters is the most obvious to you?
Output the thinking process in <think> </think> and final emotion in <answer> </answer> tags."""
AUDIO_QUESTION = """\
As an emotional recognition expert; throughout the recording, which has no picture, which emotion conveyed by the \
voices is the most obvious to you?
Output the thinking process in <think> </think> and final emotion in <answer> </answer> tags."""


def test_one_modality_leaves_the_other_and_is_asked_as_in_training() -> None:
    framed = record("a")
    framed = dataclasses.replace(framed, clip=dataclasses.replace(framed.clip, frames_fps=24.0))
    (seen,), (heard,) = asked_as([framed], "video_only"), asked_as([framed], "audio_only")
    assert (seen.clip.video_path, seen.clip.audio_path, seen.clip.frames_fps) == ("/data/a.mp4", None, 24.0)
    assert (heard.clip.video_path, heard.clip.audio_path, heard.clip.frames_fps) == (None, "/data/a.wav", None)
    assert (seen.question, heard.question) == (VIDEO_QUESTION, AUDIO_QUESTION)


@pytest.mark.parametrize("is_shown", [False, True])
def test_ones_own_question_says_what_is_left_behind_what_is_said(is_shown: bool) -> None:
    shown = "What is said: Go away!\n" if is_shown else ""
    given = dataclasses.replace(record("a", question=f"{shown}How?"), transcript="Go away!")
    (seen,), (heard,) = asked_as([given], "video_only"), asked_as([given], "audio_only")
    assert seen.question == f"{shown}How?\nThe clip has no sound."
    assert heard.question == f"{shown}How?\nThe clip has no picture."
    (paper,) = asked_as([dataclasses.replace(given, question=shown + QUESTION)], "audio_only")
    assert paper.question == shown + AUDIO_QUESTION


def test_what_a_clip_has_alone_is_asked_as_it_was() -> None:
    mute = dataclasses.replace(silent("a"), question=VIDEO_QUESTION)
    assert asked_as([mute], "video_only") == [mute]


@pytest.mark.parametrize(
    ("condition", "given", "lack"),
    [
        ("video_only", record("x", has_video=False), "a picture"),
        ("audio_only", silent("x"), "a sound"),
        ("swapped_audio", silent("x"), "a sound"),
        ("swapped_audio", record("x", has_video=False), "a picture"),
    ],
)
def test_what_a_clip_does_not_have_cannot_be_asked_of_it(condition: Condition, given: Record, lack: str) -> None:
    with pytest.raises(DatasetError, match=f"condition {condition} must have clips with {lack}, got 'x'"):
        asked_as([*RECORDS, given], condition)


@given(st.lists(st.sampled_from(DFEW), min_size=1, max_size=40), st.integers(0, 5))
def test_swapped_sounds_are_of_other_labels_each_once_or_it_is_a_mistake(labels: list[str], seed: int) -> None:
    records = [record(str(i), label=label) for i, label in enumerate(labels)]
    label_of = {r.clip.audio_path: r.label for r in records}
    if 2 * max(Counter(labels).values()) > len(labels):
        with pytest.raises(DatasetError, match="more than half"):
            swapped_audio(records, seed=seed)
        return
    asked = swapped_audio(records, seed=seed)
    assert all(label_of[r.clip.audio_path] != r.label for r in asked)
    assert sorted(str(r.clip.audio_path) for r in asked) == sorted(str(r.clip.audio_path) for r in records)
    assert [r.clip.video_path for r in asked] == [r.clip.video_path for r in records]


def test_which_sound_goes_where_is_the_seeds() -> None:
    records = [record(str(i), label=DFEW[i % 7]) for i in range(70)]
    assert swapped_audio(records, seed=1) == swapped_audio(records, seed=1)
    assert swapped_audio(records, seed=1) != swapped_audio(records, seed=2)
    # every label's sounds go to every other: a fixed pairing would be a label of its own kind
    label_of = {r.clip.audio_path: r.label for r in records}
    for seed in range(3):
        pairs = Counter((r.label, label_of[r.clip.audio_path]) for r in swapped_audio(records, seed=seed))
        assert len(pairs) > 30
        assert max(pairs.values()) <= 6


def test_without_thinking_only_the_instruction_changes() -> None:
    (asked,) = asked_as(RECORDS[:1], "no_think")
    assert "think" not in asked.question
    assert asked.question.startswith("As an emotional recognition expert")
    assert asked.question.endswith("\nOutput the final emotion in <answer> </answer> tags.")
    assert QUESTION.endswith(THINK), "the instruction is the corpus' own"
    plain = no_think(record("x", question="How does it sound?"))
    assert plain.question == "How does it sound?\nOutput the final emotion in <answer> </answer> tags."


def test_thinking_that_is_asked_for_in_other_words_is_not_passed_over() -> None:
    with pytest.raises(DatasetError, match="must find"):
        no_think(record("x", question="Reason in <think> tags, then answer in <answer> tags."))


def test_labels_are_listed_before_the_form() -> None:
    (asked,) = asked_as(RECORDS[:1], "label_list", classes=("happy", "sad"))
    assert asked.question.endswith(f"to you?\nChoose one of: happy, sad.\n{THINK}")
    (plain,) = asked_as([record("x", question="How?")], "label_list", classes=("happy", "sad"))
    assert plain.question == "How?\nChoose one of: happy, sad."
    with pytest.raises(DatasetError, match="must have classes"):
        asked_as(RECORDS, "label_list", classes=None)
