"""What a section of the check has: a device, a folder, sizes, and a file that its figures go to."""

import contextlib
import gc
import json
import os
import platform
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.gpu.subjects import RELEASED, TINY, Subject

Figures = dict[str, dict[str, Any]]
"""As in `docs/figures`: `what`, `value`, and where they apply `unit` and `target`."""


@dataclass(kw_only=True)
class Section:
    """One section while it runs."""

    name: str
    device: str
    """`cuda` or `cpu`"""
    model_path: Path
    """The checkpoint of `subject`."""
    tiny_path: Path
    out: Path
    groups: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def subject(self) -> Subject:
        return RELEASED if self.is_cuda else TINY

    @property
    def is_cuda(self) -> bool:
        return self.device == "cuda"

    def save(self, group: str, conditions: str, figures: Figures, **more: Any) -> None:
        """Adds a group of figures and writes the file at once."""
        where = f"{conditions}; {device_text()}"
        command = f"python -m tests.gpu.check --only {self.name}"
        self.groups[group] = {"conditions": where, "command": command, "figures": figures, **more}
        write_groups(self.out, self.name, self.groups)

    def synchronize(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any]) -> float:
        """Of one call, the device's part included."""
        self.synchronize()
        start_s = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - start_s

    @contextmanager
    def peak(self) -> Generator[dict[str, int]]:
        """Fills in bytes held when the block began, and the most held in it; zeros on a CPU."""
        found = {"before": 0, "peak": 0}
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            found["before"] = torch.cuda.memory_allocated()
        yield found
        if self.is_cuda:
            found["peak"] = torch.cuda.max_memory_allocated()


def write_groups(out: Path, name: str, groups: dict[str, Any]) -> None:
    """A file of figures, whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    aside = out / f".gpu-{name}.json"
    aside.write_text(json.dumps(groups, indent=1) + "\n")
    aside.replace(out / f"gpu-{name}.json")


def device_text() -> str:
    """The card or the CPU, and the versions that ran."""
    import transformers

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    with contextlib.suppress(ImportError):
        import deepspeed

        versions += f", DeepSpeed {deepspeed.__version__}"
    return f"{name}, {versions}, Python {platform.python_version()}"


def figure(what: str, value: Any, unit: str = "", **target: Any) -> dict[str, Any]:
    """One figure; `at_least` or `at_most` is its target."""
    shown = float(f"{value:.4g}") if isinstance(value, float) else value
    entry: dict[str, Any] = {"what": what, "value": shown}
    if unit:
        entry["unit"] = unit
    if target:
        entry["target"] = target
    return entry
