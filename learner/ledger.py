"""The ledger: what became of every draw, one JSON line per event.

One writer. Events are held until `commit`, which writes them with one fsync or not at all; a torn last line is cut
off when the file is opened again.

    python -m learner.ledger check RUN     every draw has one fate, and none was trained twice
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from common.errors import LedgerError
from common.runtime.atomic_files import end_of_lines
from common.runtime.command import quietly, say
from common.types import Draw, Failure

Event = Literal["asked", "generated", "scored", "stale", "cancelled"]


class Ledger:
    """Append-only; fates are `trained`, `filtered`, `failed` and `redrawn`.

    Raises:
        LedgerError: what an earlier attempt left cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: list[dict[str, Any]] = []
        self.failures: Counter[str] = Counter()
        self.num_trained = 0
        self.lineage = 0
        """How often the run was rewound."""
        if path.exists():
            with path.open("r+b") as file:
                file.truncate(end_of_lines(file))
            self.lineage = sum(entry.get("event") == "rewound" for entry in read_ledger(path))

    @property
    def num_bytes(self) -> int:
        """Length of what is durable."""
        return self.path.stat().st_size if self.path.exists() else 0

    def event(self, draw: Draw, event: Event, **details: Any) -> None:
        """Notes a step on a draw's way; where it stands in the stream when it is asked."""
        position = {"position": draw.position} if event == "asked" else {}
        self._add(draw=draw.key, event=event, **position, **details)

    def trained(self, draw: Draw, *, step: int) -> None:
        """The draw's group was consumed by a step."""
        self.num_trained += 1
        self._add(draw=draw.key, fate="trained", step=step)

    def filtered(self, draw: Draw, *, reason: str, step: int) -> None:
        """A step took the draw's group and left it out."""
        self._add(draw=draw.key, fate="filtered", reason=reason, step=step)

    def failed(self, draw: Draw, failure: Failure) -> None:
        self.failures[f"{failure.stage}/{failure.reason}"] += 1
        self._add(draw=draw.key, fate="failed", reason=failure.reason, stage=failure.stage, detail=failure.detail)

    def redrawn(self, draw: Draw) -> None:
        """The draw's group came too late; the prompt is asked again as another draw."""
        self._add(draw=draw.key, fate="redrawn")

    def stepped(self, step: int, *, outstanding: Sequence[Draw], cursor: int | None = None) -> None:
        """A step is over; all draws so far have their fate, but for those that are outstanding.

        Args:
            step: its number.
            outstanding: draws in flight, buffered, or handed back to the stream.
            cursor: of the stream: every position before it was asked, and none from it on.
        """
        given = {} if cursor is None else {"cursor": cursor}
        self._add(event="stepped", step=step, outstanding=[draw.key for draw in outstanding], **given)

    def rewound(self, *, step: int, ledger_bytes: int) -> None:
        """The run resumes after a step: what stands behind that step's position is void."""
        self.lineage += 1
        self._add(event="rewound", step=step, ledger_bytes=ledger_bytes, lineage=self.lineage)

    def commit(self) -> None:
        """Makes everything so far durable.

        Raises:
            OSError: the disk is full or gone; the file is as before, and the next commit writes it all.
        """
        if not self._pending:
            return
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in self._pending).encode()
        num_bytes = self.num_bytes
        try:
            with self.path.open("ab", buffering=0) as file:
                while lines:
                    lines = lines[file.write(lines) :]
                os.fsync(file.fileno())
        except OSError:
            # half a line would grow together with the next one
            with contextlib.suppress(OSError):
                os.truncate(self.path, num_bytes)
            raise
        # only now: a full disk must not lose what was noted
        self._pending.clear()

    def _add(self, **entry: Any) -> None:
        self._pending.append({"time": round(time.time(), 3), **entry})


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Every whole line.

    Raises:
        LedgerError: a line is not JSON; names it.
    """
    return [entry for _, entry in _lines(path)]


def live_entries(path: Path) -> list[dict[str, Any]]:
    """Every whole line that no later rewinding made void.

    Raises:
        LedgerError: a line is not JSON; names it.
    """
    live: list[tuple[int, dict[str, Any]]] = []
    for offset, entry in _lines(path):
        if entry.get("event") == "rewound":
            live = [(at, kept) for at, kept in live if at < entry["ledger_bytes"]]
        live.append((offset, entry))
    return [entry for _, entry in live]


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerCheck:
    """What a check found."""

    num_draws: int
    fates: dict[str, int]
    num_rewinds: int
    open_draws: tuple[str, ...]
    """Asked after the last step, or outstanding at it: without a fate, and rightly so."""
    faults: tuple[str, ...]
    """What breaks the invariant."""


def check_ledger(path: Path) -> LedgerCheck:
    """On what is live, every draw before the last step has exactly one fate, and none was trained twice.

    Where the steps say where the stream stood, every position before that was asked, and none behind it.

    Raises:
        LedgerError: a line is not JSON; names it.
    """
    asked: dict[str, int] = {}
    fates: dict[str, list[str]] = {}
    last_step, outstanding = -1, set[str]()
    entries = live_entries(path)
    for number, entry in enumerate(entries):
        if entry.get("event") == "asked":
            asked[entry["draw"]] = number
        elif entry.get("event") == "stepped":
            last_step, outstanding = number, set(entry["outstanding"])
        elif "fate" in entry:
            fates.setdefault(entry["draw"], []).append(entry["fate"])
    faults = [f"{draw} has the fates {', '.join(found)}" for draw, found in fates.items() if len(found) > 1]
    faults += [f"{draw} has a fate but was never asked" for draw in fates if draw not in asked]
    without = [draw for draw in asked if draw not in fates]
    is_open = [draw for draw in without if asked[draw] > last_step or draw in outstanding]
    faults += [f"{draw} was asked and has no fate" for draw in without if draw not in is_open]
    faults += _jumps(entries)
    return LedgerCheck(
        num_draws=len(asked),
        fates=dict(Counter(f for found in fates.values() for f in found)),
        num_rewinds=sum(e.get("event") == "rewound" for e in read_ledger(path)),
        open_draws=tuple(is_open),
        faults=tuple(faults),
    )


def _jumps(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Where the stream's cursor and the positions that were asked do not agree."""
    faults: list[str] = []
    positions, highest, before = set[int](), -1, 0
    for entry in entries:
        if entry.get("event") == "asked":
            if "position" not in entry:
                return []
            positions.add(entry["position"])
            highest = max(highest, entry["position"])
        elif entry.get("event") == "stepped" and "cursor" in entry:
            step, cursor = entry["step"], entry["cursor"]
            holes = [position for position in range(before, cursor) if position not in positions]
            ahead = sorted(p for p in positions if p >= cursor) if highest >= cursor else []
            if holes:
                faults.append(f"step {step} left the cursor at {cursor}, past {_listed(holes)} never asked")
            if ahead:
                faults.append(f"step {step} left the cursor at {cursor}, before {_listed(ahead)} already asked")
            before = max(before, cursor)
    return faults


