"""The check of a ledger, on ledgers made by hand: each way to break the invariant is found, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from learner.ledger import Ledger, check_ledger, live_entries, main
from tests.support.builders import make_draw


def asked(*draws: str) -> list[dict[str, Any]]:
    """Draws that were taken."""
    return [{"draw": draw, "event": "asked"} for draw in draws]


def fated(fate: str, *draws: str) -> list[dict[str, Any]]:
    """Draws that came to this."""
    return [{"draw": draw, "fate": fate} for draw in draws]


def stepped(step: int, *outstanding: str) -> dict[str, Any]:
    """The end of a step."""
    return {"event": "stepped", "step": step, "outstanding": list(outstanding)}


def written(folder: Path, *entries: dict[str, Any], torn: str = "") -> Path:
    """A ledger."""
    path = folder / "ledger.jsonl"
    path.write_text("".join(json.dumps(e) + "\n" for e in entries) + torn)
    return path


WHOLE = [*asked("a", "b", "c", "d"), *fated("failed", "c"), *fated("trained", "a", "b"), stepped(1, "d")]


def test_a_whole_ledger_has_no_fault(tmp_path: Path) -> None:
    found = check_ledger(written(tmp_path, *WHOLE, *asked("e"), *fated("trained", "d"), stepped(2, "e")))
    assert found.faults == ()
    assert found.num_draws == 5
    assert found.fates == {"trained": 3, "failed": 1}
    assert found.open_draws == ("e",)
    assert found.num_rewinds == 0


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ([*WHOLE, *fated("trained", "a"), stepped(2, "d")], "a has the fates trained, trained"),
        ([*WHOLE, *fated("failed", "b")], "b has the fates trained, failed"),
        ([*WHOLE, *fated("redrawn", "c"), stepped(2, "d")], "c has the fates failed, redrawn"),
        ([*WHOLE, *fated("trained", "x"), stepped(2, "d")], "x has a fate but was never asked"),
        ([*WHOLE, stepped(2)], "d was asked and has no fate"),
        ([*WHOLE[:-1], stepped(1)], "d was asked and has no fate"),
    ],
)
def test_what_breaks_the_invariant_is_named(tmp_path: Path, entries: list[dict[str, Any]], fault: str) -> None:
    assert check_ledger(written(tmp_path, *entries)).faults == (fault,)


def test_what_was_asked_after_the_last_step_may_be_open(tmp_path: Path) -> None:
    found = check_ledger(written(tmp_path, *WHOLE, *asked("e", "f"), *fated("failed", "f")))
    assert (found.open_draws, found.faults) == (("d", "e"), ())


def test_what_was_outstanding_must_have_a_fate_once_a_later_step_lets_go_of_it(tmp_path: Path) -> None:
    entries = [*WHOLE, *asked("e"), stepped(2, "d", "e"), stepped(3, "e")]
    assert check_ledger(written(tmp_path, *entries)).faults == ("d was asked and has no fate",)


def test_a_redraw_is_a_draw_of_its_own(tmp_path: Path) -> None:
    entries = [
        *asked("0/a/0"),
        *fated("redrawn", "0/a/0"),
        *asked("0/a/1"),
        *fated("trained", "0/a/1"),
        stepped(1),
    ]
    found = check_ledger(written(tmp_path, *entries))
    assert (found.num_draws, found.fates, found.faults) == (2, {"redrawn": 1, "trained": 1}, ())


def rewound_ledger(folder: Path) -> Path:
    """Two steps, of which the second is void and taken anew."""
    ledger = Ledger(folder / "ledger.jsonl")
    for name in "ab":
        ledger.event(make_draw(name), "asked")
    ledger.trained(make_draw("a"), step=1)
    ledger.stepped(1, outstanding=[make_draw("b")])
    ledger.commit()
    after_step = ledger.num_bytes
    ledger.event(make_draw("c"), "asked")
    ledger.trained(make_draw("b"), step=2)
    ledger.stepped(2, outstanding=[make_draw("c")])
    ledger.commit()
    again = Ledger(folder / "ledger.jsonl")
    assert again.lineage == 0
    again.rewound(step=1, ledger_bytes=after_step)
    for name in "bc":
        again.event(make_draw(name), "asked")
    again.trained(make_draw("b"), step=2)
    again.stepped(2, outstanding=[make_draw("c")])
    again.commit()
    assert Ledger(folder / "ledger.jsonl").lineage == again.lineage == 1
    return folder / "ledger.jsonl"


def test_what_was_rewound_is_void(tmp_path: Path) -> None:
    path = rewound_ledger(tmp_path)
    live = [e.get("fate") or e["event"] for e in live_entries(path)]
    assert live == ["asked", "asked", "trained", "stepped", "rewound", "asked", "asked", "trained", "stepped"]
    found = check_ledger(path)
    assert (found.num_draws, found.fates, found.num_rewinds) == (3, {"trained": 2}, 1)
    assert (found.open_draws, found.faults) == (("0/c/0",), ())


def test_without_the_rewinding_the_same_lines_are_a_fault(tmp_path: Path) -> None:
    path = rewound_ledger(tmp_path)
    lines = [line for line in path.read_text().splitlines(keepends=True) if '"rewound"' not in line]
    path.write_text("".join(lines))
    assert check_ledger(path).faults == ("0/b/0 has the fates trained, trained",)


def test_a_second_rewinding_voids_the_first(tmp_path: Path) -> None:
    path = rewound_ledger(tmp_path)
    first_step = path.read_bytes().index(b'"stepped"')
    after_step = path.read_bytes().index(b"\n", first_step) + 1
    ledger = Ledger(path)
    ledger.rewound(step=1, ledger_bytes=after_step)
    ledger.commit()
    assert [e.get("fate") or e["event"] for e in live_entries(path)] == [
        "asked",
        "asked",
        "trained",
        "stepped",
        "rewound",
    ]
    found = check_ledger(path)
    assert (ledger.lineage, found.num_rewinds) == (2, 2)
    assert (found.num_draws, found.open_draws, found.faults) == (2, ("0/b/0",), ())


def test_a_torn_last_line_is_no_fault(tmp_path: Path) -> None:
    found = check_ledger(written(tmp_path, *WHOLE, torn='{"draw": "a", "fate": "trai'))
    assert (found.num_draws, found.faults) == (4, ())


def test_the_size_is_that_of_what_is_durable(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert ledger.num_bytes == 0
    ledger.event(make_draw("ü"), "asked")
    assert ledger.num_bytes == 0
    ledger.commit()
    assert ledger.num_bytes == len((tmp_path / "ledger.jsonl").read_bytes()) > 0


def test_the_command_says_what_became_of_the_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rewound_ledger(tmp_path)
    for given in (tmp_path, path):
        assert main(["check", str(given)]) == 0
        assert capsys.readouterr().out == "3 draws: 2 trained; 1 open; 1 rewinds\n"


def test_the_command_fails_on_a_fault_and_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, *WHOLE, *fated("trained", "a"), stepped(2))
    assert main(["check", str(tmp_path)]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        "4 draws: 1 failed, 3 trained; 0 open; 0 rewinds",
        "fault: a has the fates trained, trained",
        "fault: d was asked and has no fate",
    ]


def test_the_command_names_a_damaged_line_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, *WHOLE)
    path.write_text(path.read_text().replace('"asked"}\n', '"ask', 1))
    assert main(["check", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out.startswith(f"fault: {path} line 1 must be a JSON object, got ")
    assert (said.out.count("\n"), said.err) == (1, "")


@pytest.mark.parametrize("given", [".", "none", "none.jsonl"])
def test_the_command_names_a_run_without_a_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    assert main(["check", str(tmp_path / given)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: RUN must hold a ledger.jsonl, got '")
    assert said.err.count("\n") == 1


def test_draws_of_a_run_that_has_finished_no_step_are_open(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for name in ("a", "b"):
        ledger.event(make_draw(name), "asked")
    ledger.commit()
    found = check_ledger(tmp_path / "ledger.jsonl")
    assert (found.faults, len(found.open_draws)) == ((), 2)


def test_a_filtered_draw_has_its_fate(tmp_path: Path) -> None:
    entries = [*asked("a", "b"), *fated("filtered", "a"), *fated("trained", "b"), stepped(1)]
    found = check_ledger(written(tmp_path, *entries))
    assert (found.fates, found.faults, found.open_draws) == ({"filtered": 1, "trained": 1}, (), ())
    entries = [*entries[:-1], *fated("trained", "a"), stepped(1)]
    assert check_ledger(written(tmp_path, *entries)).faults == ("a has the fates filtered, trained",)


def at(draw: str, position: int) -> dict[str, Any]:
    """A draw that was taken from this position of the stream."""
    return {"draw": draw, "event": "asked", "position": position}


def stood(step: int, cursor: int, *outstanding: str) -> dict[str, Any]:
    """The end of a step that says where the stream stood."""
    return {**stepped(step, *outstanding), "cursor": cursor}


def test_a_stream_that_was_asked_in_any_order_up_to_its_cursor_is_whole(tmp_path: Path) -> None:
    entries = [
        *(at("b", 1), at("a", 0), at("c", 2)),
        *fated("redrawn", "a"),
        *fated("trained", "b"),
        at("a/1", 0),
        stood(1, 3, "c", "a/1"),
        *(at("d", 3), at("e", 4)),
        *fated("trained", "c", "d", "a/1"),
        stood(2, 5, "e"),
        at("f", 5),
    ]
    assert check_ledger(written(tmp_path, *entries)).faults == ()


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        (
            [at("a", 0), *fated("trained", "a"), stood(1, 3)],
            "step 1 left the cursor at 3, past positions 1, 2 never asked",
        ),
        (
            [at("a", 0), stood(1, 1, "a"), at("b", 2), stood(2, 3, "a", "b")],
            "step 2 left the cursor at 3, past position 1 never asked",
        ),
        (
            [at("a", 0), at("b", 8), stood(1, 9, "a", "b")],
            "step 1 left the cursor at 9, past positions 1, 2, 3, 4, 5 and 2 more never asked",
        ),
        (
            [at("a", 0), at("b", 1), stood(1, 1, "a", "b")],
            "step 1 left the cursor at 1, before position 1 already asked",
        ),
    ],
)
def test_a_cursor_that_jumps_is_a_fault(tmp_path: Path, entries: list[dict[str, Any]], fault: str) -> None:
    assert check_ledger(written(tmp_path, *entries)).faults == (fault,)


def test_a_jump_is_void_with_the_steps_that_made_it(tmp_path: Path) -> None:
    whole = [at("a", 0), *fated("trained", "a"), stood(1, 1)]
    size = len(written(tmp_path, *whole).read_bytes())
    void = [at("c", 2), *fated("trained", "c"), stood(2, 3)]
    assert len(check_ledger(written(tmp_path, *whole, *void)).faults) == 1
    rewound = {"event": "rewound", "step": 1, "ledger_bytes": size, "lineage": 1}
    again = [at("b", 1), *fated("trained", "b"), stood(2, 2)]
    assert check_ledger(written(tmp_path, *whole, *void, rewound, *again)).faults == ()


def test_a_ledger_without_positions_is_evaluated_by_its_fates_alone(tmp_path: Path) -> None:
    assert check_ledger(written(tmp_path, *asked("a"), *fated("trained", "a"), stood(1, 9))).faults == ()
