"""`python -m common.datasets inspect`: problems of a run are reported before it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from common.datasets.command import main
from common.datasets.corpora.dfew import FOLD_SIZES as DFEW_SIZES
from common.datasets.corpora.mafw import FOLD_SIZES as MAFW_SIZES
from common.datasets.inspection.media_check import CheckLimits, check_clip, check_clips
from common.types import Clip
from tests.support.media.corpora import put_dfew, put_mafw, put_mp4, put_ravdess, put_text, put_wav, put_workbook


def inspected(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    """Exit code and object."""
    code = main(["inspect", *argv, "--json"])
    output = capsys.readouterr()
    assert output.err == ""
    return code, json.loads(output.out)


def put_tree(root: Path) -> Path:
    """A DFEW of three clips to train on and two to test on."""
    return put_dfew(root, train={1: 1, 2: 1, 3: 4}, test={5: 7, 6: 1}, fold=2)


@pytest.fixture
def small_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published folds as small as those of `put_tree` and of one clip each."""
    monkeypatch.setitem(DFEW_SIZES, 2, (3, 2))
    monkeypatch.setitem(MAFW_SIZES, 1, (1, 1))


@pytest.mark.usefixtures("small_folds")
def test_a_clean_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = put_tree(tmp_path)
    code, report = inspected(capsys, "--format", "dfew", "--root", str(root), "--fold", "2")
    assert code == 0
    assert report["counts"] == {"total": 5, "train": {"happy": 2, "angry": 1}, "test": {"happy": 1, "fear": 1}}
    assert (report["published"], report["unlisted"]) == ({"train": 3, "test": 2}, 0)
    assert report["seconds"] == pytest.approx({"train": 3.0, "test": 2.0}, abs=0.3)
    assert (report["dropped"], report["media"], report["overlap"], report["problems"]) == ({}, {}, 0, [])
    assert report["modalities"] == {"train": {"both": 3}, "test": {"both": 2}}
    assert len(report["files"]) == 2


def test_a_list_shorter_than_published_bites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = put_tree(tmp_path / "DFEW")
    code, report = inspected(capsys, "--format", "dfew", "--root", str(root), "--fold", "2")
    assert (code, report["published"]) == (1, {"train": 9356, "test": 2341})
    assert [(p["split"], p["reason"], p["clip"]) for p in report["problems"]] == [
        ("train", "list-shorter-than-published", ""),
        ("test", "list-shorter-than-published", ""),
    ]
    assert "train(single-labeled)/set_2.csv: 3 clips of the 9356 that are" in report["problems"][0]["detail"]
    # once, though validation comes from the same list
    args = ("--format", "dfew", "--root", str(root), "--fold", "2", "--set", "validation_share=0.4")
    assert inspected(capsys, *args)[1]["media"] == {"list-shorter-than-published": 2}
    put_mafw(tmp_path / "MAFW", train=["00001.mp4 anger"], test=["00002.mp4 fear"])
    sources = f"{{type: dfew, root: {root}, fold: 2}}, {{type: mafw, root: {tmp_path}/MAFW}}"
    config = put_text(tmp_path / "run.yaml", f"data: {{source: {{type: mix, sources: [{sources}]}}}}")
    code, report = inspected(capsys, "--config", str(config))
    assert (code, report["media"], report["unlisted"]) == (1, {"list-shorter-than-published": 2}, None)


@pytest.mark.usefixtures("small_folds")
def test_clips_in_no_list_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = put_tree(tmp_path)
    put_mp4(root / "part_1" / "77.mp4")
    code, report = inspected(capsys, "--format", "dfew", "--root", str(root), "--fold", "2")
    assert (code, report["unlisted"]) == (0, 1)
    assert main(["inspect", "--format", "dfew", "--root", str(root), "--fold", "2"]) == 0
    assert "1 clips on the disk are in no list" in capsys.readouterr().out


