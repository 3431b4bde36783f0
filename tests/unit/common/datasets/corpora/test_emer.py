"""EMER, OV-MERD and the MER challenges: reasons, open labels and subtitles in two languages."""

from pathlib import Path

import pytest

from common.config.corpora import EmerDataConfig
from common.datasets.corpora.emer import open_labels
from common.datasets.corpus import Corpus
from common.datasets.reader import read_corpus
from common.errors import DatasetError
from tests.support.media.corpora import put_mp4, put_text, put_wav


def read(root: Path, variant: str, *, split: str = "train", taxonomy: str = "open", **settings: object) -> Corpus:
    """The clips of a stage."""
    config = EmerDataConfig.model_validate({"type": "emer", "root": str(root), "variant": variant, **settings})
    return read_corpus(config, split=split, taxonomy=taxonomy)


def complaint(root: Path, variant: str, **settings: object) -> str:
    """The message of the error, which is one line."""
    with pytest.raises(DatasetError) as caught:
        read(root, variant, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message
    return message


def put_ovmerd(root: Path, *, reasons: str = 'name,reason\na,"He smiles, and laughs."\n') -> Path:
    """OV-MERD as Hugging Face has it."""
    put_text(
        root / "track2_train_ovmerd.csv", "name,openset\na,\"['Happy', 'nostalgic']\"\nb,\"[worried]\"\nc,[]\n"
    )
    put_text(root / "track3_train_ovmerd.csv", reasons)
    put_text(root / "subtitle_chieng.csv", 'name,chinese,english\na,你好。,"Hello, you."\nb,,\n')
    for name in ("a", "b"):
        put_mp4(root / "video" / f"{name}.mp4")
    put_wav(root / "audio" / "a.wav")
    put_text(root / "openface_face" / "a" / "a.npy", "x")
    return root


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("['happy', 'at ease']", ("happy", "at ease")),
        ("[worried]", ("worried",)),
        ("Sad, sad; Angry.", ("sad", "angry")),
        ("惊讶\uff0c生气、难过", ("惊讶", "生气", "难过")),
        ("[]", ()),
        ("", ()),
    ],
)
def test_open_labels_by_hand(text: str, labels: tuple[str, ...]) -> None:
    assert open_labels(text) == labels


def test_ovmerd_as_it_is_published(tmp_path: Path) -> None:
    root = put_ovmerd(tmp_path)
    corpus = read(root, "ovmerd")
    first, second = corpus.records
    assert (first.label, first.labels, first.taxonomy, first.dataset) == (
        "happy",
        ("happy", "nostalgic"),
        "open",
        "ovmerd",
    )
    assert first.response == "<think>He smiles, and laughs.</think>\n<answer>happy</answer>"
    assert first.transcript == "Hello, you."
    assert first.clip.audio_path == str(root / "audio" / "a.wav")
    assert (second.label, second.labels, second.response, second.transcript) == ("worried", (), None, None)
    assert second.clip.audio_path == second.clip.video_path
    assert [(d.clip_id, d.reason) for d in corpus.dropped] == [("c", "no-label")]
    assert [Path(f).name for f in corpus.files] == [
        "track2_train_ovmerd.csv",
        "track3_train_ovmerd.csv",
        "subtitle_chieng.csv",
    ]
    assert read(root, "ovmerd", language="chinese").records[0].transcript == "你好。"


def test_open_labels_fold_and_the_answer_is_the_folded_one(tmp_path: Path) -> None:
    root = put_ovmerd(tmp_path, reasons="name,reason\nb,He frowns.\n")
    records = read(root, "ovmerd", taxonomy="r1_omni").records
    assert [(r.label, r.labels, r.taxonomy) for r in records] == [
        ("happy", (), "r1_omni"),
        ("anxious", (), "r1_omni"),
    ]
    assert records[1].response == "<think>He frowns.</think>\n<answer>anxious</answer>"


def test_a_reason_without_a_label_is_reported(tmp_path: Path) -> None:
    root = put_ovmerd(tmp_path, reasons="name,reason\nz,He frowns.\n")
    assert ("z", "no-label") in [(d.clip_id, d.reason) for d in read(root, "ovmerd").dropped]


