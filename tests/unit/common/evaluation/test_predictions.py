"""Predictions as they are read: what is refused, and where it stands."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import DatasetError
from common.evaluation.predictions import line_of, read_predictions, require_clips
from tests.support.predictions import line, without, write_lines


def test_a_prediction_comes_back_as_it_was_written(tmp_path: Path) -> None:
    full = line(
        "ü\u2028",
        labels=["sad", "fear"],
        taxonomy="open",
        video="/v.mp4",
        audio="/a.wav",
        policy_version=3,
        condition="video_only",
        failure="media/missing: no",
        think="Hm.",
    )
    path = write_lines(tmp_path / "p.jsonl", [line("a", fold=None), "", full])
    bare, found = read_predictions(path)
    assert (bare.fold, bare.condition, bare.place) == (None, "av", f"{path}:1")
    assert (found.id, found.labels, found.policy_version, found.condition) == (
        "ü\u2028",
        ("sad", "fear"),
        3,
        "video_only",
    )
    assert found.place == f"{path}:3", "blank lines are counted"
    assert line_of(found) == full
    assert line_of(bare) == line("a", fold=None, condition="av")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (without(line("x"), "text", "fold"), "a prediction must have fold, text, got"),
        (line("x", id=7), "id must be a text, got 7"),
        (line("x", text=None), "text must be a text, got None"),
        (line("x", label=""), "label must not be empty"),
        (line("x", fold="1"), "fold must be an integer or null, got '1'"),
        (line("x", fold=True), "fold must be an integer or null, got True"),
        (line("x", policy_version=1.5), "policy_version must be an integer or null, got 1.5"),
        (line("x", labels="sad"), "labels must be a list of texts, got 'sad'"),
        (line("x", condition=None), "condition must be a text, got None"),
        (line("x", condition=""), "condition must not be empty"),
        (line("x", fold=-4), "fold must be >= 1 or null, got -4"),
        (line("x", fold=0), "fold must be >= 1 or null, got 0"),
        ('{"id": ', "a line must be JSON, got"),
        ("[1]", "a line must be a JSON object, got [1]"),
        (
            line("00000", text="again"),
            "an id must stand once within dataset, fold and condition, got '00000' of dfew",
        ),
    ],
)
def test_a_bad_line_is_refused_with_its_place(tmp_path: Path, bad: dict[str, Any] | str, words: str) -> None:
    path = write_lines(tmp_path / "p.jsonl", [line("00000"), line("00001"), bad])
    with pytest.raises(DatasetError) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f"{path}:3: {words}")
    assert ";" in str(caught.value), "a remedy"


def test_both_places_of_a_duplicate_are_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", [line("a"), line("b"), line("a")])
    with pytest.raises(DatasetError, match=r"p\.jsonl:3: .* at .*p\.jsonl:1 too"):
        read_predictions(path)


def test_the_same_id_may_stand_in_another_dataset_fold_or_condition(tmp_path: Path) -> None:
    lines = [line("a"), line("a", dataset="mafw"), line("a", fold=2), line("a", condition="no_think")]
    assert len(read_predictions(write_lines(tmp_path / "p.jsonl", lines))) == 4


def test_a_file_of_nothing_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="must have lines, got none"):
        read_predictions(write_lines(tmp_path / "p.jsonl", ["", " "]))
    with pytest.raises(DatasetError, match="must be a readable JSONL file"):
        read_predictions(tmp_path / "missing.jsonl")


def corpus(path: Path, clips: list[dict[str, Any]]) -> Path:
    """A JSON list, or JSONL."""
    if path.suffix == ".json":
        path.write_text(json.dumps(clips))
        return path
    return write_lines(path, clips)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("name", ["id", "video", "prompt_id"])
def test_all_clips_are_answered(tmp_path: Path, suffix: str, name: str) -> None:
    found = read_predictions(write_lines(tmp_path / "p.jsonl", [line("a"), line("b")]))
    require_clips(found, corpus(tmp_path / f"c{suffix}", [{name: "a"}, {name: "b"}]))
    with pytest.raises(
        DatasetError,
        match=r"every clip must have a prediction, got none of 'c' for dfew, fold 1 in the condition av and of 1",
    ):
        require_clips(found, corpus(tmp_path / f"c{suffix}", [{name: x} for x in "abcd"]))
    with pytest.raises(DatasetError, match=r"p\.jsonl:2: a prediction must be of a clip in .*, got 'b'"):
        require_clips(found, corpus(tmp_path / f"c{suffix}", [{name: "a"}]))


def test_clips_are_held_against_in_every_condition_and_fold(tmp_path: Path) -> None:
    lines = [line("a"), line("b"), line("a", condition="no_think")]
    found = read_predictions(write_lines(tmp_path / "p.jsonl", lines))
    with pytest.raises(DatasetError, match="none of 'b' for dfew, fold 1 in the condition no_think and of 0"):
        require_clips(found, corpus(tmp_path / "c.json", [{"id": "a"}, {"id": "b"}]))
    folds = [{"id": "a", "dataset": "dfew", "fold": 2}, {"id": "b", "dataset": "dfew", "fold": 1}]
    with pytest.raises(DatasetError, match=r"p\.jsonl:1: a prediction must be of a clip"):
        require_clips(found[:2], corpus(tmp_path / "c.json", folds))


def test_a_clip_without_a_fold_is_to_be_answered_in_each(tmp_path: Path) -> None:
    lines = [line("a"), line("b"), line("a", fold=2)]
    found = read_predictions(write_lines(tmp_path / "p.jsonl", lines))
    with pytest.raises(DatasetError, match="none of 'b' for dfew, fold 2 in the condition av and of 0 more"):
        require_clips(found, corpus(tmp_path / "c.json", [{"id": "a"}, {"id": "b"}]))
    split = [{"id": "a", "fold": 1}, {"id": "b", "fold": 1}, {"id": "a", "fold": 2}]
    require_clips(found, corpus(tmp_path / "c.json", split))
    with pytest.raises(DatasetError, match=r"clip 3: .* none of 'a fold=3' for any condition"):
        require_clips(found, corpus(tmp_path / "c.json", [*split, {"id": "a", "fold": 3}]))


@pytest.mark.parametrize(
    ("clips", "words"),
    [
        ([{"id": "a"}, {"id": "a"}], "each clip must stand once"),
        ([{"name": "a"}], "a clip must have an id or a video"),
        ([], "must hold clips, got none"),
    ],
)
def test_bad_clips_are_refused(tmp_path: Path, clips: list[dict[str, Any]], words: str) -> None:
    found = read_predictions(write_lines(tmp_path / "p.jsonl", [line("a")]))
    with pytest.raises(DatasetError, match=words):
        require_clips(found, corpus(tmp_path / "c.json", clips))
