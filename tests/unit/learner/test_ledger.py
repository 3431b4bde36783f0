"""The ledger: whole lines, in order, on disk when it says so."""

import errno
import json
import os
import resource
from pathlib import Path

import pytest

from common.errors import LedgerError, UserError
from common.types import Failure
from learner.ledger import Ledger, live_entries, read_ledger
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


def test_an_asked_draw_says_where_it_stands_in_the_stream(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.jsonl")
    ledger.event(make_draw("a", position=7), "asked")
    ledger.event(make_draw("a", position=7), "cancelled")
    ledger.filtered(make_draw("a", position=7), reason="non-finite", step=3)
    ledger.stepped(3, outstanding=[], cursor=8)
    ledger.stepped(4, outstanding=[])
    ledger.commit()
    entries = [{k: v for k, v in e.items() if k != "time"} for e in read_ledger(tmp_path / "l.jsonl")]
    assert entries == [
        {"draw": "0/a/0", "event": "asked", "position": 7},
        {"draw": "0/a/0", "event": "cancelled"},
        {"draw": "0/a/0", "fate": "filtered", "reason": "non-finite", "step": 3},
        {"event": "stepped", "step": 3, "outstanding": [], "cursor": 8},
        {"event": "stepped", "step": 4, "outstanding": []},
    ]


@pytest.mark.parametrize("num_written", [0, 1, 20, 75, 120])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_disk_that_is_full_leaves_the_file_as_it_was_and_loses_nothing(
    tmp_path: Path, num_written: int, is_first: bool
) -> None:
    ledger = Ledger(tmp_path / "l.jsonl")
    if not is_first:
        ledger.event(make_draw("a"), "asked")
        ledger.commit()
    before = ledger.num_bytes
    for name in "bc":
        ledger.event(make_draw(name), "asked")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # the kernel takes so many bytes more, and then no others
        resource.setrlimit(resource.RLIMIT_FSIZE, (before + num_written, limits[1]))
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            ledger.commit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ledger.num_bytes == before
    ledger.event(make_draw("d"), "asked")
    ledger.commit()
    expected = ["0/b/0", "0/c/0", "0/d/0"] if is_first else ["0/a/0", "0/b/0", "0/c/0", "0/d/0"]
    assert [e["draw"] for e in read_ledger(tmp_path / "l.jsonl")] == expected


def test_a_commit_that_did_not_reach_the_disk_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path / "l.jsonl")
    ledger.event(make_draw("a"), "asked")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output"):
            ledger.commit()
    assert ledger.num_bytes == 0
    ledger.commit()
    assert [e["draw"] for e in read_ledger(tmp_path / "l.jsonl")] == ["0/a/0"]


@pytest.mark.parametrize("bad", ['{"draw": "0/b{"draw": "0/c/0"}', "[1]", "", "17", "\x00\x00"])
def test_a_damaged_line_is_named(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text('{"a": 1}\n' + bad + '\n{"c": 3}\n')
    for read in (read_ledger, live_entries, Ledger):
        with pytest.raises(LedgerError) as caught:
            read(path)
        assert f"{path} line 2 must be a JSON object, got" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, UserError)
