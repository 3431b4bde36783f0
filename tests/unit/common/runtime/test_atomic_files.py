"""What a crash leaves of a file: all of it or nothing, and lines only whole."""

import os
from pathlib import Path

import pytest

from common.runtime.atomic_files import append_line, atomic_write, atomic_write_text, read_lines


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic_write_text(path, "old")
    atomic_write_text(path, "nü")
    assert path.read_text(encoding="utf-8") == "nü"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_put_in_place_is_on_disk_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("fsync"), fsync(file))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), replace(*names))[1])
    atomic_write_text(tmp_path / "a", "x")
    assert calls == ["fsync", "replace"]


def test_a_write_that_fails_leaves_what_stood_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    atomic_write_text(path, "old")

    def fail() -> None:
        with atomic_write(path) as partial:
            partial.write_text("ne")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_lines_come_back_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert read_lines(path) == []
    # U+2028 breaks lines for some readers
    records = [{"a": 1}, {"a": "ü\u2028\n"}]
    for record in records:
        append_line(path, record)
    assert read_lines(path) == records


@pytest.mark.parametrize("whole_lines", ["", '{"a": 1}\n'])
def test_a_line_that_broke_off_is_cut_off_by_the_next(tmp_path: Path, whole_lines: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(whole_lines + '{"a": "torn')
    before = read_lines(path)
    append_line(path, {"a": 2})
    assert read_lines(path) == [*before, {"a": 2}]
