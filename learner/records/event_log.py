"""The event log of a run: a line in `events.jsonl` for each begin and end of a phase, and each engine event."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class EventLog:
    """Writes events, and sums the seconds of the current step by phase; overlapping phases each count in full."""

    def __init__(self, path: Path, *, show: Callable[[str], None] = lambda phase: None) -> None:
        """`show` is called with each phase that begins, and may be replaced."""
        self._path, self.show = path, show
        self._step = 0
        self.seconds: dict[str, float] = defaultdict(float)

    def begin_step(self, step: int) -> None:
        self._step = step
        self.seconds.clear()

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Writes the phase's begin, and its end after the block."""
        start = time.perf_counter()
        self.show(name)
        self.write(phase=name, event="begin")
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start
            self.write(phase=name, event="end")

    def write(self, **fields: Any) -> None:
        """Writes one line, with the time and the current step."""
        line = {"time": round(time.time(), 3), "step": self._step, **fields}
        # flushed, not synced: the lines only describe the present
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
