"""DFEW: its layouts, and the messages about bad files."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config.corpora import DfewDataConfig
from common.datasets.corpus import Corpus
from common.datasets.reader import read_corpus
from common.errors import DatasetError, MediaError
from common.media.decode import decode_clip
from tests.support.media.corpora import put_dfew, put_frames, put_mp4, put_text, put_wav

TRAIN = {1: 1, 2: 2, 3: 3, 4: 4}
TEST = {5: 5, 6: 6, 7: 7}


def read(root: Path, split: str = "train", **settings: object) -> Corpus:
    """The clips of a stage."""
    return read_corpus(DfewDataConfig.model_validate({"type": "dfew", "root": str(root), **settings}), split=split)


def complaint(root: Path, split: str = "train", **settings: object) -> str:
    """The message of the error, which is one line."""
    with pytest.raises(DatasetError) as caught:
        read(root, split, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message
    return message


def test_the_corpus_as_it_is_unpacked(tmp_path: Path) -> None:
    root = put_dfew(tmp_path / "DFEW", train=TRAIN, test=TEST, fold=2)
    corpus = read(root, fold=2)
    assert [(r.prompt_id, r.label) for r in corpus.records] == [
        ("1", "happy"),
        ("2", "sad"),
        ("3", "neutral"),
        ("4", "angry"),
    ]
    (first, *_) = corpus.records
    assert (first.dataset, first.taxonomy, first.fold, first.split) == ("dfew", "dfew", 2, "train")
    assert first.clip.video_path == first.clip.audio_path == str(root / "part_2" / "1.mp4")
    assert corpus.files == (str(root / "EmoLabel_DataSplit/train(single-labeled)/set_2.csv"),)
    heldout = read(root, "heldout", fold=2)
    assert [(r.label, r.split) for r in heldout.records] == [
        ("surprise", "heldout"),
        ("disgust", "heldout"),
        ("fear", "heldout"),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("label/single_trainset_1.csv", "video_name,label\n1,1\n2,7\n"),
        ("label/single_trainset_1.csv", "1,1\n2,7"),
        ("EmoLabel_DataSplit/train(single-labeled)/set_1.csv", "\ufeffvideo_name,label\r\n1,1\r\n\r\n2,7"),
        ("EmoLabel_DataSplit/train(single-labeled)/set_1.csv", "order,label,video_name\n0,1,1\n1,7,2.mp4\n"),
        ("annotation/DFEW_set_1_train.txt", "/data/DFEW clips/00001 144 0\n/data/DFEW clips/00002 24 6"),
        ("DFEW_set_1_train.txt", "x/00001\t144\t0\r\nx/00002\t24\t6\r\n"),
        ("DFEW_set_1_train.txt", "/data/a,b/00001 144 0\n/data/a,b/00002 24 6"),
        ("label/single_trainset_1.csv", "1, 1\n2, 7"),
        ("split01/train.csv", "/data/DFEW clips/00001 0\n/data/DFEW clips/00002 6"),
    ],
)
def test_each_kind_of_list_is_recognized_by_its_location(tmp_path: Path, name: str, text: str) -> None:
    put_text(tmp_path / name, text)
    for clip in (1, 2):
        put_mp4(tmp_path / "clips" / f"{clip}.mp4")
    assert [(r.prompt_id, r.label) for r in read(tmp_path).records] == [("1", "happy"), ("2", "fear")]


def test_lists_and_media_may_lie_apart(tmp_path: Path) -> None:
    put_text(tmp_path / "lists" / "DFEW_set_1_train.txt", "x/00012 9 3\n")
    put_mp4(tmp_path / "größe 視頻" / "part_1" / "12.mp4")
    (record,) = read(tmp_path, lists=str(tmp_path / "lists"), media_root=str(tmp_path / "größe 視頻")).records
    assert record.label == "angry"
    clip = decode_clip(record.clip, max_fps=12, max_frames=8, max_audio_s=5)
    assert clip.frames is not None
    assert clip.waveform is not None


def test_sounds_in_a_tree_of_their_own(tmp_path: Path) -> None:
    put_text(tmp_path / "DFEW_set_1_train.txt", "x/00001 9 3\nx/00002 9 3")
    for clip in (1, 2):
        put_mp4(tmp_path / "dfew_original_clips_24fps" / "part_1" / f"{clip}.mp4", has_audio=False)
    wav = put_wav(tmp_path / "dfew_original_clips_16khz" / "part_1" / "1.wav")
    with_sound, without = read(tmp_path).records
    assert with_sound.clip.audio_path == str(wav)
    # a video is assumed to have a track; the media stage reports that it has none
    assert without.clip.audio_path == without.clip.video_path


def test_a_clip_may_be_a_folder_of_frames(tmp_path: Path) -> None:
    put_text(tmp_path / "DFEW_set_1_train.txt", "x/00001 12 3\nx/00002 12 3")
    frames = put_frames(tmp_path / "Clip" / "jpg_256" / "00001", 12)
    put_frames(tmp_path / "Clip" / "jpg_256" / "00002", 12)
    wav = put_wav(tmp_path / "wav" / "00001.wav")
    first, second = read(tmp_path, frames_fps=6.0).records
    assert (first.clip.video_path, first.clip.audio_path) == (str(frames), str(wav))
    assert second.clip.audio_path is None
    assert "has no sound" in second.question
    clip = decode_clip(first.clip, max_fps=6, max_frames=64, max_audio_s=5)
    assert clip.fps == 6.0
    assert clip.frames is not None
    # 10.jpg comes after 9.jpg: the pattern moves by as much each time
    moved = np.abs(np.diff(clip.frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert len(clip.frames) == 12
    assert moved.max() < 1.5 * moved.min()
    fewer = decode_clip(first.clip, max_fps=3, max_frames=64, max_audio_s=5)
    assert fewer.frames is not None
    assert (len(fewer.frames), fewer.fps) == (6, 3.0)
    with pytest.raises(MediaError, match="at most 1 s") as caught:
        decode_clip(first.clip, max_fps=3, max_frames=64, max_audio_s=5, max_video_s=1)
    assert caught.value.reason == "too-long"


def test_frames_are_taken_before_a_video_where_they_are_preferred(tmp_path: Path) -> None:
    root = put_dfew(tmp_path, train={1: 1}, test={})
    put_frames(root / "Clip" / "clip_224x224" / "00001", 2)
    (video,) = read(root).records
    (frames,) = read(root, prefer_frames=True).records
    assert video.clip.video_path == str(root / "part_2" / "1.mp4")
    assert video.clip.frames_fps is None
    assert frames.clip.video_path == str(root / "Clip" / "clip_224x224" / "00001")
    assert frames.clip.audio_path == str(root / "part_2" / "1.mp4")
    assert frames.clip.frames_fps == 24.0


@pytest.mark.parametrize("spoil", ["torn", "other size", "none"])
def test_frames_that_cannot_be_read_are_named(tmp_path: Path, spoil: str) -> None:
    from PIL import Image

    folder = put_frames(tmp_path / "00001", 3)
    put_text(tmp_path / "DFEW_set_1_train.txt", "x/00001 3 3")
    (record,) = read(tmp_path).records
    if spoil == "torn":
        (folder / "2.jpg").write_bytes((folder / "2.jpg").read_bytes()[:200])
    elif spoil == "other size":
        Image.new("RGB", (8, 4)).save(folder / "2.jpg")
    else:
        for file in folder.iterdir():
            file.unlink()
    with pytest.raises(MediaError) as caught:
        decode_clip(record.clip, max_fps=24, max_frames=64, max_audio_s=5)
    assert caught.value.reason == ("empty" if spoil == "none" else "undecodable")
    assert str(folder) in str(caught.value)


def test_a_clip_without_media_is_reported(tmp_path: Path) -> None:
    root = put_dfew(tmp_path, train=TRAIN, test=TEST)
    (root / "part_3" / "2.mp4").unlink()
    corpus = read(root)
    assert [r.prompt_id for r in corpus.records] == ["1", "3", "4"]
    (dropped,) = corpus.dropped
    assert (dropped.clip_id, dropped.reason) == ("2", "missing")
    assert "set_1.csv:3" in dropped.detail


def test_validation_is_set_aside_from_training(tmp_path: Path) -> None:
    root = put_dfew(tmp_path, train={n: n % 7 + 1 for n in range(1, 41)}, test={50: 1})
    share = {"validation_share": 0.25}
    train = {r.prompt_id for r in read(root, **share).records}
    validation = {r.prompt_id for r in read(root, "validation", **share).records}
    assert not train & validation
    assert len(train | validation) == 40
    assert 4 <= len(validation) <= 16
    assert validation == {r.prompt_id for r in read(root, "validation", **share).records}
    assert validation != {r.prompt_id for r in read(root, "validation", **share, validation_seed=1).records}
    assert [r.prompt_id for r in read(root, "heldout", **share).records] == ["50"]
    assert "validation_share must be > 0" in complaint(root, "validation")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("video_name,label\n1,1\n2,8\n", "set_1.csv:3: a label must be a number from 1 to 7, got '8'"),
        ("video_name,label\n1,0\n", "set_1.csv:2: a label must be a number from 1 to 7, got '0'"),
        ("video_name,label\n1,happy\n", "set_1.csv:2: a label must be a number from 1 to 7, got 'happy'"),
        (
            "video_name,emotion\n1,1\n",
            "set_1.csv:1: a header must have the columns video_name and label",
        ),
        ("video_name,label\n1,1\n00001,2\n", "set_1.csv:3: each clip must occur once, got '1' at"),
        ("video_name,label\nfirst,1\n", "set_1.csv:2: a clip must be named by its number, got 'first'"),
        ("video_name,label\n1\n", "set_1.csv:2: a line must be video_name,label, got '1'"),
        ("x/00001 3 1\n", "set_1.csv:1: a line must be video_name,label, got 'x/00001 3 1'"),
        ("1\t1\n2\t7\n", "set_1.csv:1: a line must be video_name,label, got '1\\t1'"),
        ("1,1\n2 2\n", "set_1.csv:2: a line must be video_name,label, got '2 2'"),
        ("\r\n", "set_1.csv: a list must have a line for each clip, got an empty file"),
        ("video_name,label\n9,1\n", "must hold the media of the corpus, got none of 1 clips"),
    ],
)
def test_a_list_that_is_wrong_says_where(tmp_path: Path, text: str, part: str) -> None:
    put_text(tmp_path / "EmoLabel_DataSplit" / "train(single-labeled)" / "set_1.csv", text)
    put_mp4(tmp_path / "part_1" / "1.mp4")
    assert part in complaint(tmp_path)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("x/00001 3 7\n", "train.txt:1: a label must be a number from 0 to 6, got '7'"),
        ("x/00001 3 -1\n", "train.txt:1: a label must be a number from 0 to 6, got '-1'"),
        ("1,1\n2,7\n", "train.txt:1: a line must be path, frames and label, got '1,1'"),
    ],
)
def test_a_public_list_that_is_wrong_says_where(tmp_path: Path, text: str, part: str) -> None:
    put_text(tmp_path / "DFEW_set_1_train.txt", text)
    put_mp4(tmp_path / "part_1" / "1.mp4")
    assert part in complaint(tmp_path)


def test_a_missing_folder_or_list_is_named(tmp_path: Path) -> None:
    root = put_dfew(tmp_path / "DFEW", train=TRAIN, test=TEST)
    put_text(root / "EmoLabel_DataSplit" / "train(single-labeled)" / "set_4.csv", "1,1\n")
    assert "root must be a folder, got" in complaint(tmp_path / "none")
    assert "fold must be one of those there, 1, 4, got 3" in complaint(root, fold=3)
    assert "must hold the train list of fold 1, got none such as 'EmoLabel" in complaint(root / "part_1")
    assert "lists must be a folder" in complaint(root, lists=str(root / "none"))


def test_a_list_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = put_text(tmp_path / "DFEW_set_1_train.txt", "x")
    path.write_bytes(b"caf\xe9/00001 3 1\n")
    assert "DFEW_set_1_train.txt: a list must be UTF-8, got byte 0xe9 at 3" in complaint(tmp_path)


def test_a_clip_in_two_places_is_named(tmp_path: Path) -> None:
    root = put_dfew(tmp_path, train={1: 1}, test={})
    put_mp4(root / "other" / "1.mp4")
    message = complaint(root)
    assert "a clip must be in one place, got '1' at" in message
    assert "set media_root" in message
    assert len(read(root, media_root=str(root / "part_2")).records) == 1


def test_unused_media_may_be_in_several_places(tmp_path: Path) -> None:
    root = put_dfew(tmp_path, train={1: 1}, test={})
    put_frames(root / "Clip" / "jpg_256" / "00001", 2)
    put_frames(root / "Clip" / "clip_224x224" / "00001", 2)
    (video,) = read(root).records
    assert video.clip.video_path == str(root / "part_2" / "1.mp4")
    assert "a clip must be in one place, got '1' at" in complaint(root, prefer_frames=True)
    put_mp4(root / "other" / "1.mp4")
    put_wav(root / "wav" / "1.wav")
    folder = put_frames(tmp_path / "frames" / "00001", 2)
    (root / "Clip").rename(tmp_path.parent / f"{tmp_path.name}-away")
    # with a separate sound the videos are not used
    (frames,) = read(root, prefer_frames=True).records
    assert frames.clip.video_path == str(folder)


def test_what_cannot_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = put_dfew(tmp_path, train={1: 1, 2: 2}, test={})
    (root / "part_3" / "loop").symlink_to(root / "part_3" / "loop")
    locked = root / "part_2"
    scandir = os.scandir

    def guarded(path: str) -> Any:
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    corpus = read(root)
    assert [r.prompt_id for r in corpus.records] == ["2"]
    assert {d.clip_id: d.reason for d in corpus.dropped} == {
        "1": "missing",
        "part_2": "unreadable",
        "part_3/loop": "unreadable",
    }
    locked = root
    assert f"({root}: Permission denied)" in complaint(root)


def test_a_root_in_a_loop_of_links_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "root must be a folder" in complaint(tmp_path / "loop" / "DFEW")


def test_hidden_files_and_loops_of_links_are_no_clips(tmp_path: Path) -> None:
    root = put_dfew(tmp_path, train={1: 1}, test={})
    put_mp4(root / "part_2" / "._1.mp4")
    (root / "part_2" / "again").symlink_to(root)
    assert len(read(root).records) == 1
