"""Tables of users: the configuration names the columns."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from common.config.corpora import TableDataConfig
from common.datasets.corpus import Corpus
from common.datasets.reader import read_corpus
from common.errors import DatasetError
from tests.support.media.corpora import put_text


def read(path: Path, split: str = "train", *, taxonomy: str = "open", **settings: object) -> Corpus:
    """The clips of a stage."""
    config = TableDataConfig.model_validate({"type": "table", "path": str(path), **settings})
    return read_corpus(config, split=split, taxonomy=taxonomy, question=None)


def jsonl(path: Path, rows: Sequence[object]) -> Path:
    """A line for each row."""
    return put_text(path, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))


def complaint(path: Path, **settings: object) -> str:
    """The message of the error, which is one line."""
    with pytest.raises(DatasetError) as caught:
        read(path, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message
    return message


def test_a_row_by_hand(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "key": "0025",
        "clip": "x/ü.mp4",
        "wav": "x/a.wav",
        "emotion": "sad",
        "why": "<think>t</think><answer>sad</answer>",
        "text": "I am\u2028fine.",
        "caption": "A man.",
        "ask": "How is he?",
    }
    path = jsonl(tmp_path / "own.jsonl", [row])
    config = TableDataConfig(
        type="table",
        path=str(path),
        id_column="key",
        video_column="clip",
        audio_column="wav",
        label_column="emotion",
        response_column="why",
        transcript_column="text",
        caption_column="caption",
        question_column="ask",
        taxonomy="dfew",
        media_root=str(tmp_path / "media"),
    )
    (record,) = read_corpus(config, split="train").records
    assert (record.prompt_id, record.label, record.dataset) == ("0025", "sad", "own")
    assert record.clip.video_path == str(tmp_path / "media" / "x" / "ü.mp4")
    assert record.clip.audio_path == str(tmp_path / "media" / "x" / "a.wav")
    assert (record.response, record.transcript, record.caption, record.question, record.taxonomy) == (
        row["why"],
        "I am\u2028fine.",
        "A man.",
        "How is he?",
        "dfew",
    )


def test_a_video_brings_its_own_sound_and_its_path_is_its_id(tmp_path: Path) -> None:
    (record,) = read(jsonl(tmp_path / "a.jsonl", [{"video": "v/1.mp4", "label": "happy"}])).records
    assert record.prompt_id == "v/1.mp4"
    assert record.clip.video_path == record.clip.audio_path == str(tmp_path / "v/1.mp4")


def test_a_table_of_sounds_alone(tmp_path: Path) -> None:
    (record,) = read(jsonl(tmp_path / "a.jsonl", [{"wav": "1.wav", "label": "happy"}]), audio_column="wav").records
    assert (record.clip.video_path, record.clip.audio_path) == (None, str(tmp_path / "1.wav"))
    assert "has no picture" in record.question


def test_labels_may_be_lists_and_numbers_and_empty(tmp_path: Path) -> None:
    rows = [
        {"video": "1.mp4", "label": ["happy", "surprise"]},
        {"video": "2.mp4", "label": ["sad"]},
        {"video": "3.mp4", "label": None},
        {"video": "4.mp4", "label": " "},
    ]
    corpus = read(jsonl(tmp_path / "a.jsonl", rows))
    assert [(r.label, r.labels) for r in corpus.records] == [("happy", ("happy", "surprise")), ("sad", ())]
    assert [(d.clip_id, d.reason) for d in corpus.dropped] == [("3.mp4", "no-label"), ("4.mp4", "no-label")]
    numbers = jsonl(tmp_path / "b.jsonl", [{"video": "1.mp4", "label": 1}, {"video": "2.mp4", "label": "0.0"}])
    assert [r.label for r in read(numbers, label_names=["happy", "sad"]).records] == ["sad", "happy"]


def test_labels_fold_into_the_taxonomy(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl",
        [{"video": "1.mp4", "label": "Happiness"}, {"video": "2.mp4", "label": ["bored", "anger"]}],
    )
    assert [(r.label, r.labels, r.taxonomy) for r in read(path, taxonomy="dfew").records] == [
        ("happy", (), "dfew"),
        ("angry", (), "dfew"),
    ]


def test_a_column_may_contain_the_split(tmp_path: Path) -> None:
    splits = ["train", "test", "Validation", "train", "extra"]
    rows = [{"video": f"{n}.mp4", "label": "sad", "fold": split} for n, split in enumerate(splits)]
    path = jsonl(tmp_path / "a.jsonl", rows)
    by_stage = {s: read(path, s, split_column="fold") for s in ("train", "validation", "heldout")}
    assert {s: [r.prompt_id for r in c.records] for s, c in by_stage.items()} == {
        "train": ["0.mp4", "3.mp4"],
        "validation": ["2.mp4"],
        "heldout": ["1.mp4"],
    }
    assert [(d.clip_id, d.reason) for d in by_stage["train"].dropped] == [("4.mp4", "other-split")]
    # a table without splits is one part for every stage
    assert len(read(path, "heldout").records) == 5


@pytest.mark.parametrize("blank", [None, " "])
def test_a_row_without_a_split_is_reported(tmp_path: Path, blank: str | None) -> None:
    rows: list[dict[str, Any]] = [{"video": "1.mp4", "label": "sad", "split": "train"}]
    rows += [{"video": "2.mp4", "label": "sad", "split": blank}, {"video": "3.mp4", "label": "sad"}]
    corpus = read(jsonl(tmp_path / "a.jsonl", rows), split_column="split")
    assert [r.prompt_id for r in corpus.records] == ["1.mp4"]
    assert [(d.clip_id, d.reason) for d in corpus.dropped] == [("2.mp4", "no-split"), ("3.mp4", "no-split")]
    message = complaint(jsonl(tmp_path / "b.jsonl", [{**rows[0], "split": blank}]), split_column="split")
    assert "got 1 no-split, the first: " in message
    assert "b.jsonl:1: no split; write the split into its column" in message


def test_a_file_without_a_split_beside_one_with_a_split_is_reported(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [{"video": "1.mp4", "label": "sad"}])
    jsonl(tmp_path / "extra.jsonl", [{"video": "2.mp4", "label": "sad"}])
    corpus = read(tmp_path)
    assert [r.prompt_id for r in corpus.records] == ["1.mp4"]
    assert [(d.clip_id, d.reason) for d in corpus.dropped] == [("2.mp4", "no-split")]


def test_only_folders_below_the_corpus_determine_the_split(tmp_path: Path) -> None:
    root = tmp_path / "dev" / "own"
    jsonl(root / "metadata.jsonl", [{"video": "1.mp4", "label": "sad"}])
    assert len(read(root).records) == 1
    assert read(root).parts == frozenset()
    (root / "metadata.jsonl").rename(root / "x.jsonl")
    assert read(root).parts == frozenset()
    jsonl(root / "test" / "a" / "b" / "metadata.jsonl", [{"video": "1.mp4", "label": "sad"}])
    assert read(root, "heldout").parts == frozenset({"test"})


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonl(tmp_path / "train.jsonl", [{"video": "1.mp4", "label": "sad"}])
    jsonl(tmp_path / "locked" / "more.jsonl", [{"video": "2.mp4", "label": "sad"}])
    scandir = os.scandir

    def guarded(path: str) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert f"{tmp_path}/locked must be readable, got Permission denied" in complaint(tmp_path)


def test_a_folder_of_videos_with_metadata(tmp_path: Path) -> None:
    for split, name in (("train", "1.mp4"), ("test", "2.mp4")):
        put_text(tmp_path / split / "metadata.csv", f"file_name,label\r\nclips/{name},sad\r\n")
    (train,), (test,) = read(tmp_path).records, read(tmp_path, "heldout").records
    assert train.clip.video_path == str(tmp_path / "train" / "clips" / "1.mp4")
    assert test.prompt_id == "clips/2.mp4"


def test_an_id_may_be_a_number(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"id": 7, "video": "a.mp4", "label": "sad"}])
    assert read(path, id_column="id").records[0].prompt_id == "7"


@pytest.mark.parametrize(
    ("text", "settings", "part"),
    [
        ('{"video": "a", "label": "sad"}\n{', {}, "a.jsonl:2: a line must be JSON"),
        ("[1]", {}, "a.jsonl:1: a line must be an object"),
        (
            '{"file": "a", "label": "sad"}',
            {},
            "a.jsonl:1: video_column must be a column, got 'video' beside file, label",
        ),
        ('{"video": "a"}', {}, "a.jsonl:1: label_column must be a column, got 'label' beside video"),
        ('{"video": "a", "label": 3}', {}, "a.jsonl:1: a label must be a text, got the number 3"),
        (
            '{"video": "a", "label": 3}',
            {"label_names": ["x"]},
            "a.jsonl:1: a label must be a number from 0 to 0, got 3",
        ),
        ('{"video": 3, "label": "x"}', {}, "a.jsonl:1: 'video' must be a path, got 3"),
        (
            '{"video": {"bytes": "x"}, "label": "x"}',
            {},
            "a.jsonl:1: 'video' must be a path, got the bytes of a file",
        ),
        ('{"video": null, "label": "x"}', {}, "a.jsonl:1: a row must name its clip, got no path"),
        (
            '{"video": "a", "label": "x"}\n{"video": "a", "label": "y"}',
            {},
            "each clip must occur once, got 'a' twice; remove one or name an id_column",
        ),
        ("", {}, "a.jsonl: a list must have a line for each clip, got an empty file"),
        (
            '{"video": "a", "label": "x"}',
            {"video_column": None},
            "a clip must have a video_column or an audio_column",
        ),
        ('{"video": "a", "label": null}', {}, "must have clips of the part train, got 1 no-label"),
    ],
)
def test_a_table_that_is_wrong_says_where(
    tmp_path: Path, text: str, settings: dict[str, object], part: str
) -> None:
    assert part in complaint(put_text(tmp_path / "a.jsonl", text), **settings)


def test_a_csv_that_is_wrong_says_where(tmp_path: Path) -> None:
    path = put_text(tmp_path / "a.csv", "video,label\na.mp4,sad\nb.mp4,sad,very\n")
    assert "a.csv:3: a row must have 2 cells like its header, got 3" in complaint(path)
    path = put_text(tmp_path / "open.csv", 'video,label\na.mp4,"sad\nb.mp4,sad\n')
    assert "open.csv:2: a row must be CSV, got unexpected end of data; close each quote" in complaint(path)
    path = put_text(tmp_path / "long.csv", f"video,label\na.mp4,{'x' * 200_000}\n")
    assert "long.csv:2: a row must be CSV, got field larger than field limit" in complaint(path)
    path = put_text(tmp_path / "pandas.csv", ",video,label\n0,a.mp4,sad\n")
    assert "pandas.csv:1: a header must name each column, got none for column 1" in complaint(path)
    assert "must be .jsonl, .csv, .parquet or .arrow, got '.txt'" in complaint(put_text(tmp_path / "a.txt", "x"))
    assert "no such file" in complaint(tmp_path / "none.csv")
    (tmp_path / "empty").mkdir()
    assert "a folder must hold metadata.jsonl" in complaint(tmp_path / "empty")


def test_columnar_files(tmp_path: Path) -> None:
    path = put_text(tmp_path / "data" / "train-00000-of-00001.parquet", "")
    assert "must be a readable .parquet table" in complaint(tmp_path)
    table = pyarrow.table({"video": ["1.mp4"], "label": [["sad", "fear"]]})
    pyarrow.parquet.write_table(table, path)
    pyarrow.parquet.write_table(table, path.with_name("test-00000-of-00001.parquet"))
    (record,) = read(tmp_path, "heldout").records
    assert record.labels == ("sad", "fear")
    assert record.clip.video_path == str(tmp_path / "1.mp4")
    saved = tmp_path / "saved" / "train"
    saved.mkdir(parents=True)
    target = str(saved / "data-00000-of-00001.arrow")
    with pyarrow.OSFile(target, "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert read(tmp_path / "saved").records[0].label == "sad"
