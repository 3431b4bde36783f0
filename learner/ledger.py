"""The ledger: the fate of every draw, one JSON line per event.

One writer. `commit` writes the pending events with one fsync or not at all; a torn last line is cut off when the
file is opened again.

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
    """Append-only; fates are `trained`, `filtered`, `failed` and `redrawn`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: list[dict[str, Any]] = []
        self.failures: Counter[str] = Counter()
        self.lineage = 0
        """Number of rewinds."""
        if path.exists():
            with path.open("r+b") as file:
                file.truncate(end_of_lines(file))
            self.lineage = sum(entry.get("event") == "rewound" for entry in read_ledger(path))

    @property
    def num_bytes(self) -> int:
        """Length of the durable part."""
        return self.path.stat().st_size if self.path.exists() else 0

    def event(self, draw: Draw, event: Event, **details: Any) -> None:
        """Records an event of a draw, and with `asked` its position in the stream."""
        position = {"position": draw.position} if event == "asked" else {}
        self._add(draw=draw.key, event=event, **position, **details)

    def trained(self, draw: Draw, *, step: int) -> None:
        self._add(draw=draw.key, fate="trained", step=step)

    def filtered(self, draw: Draw, *, reason: str, step: int) -> None:
        """A step consumed the draw's group without training on it."""
        self._add(draw=draw.key, fate="filtered", reason=reason, step=step)

    def failed(self, draw: Draw, failure: Failure) -> None:
        self.failures[f"{failure.stage}/{failure.reason}"] += 1
        self._add(draw=draw.key, fate="failed", reason=failure.reason, stage=failure.stage, detail=failure.detail)

    def redrawn(self, draw: Draw) -> None:
        """The draw's group was too stale; its prompt returns to the stream as another draw."""
        self._add(draw=draw.key, fate="redrawn")

    def stepped(self, step: int, *, outstanding: Sequence[Draw], cursor: int | None = None) -> None:
        """A step is over; all draws before the stream's cursor have their fate, except the outstanding ones."""
        position = {} if cursor is None else {"cursor": cursor}
        self._add(event="stepped", step=step, outstanding=[draw.key for draw in outstanding], **position)

    def rewound(self, *, step: int, ledger_bytes: int) -> None:
        """The run resumes after a step: entries behind that step's length are void."""
        self.lineage += 1
        self._add(event="rewound", step=step, ledger_bytes=ledger_bytes, lineage=self.lineage)

    def commit(self) -> None:
        """Makes all events durable.

        Raises:
            OSError: the disk is full or gone; the file is unchanged, and the next commit writes all events.
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
            # half a line would merge with the next one
            with contextlib.suppress(OSError):
                os.truncate(self.path, num_bytes)
            raise
        # only now: a full disk must not lose events
        self._pending.clear()

    def _add(self, **entry: Any) -> None:
        self._pending.append({"time": round(time.time(), 3), **entry})


def read_ledger(path: Path) -> list[dict[str, Any]]:
    return [entry for _, entry in _lines(path)]


def live_entries(path: Path) -> list[dict[str, Any]]:
    """All whole lines that no later rewind made void."""
    live: list[tuple[int, dict[str, Any]]] = []
    for offset, entry in _lines(path):
        if entry.get("event") == "rewound":
            live = [(start, earlier) for start, earlier in live if start < entry["ledger_bytes"]]
        live.append((offset, entry))
    return [entry for _, entry in live]


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerCheck:
    num_draws: int
    fates: dict[str, int]
    num_rewinds: int
    open_draws: tuple[str, ...]
    """Draws that need no fate yet: requested after the last step, or outstanding at it."""
    faults: tuple[str, ...]
    """Violations of the invariant."""


def check_ledger(path: Path) -> LedgerCheck:
    """Checks on live entries that every draw before the last step has exactly one fate, and none was trained twice.

    If steps record the stream's cursor, every position before it must have been asked, and none from it on.
    """
    requests: dict[str, int] = {}
    fates: dict[str, list[str]] = {}
    last_step, outstanding = -1, set[str]()
    entries = live_entries(path)
    for number, entry in enumerate(entries):
        if entry.get("event") == "asked":
            requests[entry["draw"]] = number
        elif entry.get("event") == "stepped":
            last_step, outstanding = number, set(entry["outstanding"])
        elif "fate" in entry:
            fates.setdefault(entry["draw"], []).append(entry["fate"])
    faults = [f"{draw} has the fates {', '.join(names)}" for draw, names in fates.items() if len(names) > 1]
    faults += [f"{draw} has a fate but was never asked" for draw in fates if draw not in requests]
    without = [draw for draw in requests if draw not in fates]
    is_open = [draw for draw in without if requests[draw] > last_step or draw in outstanding]
    faults += [f"{draw} was asked and has no fate" for draw in without if draw not in is_open]
    faults += _jumps(entries)
    return LedgerCheck(
        num_draws=len(requests),
        fates=dict(Counter(name for names in fates.values() for name in names)),
        num_rewinds=sum(e.get("event") == "rewound" for e in read_ledger(path)),
        open_draws=tuple(is_open),
        faults=tuple(faults),
    )


def _jumps(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Contradictions between the stream's cursor and the requested positions."""
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
        result = check_ledger(path)
    except LedgerError as error:
        print(f"fault: {error}")
        return 1
    fates = ", ".join(f"{count} {fate}" for fate, count in sorted(result.fates.items())) or "no fates"
    print(f"{result.num_draws} draws: {fates}; {len(result.open_draws)} open; {result.num_rewinds} rewinds")
    for fault in result.faults:
        print(f"fault: {fault}")
    return 1 if result.faults else 0


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Whole lines with their byte offsets; raises `LedgerError` for a line that is no JSON object."""
    entries: list[tuple[int, dict[str, Any]]] = []
    offset = 0
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            raise LedgerError(
                f"{path} line {number} must be a JSON object, got {line[:60].decode(errors='replace')!r}; "
                "restore the damaged file, or start again with --run.resume never"
            )
        entries.append((offset, cast(dict[str, Any], entry)))
        offset += len(line) + 1
    return entries


if __name__ == "__main__":
    sys.exit(main())