def test_a_split_that_is_misspelt_bites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"video": f"{split}.mp4", "label": "sad", "split": split} for split in ("train", "test", "tset")]
    for row in rows:
        put_mp4(tmp_path / row["video"])
    path = put_text(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    code, report = inspected(capsys, "--format", "table", "--root", str(path), "--set", "split_column=split")
    # once, though both parts leave it out
    assert (code, report["media"], report["dropped"]) == (1, {"other-split": 1}, {"other-split": 1})


def test_clips_without_a_track_are_asked_without_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_mp4(tmp_path / "1.mp4", has_audio=False)
    put_mp4(tmp_path / "2.mp4")
    path = put_text(tmp_path / "a.jsonl", '{"video": "1.mp4", "label": "sad"}\n{"video": "2.mp4", "label": "sad"}')
    args = ("--format", "table", "--root", str(path))
    for level in ("header", "full"):
        code, report = inspected(capsys, *args, "--check-media", level)
        assert (code, report["asked_without_sound"], report["problems"]) == (0, {"all": 1}, [])
        assert report["seconds"]["all"] == pytest.approx(2.0, abs=0.3)
    assert main(["inspect", *args]) == 0
    assert "asked without sound" in capsys.readouterr().out
    code, report = inspected(capsys, *args, "--missing-audio", "skip")
    assert (code, report["media"], report["asked_without_sound"]) == (1, {"no-audio-track": 1}, {"all": 0})
    # what is left of it is looked at, too
    _, report = inspected(capsys, *args, "--max-video-s", "0.5")
    assert (report["media"], report["asked_without_sound"]) == ({"too-long": 2}, {"all": 0})
    _, alone = inspected(capsys, *args, "--set", "modality=audio")
    assert alone["media"] == {"no-audio-track": 1}


def test_a_runs_own_limits_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_mp4(tmp_path / "1.mp4", has_audio=False)
    path = put_text(tmp_path / "a.jsonl", '{"video": "1.mp4", "label": "sad"}')

    def media(limits: str, *argv: str) -> dict[str, int]:
        text = f"data: {{source: {{type: table, path: {path}}}, {limits}}}"
        return inspected(capsys, "--config", str(put_text(tmp_path / "run.yaml", text)), *argv)[1]["media"]

    assert media("max_video_s: 30") == {}
    assert media("max_video_s: 0.5") == {"too-long": 1}
    assert media("max_video_s: 0.5", "--max-video-s", "30") == {}
    assert media("missing_audio: skip") == {"no-audio-track": 1}
    put_mp4(tmp_path / "1.mp4")
    assert media("max_audio_s: 0.5") == {"too-long": 1}


def test_two_tables_of_the_same_clips_overlap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_mp4(tmp_path / "clips" / "1.mp4")
    for name in ("a", "b"):
        put_text(tmp_path / f"{name}.jsonl", '{"video": "clips/1.mp4", "label": "sad"}')
    sources = (
        f"{key}: {{type: table, path: {tmp_path}/{name}.jsonl}}"
        for key, name in (("source", "a"), ("heldout", "b"))
    )
    config = put_text(tmp_path / "run.yaml", f"data: {{{', '.join(sources)}}}")
    code, report = inspected(capsys, "--config", str(config))
    assert (code, report["overlap"]) == (1, 1)
    assert report["overlaps"] == [
        {"by": "content", "splits": ["train", "heldout"], "clips": ["clips/1.mp4", "clips/1.mp4"]}
    ]


def test_files_that_the_system_refuses_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    put_mp4(tmp_path / "1.mp4")
    rows = '{"video": "loop/1.mp4", "label": "sad"}\n{"video": "1.mp4", "label": "sad"}'
    path = put_text(tmp_path / "a.jsonl", rows)
    code, report = inspected(capsys, "--format", "table", "--root", str(path))
    assert (code, report["media"]) == (1, {"missing": 1})
    assert main(["inspect", "--format", "table", "--root", str(tmp_path / ("x" * 300))]) == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert "File name too long; correct the path" in output
    turns = [{"value": "<video>"}, {"value": "<think>x</think><answer>sad</answer>"}]
    path = put_text(tmp_path / "list.json", json.dumps([{"video": "1.mp4", "conversations": turns}]))
    args = (
        "--format",
        "r1_omni",
        "--root",
        str(path),
        "--count",
        "1",
        "--out",
        str(tmp_path / f"{'y' * 249}.json"),
    )
    assert main(["make-cold-start", *args]) == 2
    assert "File name too long; correct it" in capsys.readouterr().err


def test_a_table_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = put_tree(tmp_path)
    (root / "part_2" / "1.mp4").unlink()
    assert main(["inspect", "--format", "dfew", "--root", str(root), "--fold", "2"]) == 1
    shown = capsys.readouterr().out
    for part in ("angry", "train", "test", "total", "9356", "missing", "headers alone"):
        assert part in shown
    assert "set_2.csv:2: no media of '1'" in shown


def test_each_kind_of_bad_clip_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = put_dfew(tmp_path, train=dict.fromkeys(range(1, 7), 1), test={9: 1})
    clips = {n: root / f"part_{n % 3 + 1}" / f"{n}.mp4" for n in range(1, 7)}
    clips[1].unlink()
    clips[2].write_bytes(clips[2].read_bytes()[:900])
    clips[3].write_bytes(b"")
    put_mp4(clips[4], has_audio=False)
    put_wav(root / "wav" / "5.wav", level=0.0)
    monkeypatch.setitem(DFEW_SIZES, 1, (6, 1))
    args = ("--format", "dfew", "--root", str(root), "--missing-audio", "skip")
    code, report = inspected(capsys, *args)
    assert code == 1
    reasons = {p["clip"]: p["reason"] for p in report["problems"]}
    assert reasons == {"1": "missing", "2": "undecodable", "3": "empty", "4": "no-audio-track"}
    assert report["dropped"] == {"missing": 1}
    _, full = inspected(capsys, *args, "--check-media", "full")
    assert {p["clip"]: p["reason"] for p in full["problems"]} == {**reasons, "5": "silent"}
    assert full["media"]["silent"] == 1
    _, none = inspected(capsys, *args, "--check-media", "none")
    assert {p["clip"]: p["reason"] for p in none["problems"]} == {"1": "missing"}
    _, short = inspected(capsys, *args, "--max-video-s", "0.5")
    assert {p["reason"] for p in short["problems"] if p["clip"] in "69"} == {"too-long"}


def test_overlap_is_found_by_id_and_by_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = put_dfew(tmp_path, train={1: 1, 2: 2}, test={2: 2, 3: 3})
    shutil.copy(root / "part_2" / "1.mp4", root / "part_1" / "3.mp4")
    code, report = inspected(capsys, "--format", "dfew", "--root", str(root))
    assert code == 1
    assert report["overlap"] == 2
    assert sorted((o["by"], *o["clips"]) for o in report["overlaps"]) == [("content", "1", "3"), ("id", "2", "2")]
    _, unopened = inspected(capsys, "--format", "dfew", "--root", str(root), "--check-media", "none")
    assert [o["by"] for o in unopened["overlaps"]] == ["id"]


def test_what_is_left_out_on_purpose_does_not_bite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_ravdess(tmp_path, ["01-01-03-01-01-01-01", "01-02-03-01-01-01-01", "01-01-02-01-01-01-09"])
    args = ("--format", "ravdess", "--root", str(tmp_path), "--set", "calm=false")
    code, report = inspected(capsys, *args)
    assert (code, report["counts"], report["dropped"]) == (
        0,
        {"total": 1, "all": {"happy": 1}},
        {"song": 1, "calm": 1},
    )
    put_ravdess(tmp_path, ["02-01-04-01-01-01-01"])
    code, report = inspected(capsys, *args)
    assert (code, report["media"]) == (1, {"no-pair": 1})


def test_a_footer_does_not_bite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_workbook(tmp_path / "single-set.xlsx", [{0: "00025.mp4", 12: 1}, {0: "Total: 1"}])
    put_mp4(tmp_path / "00025.mp4")
    code, report = inspected(capsys, "--format", "mafw", "--root", str(tmp_path), "--set", "fold=null")
    assert (code, report["dropped"]) == (0, {"not-a-clip": 1})


def test_validation_that_is_set_aside_is_a_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = put_dfew(tmp_path, train=dict.fromkeys(range(1, 21), 1), test={30: 1})
    args = ("--format", "dfew", "--root", str(root), "--set", "validation_share=0.4", "--check-media", "none")
    _, report = inspected(capsys, *args)
    counts = report["counts"]
    assert set(counts) == {"total", "train", "validation", "test"}
    assert counts["train"]["happy"] + counts["validation"]["happy"] == 20
    assert report["overlap"] == 0


@pytest.mark.usefixtures("small_folds")
def test_a_runs_configuration_is_inspected_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_tree(tmp_path / "DFEW")
    put_mafw(tmp_path / "MAFW", train=["00001.mp4 anger"], test=["00002.mp4 fear"])
    config = put_text(
        tmp_path / "run.yaml",
        f"""
data:
  source: {{type: dfew, root: {tmp_path}/DFEW, fold: 2}}
  cold_start: {{type: dfew, root: {tmp_path}/DFEW, fold: 2}}
  heldout: {{type: mafw, root: {tmp_path}/MAFW}}
""",
    )
    code, report = inspected(capsys, "--config", str(config))
    # the cold start may show what is trained on
    assert (code, report["overlap"]) == (0, 0)
    assert {split: sum(c.values()) for split, c in report["counts"].items() if split != "total"} == {
        "train": 3,
        "cold_start": 3,
        "heldout": 1,
    }


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ((), "arguments are required: COMMAND"),
        (("inspect",), "--format and --root must be given, or --config, got neither"),
        (("inspect", "--format", "dfew"), "--format and --root must be given, or --config, got --format alone"),
        (("inspect", "--root", "x"), "--format and --root must be given, or --config, got --root alone"),
        (("inspect", "--format", "faces", "--root", "x"), "invalid choice: 'faces'"),
        (("inspect", "--format", "dfew", "--root", "/none"), "root must be a folder, got '/none'"),
        (("inspect", "--format", "dfew", "--root", "/none", "--fold", "9"), "fold must be valid"),
        (("inspect", "--format", "dfew", "--root", "/none", "--set", "colour=1"), "colour must be valid"),
        (("inspect", "--format", "dfew", "--root", "/none", "--set", "colour"), "--set must be KEY=VALUE"),
        (("inspect", "--format", "r1_omni", "--root", "/none", "--fold", "1"), "fold must be valid"),
        (("inspect", "--config", "/none.yaml"), "--config must be a readable file"),
        (("inspect", "--config", "CONFIG"), "must name a corpus of files in data, got none"),
    ],
)
def test_bad_usage_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], part: str
) -> None:
    empty = put_text(tmp_path / "a.yaml", "")
    assert main([str(empty) if a == "CONFIG" else a for a in argv]) == 2
    output = capsys.readouterr()
    assert part in output.err
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_processes_find_what_one_finds(tmp_path: Path) -> None:
    limits = CheckLimits(level="header", max_video_s=60, max_audio_s=30, missing_audio="skip")
    paths = [put_mp4(tmp_path / f"{n}.mp4", has_audio=n % 5 > 0) for n in range(20)]
    clips = [Clip(clip_id=p.stem, video_path=str(p), audio_path=str(p)) for p in paths]
    seen: list[None] = []
    several = list(check_clips(clips, limits, num_workers=2, on_clip=lambda: seen.append(None)))
    assert several == [check_clip(clip, limits) for clip in clips]
    assert len(seen) == 20
    assert [f.reason for f in several].count("no-audio-track") == 4
    assert len({f.content for f in several if f.reason is None}) == 16
