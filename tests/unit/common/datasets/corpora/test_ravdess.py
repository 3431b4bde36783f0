"""RAVDESS: the file names are the corpus."""

from pathlib import Path

import pytest

from common.config.corpora import RavdessDataConfig
from common.datasets.corpora.ravdess import parse_code
from common.datasets.corpus import Corpus
from common.datasets.reader import read_corpus
from common.errors import DatasetError
from tests.support.media.corpora import put_ravdess


def read(root: Path, split: str = "train", *, taxonomy: str = "open", **settings: object) -> Corpus:
    """The clips of a stage."""
    config = RavdessDataConfig.model_validate({"type": "ravdess", "root": str(root), **settings})
    return read_corpus(config, split=split, taxonomy=taxonomy)


def reasons(corpus: Corpus) -> dict[str, str]:
    """The reason of each dropped clip, by id."""
    return {d.clip_id: d.reason for d in corpus.dropped}


@pytest.mark.parametrize(
    ("name", "emotion", "sentence", "actor", "fold"),
    [
        ("01-01-01-01-01-01-01", "neutral", "Kids are talking by the door.", 1, 1),
        ("01-01-02-02-01-01-04", "calm", "Kids are talking by the door.", 4, 1),
        ("01-01-06-01-02-01-05", "fear", "Dogs are sitting by the door.", 5, 2),
        ("03-01-08-01-02-01-24", "surprise", "Dogs are sitting by the door.", 24, 6),
    ],
)
def test_a_name_by_hand(name: str, emotion: str, sentence: str, actor: int, fold: int) -> None:
    code = parse_code(name)
    assert code is not None
    assert (code.emotion, code.sentence, code.actor, code.fold) == (emotion, sentence, actor, fold)


@pytest.mark.parametrize("name", ["01-01-01-02-01-01-01", "01-01-09-01-01-01-01", "01-01-03-01-01-01-25", "a"])
def test_what_the_corpus_does_not_have_is_no_code(name: str) -> None:
    assert parse_code(name) is None


def test_speech_alone_is_taken_though_song_lies_beside_it(tmp_path: Path) -> None:
    put_ravdess(tmp_path, ["01-01-03-01-01-01-01", "01-02-03-01-01-01-01", "01-01-01-01-02-01-02"])
    corpus = read(tmp_path, taxonomy="ravdess")
    assert [(r.prompt_id, r.label) for r in corpus.records] == [
        ("01-01-01-02-01-02", "neutral"),
        ("01-03-01-01-01-01", "happy"),
    ]
    assert corpus.records[0].transcript == "Dogs are sitting by the door."
    assert reasons(corpus) == {"02-03-01-01-01-01": "song"}
    assert len(read(tmp_path, song=True).records) == 3


def test_a_silent_video_gets_its_sound(tmp_path: Path) -> None:
    put_ravdess(tmp_path, ["02-01-03-01-01-01-01", "03-01-03-01-01-01-01", "02-01-04-01-01-01-01"])
    corpus = read(tmp_path)
    (record,) = corpus.records
    assert record.clip.video_path == str(tmp_path / "Actor_01" / "02-01-03-01-01-01-01.mp4")
    assert record.clip.audio_path == str(tmp_path / "Actor_01" / "03-01-03-01-01-01-01.wav")
    assert reasons(corpus) == {"01-04-01-01-01-01": "no-pair"}


def test_what_has_both_goes_before_its_halves(tmp_path: Path) -> None:
    put_ravdess(tmp_path, ["01-01-03-01-01-01-01", "02-01-03-01-01-01-01", "03-01-03-01-01-01-01"])
    (record,) = read(tmp_path).records
    assert record.clip.video_path == record.clip.audio_path
    assert "01-01-03-01-01-01-01.mp4" in str(record.clip.video_path)


def test_each_modality_alone(tmp_path: Path) -> None:
    put_ravdess(tmp_path, ["02-01-03-01-01-01-01", "03-01-04-01-01-01-01", "01-01-05-01-01-01-01"])
    video, audio = read(tmp_path, modality="video").records, read(tmp_path, modality="audio").records
    assert [(r.label, r.clip.audio_path) for r in video] == [("happy", None), ("angry", None)]
    assert [(r.label, r.clip.video_path) for r in audio] == [("sad", None), ("angry", None)]
    assert all("has no sound" in r.question for r in video)
    assert all("has no picture" in r.question for r in audio)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("03", "got 1 with sound alone; set modality to audio"),
        ("02", "got 1 with pictures alone; set modality to video"),
    ],
)
def test_one_archive_alone_needs_its_modality(tmp_path: Path, name: str, part: str) -> None:
    put_ravdess(tmp_path, [f"{name}-01-03-01-01-01-01"])
    with pytest.raises(DatasetError, match=part):
        read(tmp_path)


def test_all_clips_of_a_run_are_of_its_taxonomy(tmp_path: Path) -> None:
    put_ravdess(tmp_path, ["01-01-02-01-01-01-01", "01-01-03-01-01-01-01"])
    records = read(tmp_path, taxonomy="r1_omni").records
    assert [(r.label, r.taxonomy) for r in records] == [("neutral", "r1_omni"), ("happy", "r1_omni")]


def test_calm_is_a_class_or_left_out(tmp_path: Path) -> None:
    put_ravdess(tmp_path, ["01-01-02-01-01-01-01", "01-01-03-01-01-01-01"])
    eight, seven = read(tmp_path), read(tmp_path, calm=False, taxonomy="ravdess7")
    assert [r.label for r in eight.records] == ["calm", "happy"]
    assert {r.taxonomy for r in eight.records} == {"ravdess"}
    assert [(r.label, r.taxonomy) for r in seven.records] == [("happy", "ravdess7")]
    assert reasons(seven) == {"01-02-01-01-01-01": "calm"}


def test_folds_are_by_actor(tmp_path: Path) -> None:
    put_ravdess(tmp_path, [f"01-01-03-01-01-01-{actor:02}" for actor in range(1, 25)])
    for fold in range(1, 7):
        test = [int(r.prompt_id[-2:]) for r in read(tmp_path, "heldout", fold=fold).records]
        train = [int(r.prompt_id[-2:]) for r in read(tmp_path, fold=fold).records]
        assert test == [4 * fold - 3, 4 * fold - 2, 4 * fold - 1, 4 * fold]
        assert sorted(test + train) == list(range(1, 25))
    assert len(read(tmp_path, "heldout").records) == 24


def test_names_that_are_none_are_reported(tmp_path: Path) -> None:
    put_ravdess(tmp_path, ["01-01-03-01-01-01-01", "01-01-09-01-01-01-01"])
    assert reasons(read(tmp_path)) == {"01-01-09-01-01-01-01": "not-a-code"}


def test_a_tree_without_clips_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"must hold files called as 01-01-06-01-02-01-12\.mp4, got none"):
        read(tmp_path)
