"""MAFW: its lists and workbooks, and the public lists."""

from pathlib import Path

import pytest

from common.config.corpora import MafwDataConfig
from common.datasets.corpus import Corpus
from common.datasets.reader import read_corpus
from common.errors import DatasetError
from common.labels import MAFW_COMPOUND
from tests.support.media.corpora import put_mafw, put_mp4, put_text, put_wav, put_workbook


def read(root: Path, split: str = "train", *, taxonomy: str = "open", **settings: object) -> Corpus:
    """The clips of a stage."""
    config = MafwDataConfig.model_validate({"type": "mafw", "root": str(root), **settings})
    return read_corpus(config, split=split, taxonomy=taxonomy)


def complaint(root: Path, **settings: object) -> str:
    """The message of the error, which is one line."""
    with pytest.raises(DatasetError) as caught:
        read(root, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message
    return message


def test_the_corpus_as_it_is_unpacked(tmp_path: Path) -> None:
    root = put_mafw(
        tmp_path / "MAFW",
        train=["00025.mp4 anger", "00026.mp4 contempt", "00027.mp4 helplessness"],
        test=["00028.mp4 disappointment", "00029.mp4 anxiety"],
        fold=3,
    )
    train, test = read(root, fold=3), read(root, "heldout", fold=3, taxonomy="r1_omni")
    assert [(r.prompt_id, r.label) for r in train.records] == [
        ("00025", "angry"),
        ("00026", "contemptuous"),
        ("00027", "helpless"),
    ]
    # the last line has no end
    assert [(r.prompt_id, r.label) for r in test.records] == [("00028", "disappointed"), ("00029", "anxious")]
    assert {(r.dataset, r.taxonomy, r.fold) for r in train.records} == {("mafw", "mafw", 3)}
    assert train.records[0].clip.video_path == str(root / "data" / "clips" / "00025.mp4")


def test_captions_are_kept(tmp_path: Path) -> None:
    put_text(
        tmp_path / "Train & Test Set/single/with_caption/set_1/train.txt",
        "\ufeff03352.mp4 happiness 女孩笑了。 A girl laughs, then turns.\r\n03353.mp4 anger\r\n",
    )
    for clip in ("03352", "03353"):
        put_mp4(tmp_path / "data" / "clips" / f"{clip}.mp4")
    first, second = read(tmp_path, captions=True).records
    assert first.caption == "女孩笑了。 A girl laughs, then turns."
    assert (second.label, second.caption) == ("angry", None)
    assert "no_caption" in complaint(tmp_path)


def test_compound_labels_are_classes_and_parts(tmp_path: Path) -> None:
    put_text(
        tmp_path / "Train & Test Set/multi/no_caption/set_1/train.txt",
        "09932.mp4 sadness_surprise\n09933.mp4 anger\n09934.mp4 helplessness_sadness_anxiety",
    )
    for clip in (9932, 9933, 9934):
        put_mp4(tmp_path / "data" / "clips" / f"{clip:05}.mp4")
    records = read(tmp_path, labels="compound", taxonomy="mafw_compound").records
    assert [(r.label, r.labels) for r in records] == [
        ("sad_surprise", ("sad", "surprise")),
        ("angry", ()),
        ("sad_anxious_helpless", ("sad", "anxious", "helpless")),
    ]
    assert all(r.label in MAFW_COMPOUND and r.taxonomy == "mafw_compound" for r in records)


HEADER: dict[int, str | float] = {0: "clip", 1: "anger", 12: "label"}
TITLE: dict[int, str | float] = {0: "MAFW single-set"}


@pytest.mark.parametrize("above", [(TITLE, HEADER), (HEADER,), ()])
def test_the_workbook_of_single_labels(tmp_path: Path, above: tuple[dict[int, str | float], ...]) -> None:
    rows: list[dict[int, str | float]] = [{0: "00025.mp4", 1: 0.9, 12: 1}, {0: 26, 12: "11"}, {0: "27", 12: 6.0}]
    put_workbook(tmp_path / "Labels" / "single-set.xlsx", [*above, *rows])
    for clip in (25, 26, 27):
        put_mp4(tmp_path / "data" / "clips" / f"{clip:05}.mp4")
    corpus = read(tmp_path, fold=None)
    # a number has lost the zeros before it
    assert [(r.prompt_id, r.label) for r in corpus.records] == [
        ("00025", "angry"),
        ("00026", "disappointed"),
        ("00027", "sad"),
    ]
    assert {r.fold for r in corpus.records} == {None}
    assert [r.prompt_id for r in read(tmp_path, "heldout", fold=None).records] == ["00025", "00026", "00027"]


def test_titles_and_footers_of_the_workbook_are_no_clips(tmp_path: Path) -> None:
    rows: list[dict[int, str | float]] = [{0: 2022}, {0: "00025.mp4", 12: 1}, {0: "00026.mp4"}, {0: "Total: 1"}]
    put_workbook(tmp_path / "single-set.xlsx", rows)
    put_mp4(tmp_path / "00025.mp4")
    corpus = read(tmp_path, fold=None)
    assert [r.prompt_id for r in corpus.records] == ["00025"]
    assert [(d.clip_id, d.reason) for d in corpus.dropped] == [
        ("00026.mp4", "no-label"),
        ("Total: 1", "not-a-clip"),
    ]
    put_workbook(tmp_path / "single-set.xlsx", [{0: "00024.mp4"}, *rows])
    assert [d.clip_id for d in read(tmp_path, fold=None).dropped] == ["00024.mp4", "00026.mp4", "Total: 1"]


def test_the_workbook_of_compound_labels(tmp_path: Path) -> None:
    put_workbook(tmp_path / "Labels" / "multi-set.xlsx", [TITLE, {0: "09932.mp4", 12: "7,6"}])
    put_mp4(tmp_path / "data" / "clips" / "09932.mp4")
    (record,) = read(tmp_path, fold=None, labels="compound").records
    assert (record.label, record.labels) == ("sad_surprise", ("sad", "surprise"))


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ([TITLE, {0: "00025.mp4", 12: 12}], "single-set.xlsx:2: a label must be a number from 1 to 11, got '12'"),
        (
            [TITLE, {0: "00025.mp4", 12: 1}, {0: "x", 12: 1}],
            "single-set.xlsx:3: a clip must be named by its number",
        ),
        (
            [{0: "00024.mp4", 1: 1}, {0: "00025.mp4", 12: 1}],
            "single-set.xlsx:1: a row must have its label in column",
        ),
        ([TITLE, {0: "00025.mp4", 11: 1}], "single-set.xlsx:2: a row must have its label in column 13"),
        ([TITLE, HEADER], "single-set.xlsx: a workbook must have a row for each clip, got none"),
    ],
)
def test_a_workbook_that_is_wrong_says_where(tmp_path: Path, rows: list[dict[int, str | float]], part: str) -> None:
    put_workbook(tmp_path / "single-set.xlsx", rows)
    put_mp4(tmp_path / "00025.mp4")
    assert part in complaint(tmp_path, fold=None)


