"""Metrics of a step as one JSON line; keys are `plane/noun/stat`. A value that is not finite is `null`."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from common.runtime.atomic_files import append_line, atomic_write_text, read_lines


class MetricsFile:
    """Append-only; one line per step, flushed with an fsync."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[dict[str, float]]:
        """Every complete line, oldest first; values that were not finite are NaN."""
        return [{k: math.nan if v is None else v for k, v in line.items()} for line in read_lines(self._path)]

    def keep_until(self, step: int) -> None:
        """Removes the lines after a step, and an incomplete line."""
        kept = [_as_json(line) for line in self.read() if line["step"] <= step]
        atomic_write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        append_line(self._path, _as_json({"step": step, **metrics}))


def _as_json(line: Mapping[str, float]) -> dict[str, float | None]:
    # JSON has neither infinities nor NaN
    return {k: v if math.isfinite(v) else None for k, v in line.items()}


def distribution(prefix: str, values: list[float]) -> dict[str, float]:
    """Mean, minimum and maximum under a prefix; empty for an empty list."""
    if not values:
        return {}
    return {
        f"{prefix}/mean": sum(values) / len(values),
        f"{prefix}/min": min(values),
        f"{prefix}/max": max(values),
    }