def _listed(positions: Sequence[int]) -> str:
    shown = ", ".join(map(str, positions[:5]))
    more = f" and {len(positions) - 5} more" if len(positions) > 5 else ""
    return f"position{'s' if len(positions) > 1 else ''} {shown}{more}"


def main(argv: Sequence[str] | None = None) -> int:
    """`check RUN`: prints what became of the draws; exit code 1 where the invariant is broken."""
    return quietly(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m learner.ledger", description="Checks a run's ledger.")
    parser.add_argument("command", choices=["check"])
    parser.add_argument("run", type=Path, help="a run folder, or a ledger.jsonl")
    path: Path = parser.parse_args(argv).run
    path = path / "ledger.jsonl" if path.is_dir() else path
    if not path.is_file():
        return say(f"error: RUN must hold a ledger.jsonl, got {str(path)!r}; give a run folder", 2)
    try:
        found = check_ledger(path)
    except LedgerError as error:
        print(f"fault: {error}")
        return 1
    fates = ", ".join(f"{count} {fate}" for fate, count in sorted(found.fates.items())) or "no fates"
    print(f"{found.num_draws} draws: {fates}; {len(found.open_draws)} open; {found.num_rewinds} rewinds")
    for fault in found.faults:
        print(f"fault: {fault}")
    return 1 if found.faults else 0


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Whole lines with their byte offsets."""
    found: list[tuple[int, dict[str, Any]]] = []
    offset = 0
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            raise LedgerError(
                f"{path} line {number} must be a JSON object, got {line[:60].decode(errors='replace')!r}; "
                "the file was damaged: put it back, or start again with --run.resume never"
            )
        found.append((offset, cast(dict[str, Any], entry)))
        offset += len(line) + 1
    return found


if __name__ == "__main__":
    sys.exit(main())