def test_a_missing_or_invalid_workbook_is_named(tmp_path: Path) -> None:
    assert "must hold Labels/single-set.xlsx" in complaint(tmp_path, fold=None)
    put_text(tmp_path / "single-set.xlsx", "clip,label")
    assert "single-set.xlsx: must be an xlsx workbook" in complaint(tmp_path, fold=None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("annotation/MAFW_set_1_train.txt", "/data/MAFW/00025 47 3\n/data/MAFW/00026 9 0"),
        ("MAFW_set_1_train_faces.txt", "faces/00025 47 3\nfaces/00026 9 0"),
        ("single/split01/train.csv", "/d/frames/00025 /d/wav/00025.wav 3\n/d/frames/00026 /d/wav/00026.wav 0"),
    ],
)
def test_public_lists_count_from_zero(tmp_path: Path, name: str, text: str) -> None:
    put_text(tmp_path / name, text)
    for clip in (25, 26):
        put_mp4(tmp_path / "clips" / f"{clip:05}.mp4", has_audio=False)
    wav = put_wav(tmp_path / "wav" / "00025.wav")
    first, second = read(tmp_path).records
    assert (first.label, second.label) == ("happy", "angry")
    assert first.clip.audio_path == str(wav)


def test_a_public_list_is_recognized_in_any_folder(tmp_path: Path) -> None:
    put_text(tmp_path / "set_1" / "MAFW_set_1_train.txt", "/data/MAFW/00025 47 3")
    put_mp4(tmp_path / "00025.mp4")
    assert [r.label for r in read(tmp_path, lists=str(tmp_path / "set_1")).records] == ["happy"]


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (["00025.mp4 anger", "00026.mp4 hate"], "train.txt:2: a label must be made of anger, disgust"),
        (["00025.mp4 anger", "25.mp4 fear"], "train.txt:2: each clip must occur once, got '00025' at"),
        (["00025.mp4 anger_fear"], "train.txt:1: a label must be one class, got 'anger_fear'; set labels to"),
        (["00025.mp4"], "train.txt:1: a label must be made of"),
    ],
)
def test_a_list_that_is_wrong_says_where(tmp_path: Path, lines: list[str], part: str) -> None:
    assert part in complaint(put_mafw(tmp_path, train=lines, test=[]))


def test_labels_outside_the_taxonomy_are_refused_or_dropped(tmp_path: Path) -> None:
    root = put_mafw(tmp_path, train=["00025.mp4 anger", "00026.mp4 contempt"], test=[])
    with pytest.raises(DatasetError, match=r"must be in data.taxonomy \(happy, .*got 'contemptuous' of '00026'"):
        read(root, taxonomy="dfew")
    corpus = read(root, taxonomy="dfew", outside_taxonomy="drop")
    assert [r.label for r in corpus.records] == ["angry"]
    assert [(d.clip_id, d.reason) for d in corpus.dropped] == [("00026", "outside-taxonomy")]
