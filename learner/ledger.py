"""The ledger: what became of every draw, one JSON line per event.

One writer. Events are held until `commit`, which writes them with one fsync; a torn last line is cut off when the
file is opened again.

    python -m learner.ledger check RUN     every draw has one fate, and none was trained twice
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.types import Draw, Failure

Event = Literal["asked", "generated", "scored", "stale"]


class Ledger:
    """Append-only; fates are `trained`, `failed` and `redrawn`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: list[dict[str, Any]] = []
        self.failures: Counter[str] = Counter()
        self.num_trained = 0
        self.lineage = 0
        """How often the run was rewound."""
        if path.exists():
            _cut_torn_line(path)
            self.lineage = sum(entry.get("event") == "rewound" for entry in read_ledger(path))

    @property
    def num_bytes(self) -> int:
        """Length of what is durable."""
        return self.path.stat().st_size if self.path.exists() else 0

    def event(self, draw: Draw, event: Event, **details: Any) -> None:
        """Notes a step on a draw's way."""
        self._add(draw=draw.key, event=event, **details)

    def trained(self, draw: Draw, *, step: int) -> None:
        """The draw's group was consumed by a step."""
        self.num_trained += 1
        self._add(draw=draw.key, fate="trained", step=step)

    def failed(self, draw: Draw, failure: Failure) -> None:
        """The draw came to nothing, and why."""
        self.failures[f"{failure.stage}/{failure.reason}"] += 1
        self._add(draw=draw.key, fate="failed", reason=failure.reason, stage=failure.stage, detail=failure.detail)

    def redrawn(self, draw: Draw) -> None:
        """The draw's group came too late; the prompt is asked anew as another draw."""
        self._add(draw=draw.key, fate="redrawn")

    def stepped(self, step: int, *, outstanding: Sequence[Draw]) -> None:
        """A step is over; all draws so far have their fate, but for those that are outstanding."""
        self._add(event="stepped", step=step, outstanding=[draw.key for draw in outstanding])

    def rewound(self, *, step: int, ledger_bytes: int) -> None:
        """The run goes on after a step: what stands behind that step's position is void."""
        self.lineage += 1
        self._add(event="rewound", step=step, ledger_bytes=ledger_bytes, lineage=self.lineage)

    def commit(self) -> None:
        """Makes everything so far durable."""
        if not self._pending:
            return
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in self._pending)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        # only now: a full disk must not lose what was noted
        self._pending.clear()

    def _add(self, **entry: Any) -> None:
        self._pending.append({"time": round(time.time(), 3), **entry})


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Every whole line."""
    return [entry for _, entry in _lines(path)]


def live_entries(path: Path) -> list[dict[str, Any]]:
    """Every whole line that no later rewinding made void."""
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
    """On what is live, every draw before the last step has exactly one fate, and none was trained twice."""
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
    return LedgerCheck(
        num_draws=len(asked),
        fates=dict(Counter(f for found in fates.values() for f in found)),
        num_rewinds=sum(e.get("event") == "rewound" for e in read_ledger(path)),
        open_draws=tuple(is_open),
        faults=tuple(faults),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """`check RUN`: prints what became of the draws; exit code 1 where the invariant is broken."""
    parser = argparse.ArgumentParser(prog="python -m learner.ledger", description="Checks a run's ledger.")
    parser.add_argument("command", choices=["check"])
    parser.add_argument("run", type=Path, help="a run folder, or a ledger.jsonl")
    path: Path = parser.parse_args(argv).run
    path = path / "ledger.jsonl" if path.is_dir() else path
    if not path.is_file():
        print(f"error: RUN must hold a ledger.jsonl, got {str(path)!r}; give a run folder", file=sys.stderr)
        return 2
    found = check_ledger(path)
    fates = ", ".join(f"{count} {fate}" for fate, count in sorted(found.fates.items())) or "no fates"
    print(f"{found.num_draws} draws: {fates}; {len(found.open_draws)} open; {found.num_rewinds} rewinds")
    for fault in found.faults:
        print(f"fault: {fault}")
    return 1 if found.faults else 0


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Whole lines with their byte offsets."""
    found: list[tuple[int, dict[str, Any]]] = []
    offset = 0
    for line in path.read_bytes().split(b"\n")[:-1]:
        found.append((offset, json.loads(line)))
        offset += len(line) + 1
    return found


def _cut_torn_line(path: Path) -> None:
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))


if __name__ == "__main__":
    sys.exit(main())
