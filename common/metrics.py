"""Metrics of a step as one JSON line; keys are `plane/noun/stat`."""

import json
import os
from collections.abc import Mapping
from pathlib import Path


class MetricsFile:
    """Append-only; one line per step, flushed with an fsync."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[dict[str, float]]:
        """Every whole line, oldest first."""
        if not self._path.exists():
            return []
        return [json.loads(line) for line in self._path.read_text(encoding="utf-8").split("\n")[:-1]]

    def keep_until(self, step: int) -> None:
        """Cuts off what stands behind a step, a torn line included."""
        kept = [line for line in self.read() if line["step"] <= step]
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(partial, self._path)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends a step."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def distribution(prefix: str, values: list[float]) -> dict[str, float]:
    """Mean, minimum and maximum under a prefix; nothing of an empty list."""
    if not values:
        return {}
    return {
        f"{prefix}/mean": sum(values) / len(values),
        f"{prefix}/min": min(values),
        f"{prefix}/max": max(values),
    }
