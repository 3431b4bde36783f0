"""Serialized names are frozen: a rename in the code must not change a key, an option or a file that a user has.

To add a name, write the file again: `python -m tests.support.serialized > tests/golden/code.json`.
The names in a run folder are compared in `tests/e2e/test_main.py`.
"""

from pathlib import Path

from tests.support.serialized import code_names, difference, read_golden, run_names


def test_no_name_in_the_code_has_changed() -> None:
    assert difference(read_golden("code"), code_names()) == []


def test_a_changed_name_is_a_difference(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "validation_000002.json").write_text('{"war": {"low": 0.1}, "clips": [{"id": 1}]}')
    (tmp_path / "events.jsonl").write_text('{"phase": "learn", "event": "begin"}\n')
    golden = run_names(tmp_path)
    assert golden["eval/validation_0.json"] == ["clips", "clips[].id", "war", "war.low"]
    (tmp_path / "events.jsonl").write_text('{"phase": "train", "event": "begin"}\n')
    assert difference(golden, run_names(tmp_path)) == [
        "gone from events.jsonl: phase=learn",
        "new in events.jsonl: phase=train",
    ]
