"""Corpora in R1-Omni's JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.config.corpora import R1OmniDataConfig
from common.config.questions import QUESTION
from common.datasets.corpora.r1_omni import load_r1_omni
from common.datasets.reader import read_corpus
from common.errors import DatasetError
from common.types import Record


def item(video: str = "a.mp4", *, human: str = "<video>\n<audio>\nWhat?", gpt: str = "happy") -> dict[str, Any]:
    """One record as R1-Omni writes it."""
    return {
        "video": video,
        "conversations": [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}],
    }


def load(
    folder: Path, items: object, *, media_root: Path | None = None, question: str | None = None
) -> list[Record]:
    """The records of a file with these items."""
    (folder / "mafw.json").write_text(items if isinstance(items, str) else json.dumps(items))
    return load_r1_omni(folder / "mafw.json", media_root=media_root, question=question, split="train")


def test_a_record_by_hand(tmp_path: Path) -> None:
    (record,) = load(tmp_path, [item("clips/a.mp4")])
    assert (record.prompt_id, record.label, record.dataset, record.split) == (
        "clips/a.mp4",
        "happy",
        "mafw",
        "train",
    )
    assert record.clip.video_path == record.clip.audio_path == str(tmp_path / "clips/a.mp4")
    assert record.clip.clip_id == "clips/a.mp4"
    # the paper asks the same question of every clip; that of the record is unused
    assert record.question == QUESTION


def test_the_papers_question() -> None:
    assert QUESTION == (
        "As an emotional recognition expert; throughout the video, which emotion conveyed by the characters "
        "is the most obvious to you?\nOutput the thinking process in <think> </think> and final emotion in "
        "<answer> </answer> tags."
    )


@pytest.mark.parametrize(
    ("human", "has_video", "has_audio"),
    [
        ("<video>\n<audio>\nQ", True, True),
        ("<video>\nQ", True, False),
        ("<audio>\nQ", False, True),
    ],
)
def test_tags_state_the_modalities(tmp_path: Path, human: str, has_video: bool, has_audio: bool) -> None:
    (record,) = load(tmp_path, [item(human=human)])
    assert (record.clip.video_path is not None, record.clip.audio_path is not None) == (has_video, has_audio)


@pytest.mark.parametrize(
    ("gpt", "label"),
    [
        ("sad", "sad"),
        (" sad\n", "sad"),
        ("<think>x</think>\n<answer>\nsad </answer>", "sad"),
        ("<answer>a b</answer>", "a b"),
    ],
)
def test_a_label_is_bare_or_in_its_tag(tmp_path: Path, gpt: str, label: str) -> None:
    assert load(tmp_path, [item(gpt=gpt)])[0].label == label


def test_paths_start_from_the_media_root(tmp_path: Path) -> None:
    (record,) = load(tmp_path, [item("x/a.mp4")], media_root=Path("/media/faces"))
    assert record.clip.video_path == "/media/faces/x/a.mp4"
    (absolute,) = load(tmp_path, [item("/abs/a.mp4")], media_root=Path("/media/faces"))
    assert absolute.clip.video_path == "/abs/a.mp4"


@pytest.mark.parametrize("media_root", [None, "media", "~/media"])
@pytest.mark.parametrize("path", ["mafw.json", "./sub/../mafw.json", "~/mafw.json"])
def test_paths_start_from_the_working_directory_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, media_root: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mafw.json").write_text(json.dumps([item("x/a.mp4")]))
    (record,) = load_r1_omni(path, media_root=media_root, question=None, split="train")
    # paths must be absolute: a worker has another working directory
    expected = tmp_path / "media" if media_root else tmp_path
    assert record.clip.video_path == str(expected / "x/a.mp4")
    assert record.prompt_id == "x/a.mp4"


def test_clips_lie_beside_a_link_to_the_corpus(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "blobs" / "0123").write_text(json.dumps([item("a.mp4")]))
    (tmp_path / "snapshot" / "mafw.json").symlink_to("../blobs/0123")
    (record,) = load_r1_omni(tmp_path / "snapshot" / "mafw.json", media_root=None, question=None, split="train")
    assert (record.clip.video_path, record.dataset) == (str(tmp_path / "snapshot" / "a.mp4"), "mafw")


def test_a_configured_question_replaces_that_of_the_paper(tmp_path: Path) -> None:
    assert load(tmp_path, [item()], question="Warum?")[0].question == "Warum?"


@pytest.mark.parametrize(
    ("items", "part"),
    [
        ([item("a.mp4"), item("b.mp4"), item("a.mp4")], "'a.mp4' twice"),
        ([item(), {"video": "b.mp4"}], "record 1"),
        ([item(), item("b.mp4", human="What?")], "record 1 must say <video>, <audio> or both"),
        ([{"conversations": item()["conversations"]}], "record 0"),
        ([item(), {"video": "b.mp4", "conversations": [{"value": "<video>"}]}], "record 1"),
        ([item(), "b.mp4"], "record 1"),
        ([item(gpt="  ")], "record 0 must have a label"),
        ([item(gpt="<answer> </answer>")], "record 0 must have a label"),
        ([{**item(), "video": None}], "record 0"),
        ([{**item(), "conversations": [{"value": 3}, {"value": 4}]}], "record 0"),
        ([], "must hold a list of records"),
        ({"video": "a"}, "must hold a list of records"),
        ("{", "must be JSON"),
        ("", "got an empty file"),
        (" \n", "got an empty file"),
    ],
)
def test_a_corpus_that_is_wrong_says_where(tmp_path: Path, items: object, part: str) -> None:
    with pytest.raises(DatasetError) as caught:
        load(tmp_path, items)
    assert part in str(caught.value)
    assert "mafw.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a corpus must be a readable file, got .*none\.json"):
        load_r1_omni(tmp_path / "none.json", media_root=None, question=None, split="train")


def test_the_full_response_is_kept(tmp_path: Path) -> None:
    whole = "<think>The mouth\nsmiles.</think>\n<answer>happy</answer>"
    items = [item("a.mp4", gpt=f" {whole}\n"), item("b.mp4", gpt="sad")]
    assert [(r.response, r.label) for r in load(tmp_path, items)] == [(whole, "happy"), ("sad", "sad")]


def test_a_label_outside_the_taxonomy_is_named_with_its_clip(tmp_path: Path) -> None:
    (tmp_path / "mafw.json").write_text(json.dumps([item("a.mp4", gpt="sad"), item("b.mp4", gpt="bored")]))
    source = R1OmniDataConfig(type="r1_omni", path=str(tmp_path / "mafw.json"))
    with pytest.raises(DatasetError, match=r"\(happy, sad, .*\), got 'bored' of 'b\.mp4'; correct it") as caught:
        read_corpus(source, split="train", taxonomy="dfew")
    assert "mafw.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_fold_into_the_taxonomy(tmp_path: Path) -> None:
    items = [item("a.mp4", gpt="happiness"), item("b.mp4", gpt="<think>x</think><answer>Anger</answer>")]
    (tmp_path / "mafw.json").write_text(json.dumps(items))
    source = R1OmniDataConfig(type="r1_omni", path=str(tmp_path / "mafw.json"))
    records = read_corpus(source, split="train", taxonomy="dfew").records
    assert [(r.label, r.taxonomy) for r in records] == [("happy", "dfew"), ("angry", "dfew")]


def test_a_corpus_is_utf8_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    text = json.dumps([item("größe 視頻.mp4")], ensure_ascii=False)
    for name, mark in (("a", "\ufeff"), ("b", "")):
        (tmp_path / f"{name}.json").write_bytes((mark + text).encode())
    command = (
        "import sys; from common.datasets.corpora.r1_omni import load_r1_omni as load\n"
        "for path in sys.argv[1:]:\n"
        "    print(ascii(load(path, media_root=None, question=None, split='train')[0].prompt_id))"
    )
    # with a locale whose encoding is not UTF-8
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", command, str(tmp_path / "a.json"), str(tmp_path / "b.json")],
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [ascii("größe 視頻.mp4")] * 2, done.stderr
