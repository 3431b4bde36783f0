"""The ledger: whole lines, in order, on disk when it says so."""

import json
import os
from pathlib import Path

import pytest

from common.types import Failure
from learner.ledger import Ledger, read_ledger
from tests.support.builders import make_draw

FAILURE = Failure(stage="media", reason="undecodable", detail="clip.mp4: Ungültig\nzwei Zeilen \u2028")


def test_nothing_is_written_before_a_commit(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.jsonl")
    ledger.event(make_draw(), "asked")
    assert not (tmp_path / "l.jsonl").exists()
    ledger.commit()
    assert len(read_ledger(tmp_path / "l.jsonl")) == 1


def test_entries_come_back_as_they_were(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.jsonl")
    ledger.event(make_draw("a"), "generated", engine="engine-1", version=3)
    ledger.failed(make_draw("b", epoch=2), FAILURE)
    ledger.trained(make_draw("a"), step=5)
    ledger.commit()
    entries = [{k: v for k, v in e.items() if k != "time"} for e in read_ledger(tmp_path / "l.jsonl")]
    assert entries == [
        {"draw": "0/a/0", "event": "generated", "engine": "engine-1", "version": 3},
        {"draw": "2/b/0", "fate": "failed", "reason": "undecodable", "stage": "media", "detail": FAILURE.detail},
        {"draw": "0/a/0", "fate": "trained", "step": 5},
    ]
    assert ledger.num_trained == 1
    assert ledger.failures == {"media/undecodable": 1}


def test_a_commit_is_durable_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "l.jsonl"
    ledger = Ledger(path)
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append([e["draw"] for e in read_ledger(path)]))
    for name in "abc":
        ledger.event(make_draw(name), "asked")
    ledger.commit()
    # one fsync, when all lines are there
    assert seen == [["0/a/0", "0/b/0", "0/c/0"]]
    ledger.commit()
    assert len(seen) == 1


def test_another_commit_appends(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    ledger = Ledger(path)
    for step in (1, 2):
        ledger.trained(make_draw(f"clip-{step}"), step=step)
        ledger.commit()
    again = Ledger(path)
    again.trained(make_draw("clip-3"), step=3)
    again.commit()
    assert [e["step"] for e in read_ledger(path)] == [1, 2, 3]


@pytest.mark.parametrize("torn", ['{"draw": "0/b', "{", '{"draw": "0/b/0", "event": "asked"}'])
def test_a_torn_last_line_is_cut_off_when_opened(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "l.jsonl"
    whole = json.dumps({"draw": "0/a/0", "event": "asked"}) + "\n"
    path.write_text(whole + torn)
    ledger = Ledger(path)
    assert path.read_text() == whole
    ledger.event(make_draw("c"), "asked")
    ledger.commit()
    assert [e["draw"] for e in read_ledger(path)] == ["0/a/0", "0/c/0"]


def test_a_file_of_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text('{"dra')
    Ledger(path)
    assert path.read_bytes() == b""


def test_a_torn_character_is_cut_off_too(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    path.write_bytes('{"a": 1}\n{"b": "é'.encode()[:-1])
    Ledger(path)
    assert read_ledger(path) == [{"a": 1}]


def test_a_whole_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text('{"a": 1}\n{"b": 2}\n')
    Ledger(path)
    assert read_ledger(path) == [{"a": 1}, {"b": 2}]


def test_reading_leaves_out_what_is_still_being_written(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text('{"a": 1}\n{"b"')
    assert read_ledger(path) == [{"a": 1}]