def test_the_cold_start_takes_clips_with_reasons_alone(tmp_path: Path) -> None:
    corpus = read(put_ovmerd(tmp_path), "ovmerd", split="cold_start")
    assert [r.prompt_id for r in corpus.records] == ["a"]
    assert [(d.clip_id, d.reason) for d in corpus.dropped] == [("b", "no-reason"), ("c", "no-label")]
    put_text(tmp_path / "track3_train_ovmerd.csv", "name,reason\na,\n")
    message = complaint(tmp_path, "ovmerd", split="cold_start")
    assert "got 2 no-reason, 1 no-label" in message
    assert "track2_train_ovmerd.csv:2: 'a' has no reason; name the table of the reasons" in message


def test_emer_v1_is_one_table(tmp_path: Path) -> None:
    put_text(
        tmp_path / "gt-eng.csv",
        '\ufeffnames,emotions,subtitles,reasons\r\nsample_1,"happy, proud","Hi, you","He smiles."\r\n',
    )
    put_mp4(tmp_path / "sample_1.avi")
    (record,) = read(tmp_path, "emer_v1").records
    assert (record.labels, record.transcript) == (("happy", "proud"), "Hi, you")
    assert record.response == "<think>He smiles.</think>\n<answer>happy</answer>"


def test_emer_v2_has_reasons_in_two_languages(tmp_path: Path) -> None:
    put_text(tmp_path / "final-EMER-reason.csv", "name,chinese,english\ns,他笑了。,He smiles.\n")
    put_mp4(tmp_path / "s.mp4")
    assert "must hold final-EMER-openset.csv of emer_v2, got no such file" in complaint(tmp_path, "emer_v2")
    put_text(tmp_path / "labels.csv", "name,openset\ns,happy\n")
    english = read(tmp_path, "emer_v2", labels_file="labels.csv").records[0].response
    chinese = read(tmp_path, "emer_v2", labels_file="labels.csv", language="chinese").records[0].response
    assert english == "<think>He smiles.</think>\n<answer>happy</answer>"
    assert chinese == "<think>他笑了。</think>\n<answer>happy</answer>"


def test_the_challenges_have_six_classes(tmp_path: Path) -> None:
    put_text(tmp_path / "train-label.csv", "name,discrete,valence\nx,worried,-3.5\n")
    put_text(tmp_path / "test1-label.csv", "name,discrete,valence\nx,happy,3.5\n")
    for subset in ("train", "test1"):
        put_mp4(tmp_path / subset / "x.mp4")
    (train,) = read(tmp_path, "mer2023", taxonomy="mer").records
    (test,) = read(tmp_path, "mer2023", subset="test1").records
    assert (train.label, train.taxonomy, train.response) == ("worried", "mer", None)
    assert test.clip.video_path == str(tmp_path / "test1" / "x.mp4")
    assert "must hold test3-label.csv" in complaint(tmp_path, "mer2023", subset="test3")
    put_text(tmp_path / "label-disdim.csv", "name,discrete\ny,sad\n")
    put_mp4(tmp_path / "video-labeled" / "y.mp4")
    assert read(tmp_path, "mer2024").records[0].label == "sad"


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        (
            "track2_train_ovmerd.csv",
            "name,labels\na,x\n",
            "ovmerd.csv:1: a header must have the columns name, openset",
        ),
        ("track2_train_ovmerd.csv", "name,openset\na,x\na,y\n", "ovmerd.csv:3: each clip must occur once, got 'a'"),
        (
            "track2_train_ovmerd.csv",
            "name,openset\na,x,y\n",
            "ovmerd.csv:2: a row must have 2 cells like its header",
        ),
        ("track2_train_ovmerd.csv", "", "ovmerd.csv: a table must have a header and rows"),
        ("track3_train_ovmerd.csv", "name,why\na,x\n", "ovmerd.csv:1: a header must have the columns name, reason"),
        (
            "track3_train_ovmerd.csv",
            "name,reason\na,x\na,y\n",
            "track3_train_ovmerd.csv:3: each clip must occur once",
        ),
        ("subtitle_chieng.csv", "name,english\na,x\nb,\na,x\n", "subtitle_chieng.csv:4: each clip must occur once"),
        (
            "subtitle_chieng.csv",
            "name,sentence\na,x\n",
            "subtitle_chieng.csv:1: a header must have the columns name, english, got no 'english'",
        ),
    ],
)
def test_a_table_that_is_wrong_says_where(tmp_path: Path, name: str, text: str, part: str) -> None:
    root = put_ovmerd(tmp_path)
    put_text(root / name, text)
    assert part in complaint(root, "ovmerd")
