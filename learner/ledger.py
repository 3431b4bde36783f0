"""The ledger: what became of every draw, one JSON line per event.

One writer. Events are held until `commit`, which writes them with one fsync; a torn last line is cut off
when the file is opened again.
"""

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from common.types import Draw, Failure

Event = Literal["asked", "generated", "scored"]


class Ledger:
    """Append-only; fates are `trained` and `failed`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: list[dict[str, Any]] = []
        self.failures: Counter[str] = Counter()
        self.num_trained = 0
        if path.exists():
            _cut_torn_line(path)

    def event(self, draw: Draw, event: Event, **details: Any) -> None:
        """Notes a step on a draw's way."""
        self._add(draw, event=event, **details)

    def trained(self, draw: Draw, *, step: int) -> None:
        """The draw's group was consumed by a step."""
        self.num_trained += 1
        self._add(draw, fate="trained", step=step)

    def failed(self, draw: Draw, failure: Failure) -> None:
        """The draw came to nothing, and why."""
        self.failures[f"{failure.stage}/{failure.reason}"] += 1
        self._add(draw, fate="failed", reason=failure.reason, stage=failure.stage, detail=failure.detail)

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

    def _add(self, draw: Draw, **entry: Any) -> None:
        self._pending.append({"time": round(time.time(), 3), "draw": draw.key, **entry})


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Every whole line."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def _cut_torn_line(path: Path) -> None:
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
