"""Time and memory of a run's attempts: `attempts.jsonl`, one line for each attempt that was not killed.

A run that was stopped and resumed has several attempts. The time of a killed attempt is missing.
"""

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import PublishError
from common.runtime.atomic_files import append_line, read_lines
from common.runtime.metrics import MetricsFile
from common.runtime.peak_memory import MemorySampler
from deploy.reporting.progress import Progress
from learner.records.record import note_publish_failure

logger = logging.getLogger(__name__)
ATTEMPTS = "attempts.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One start of a run, from its command to its end."""

    started: float
    """Seconds since 1970."""
    seconds_total: float
    seconds_by_phase: Mapping[str, float]
    peak_memory_bytes: int
    last_step: int
    """The last step with a line of metrics; 0 for none."""


@contextmanager
def attempt(folder: Path, progress: Progress, memory: MemorySampler) -> Generator[None]:
    """Records an attempt, and a publish that failed a verification, however the block ends.

    A block that succeeds without a phase had nothing to do, and is not recorded.
    """
    phases_before = set(progress.seconds)
    try:
        yield
    except BaseException as error:
        # a full disk must not hide the error that ended the attempt
        try:
            if isinstance(error, PublishError):
                note_publish_failure(folder, error)
            _note(folder, progress, memory)
        except OSError as fault:
            logger.warning("the attempt's end must be written to %s, and was not: %s", folder, fault)
        raise
    if set(progress.seconds) != phases_before:
        _note(folder, progress, memory)


def _note(folder: Path, progress: Progress, memory: MemorySampler) -> None:
    lines = MetricsFile(folder / "metrics.jsonl").read()
    ended = Attempt(
        started=round(progress.started, 3),
        seconds_total=round(progress.seconds_total, 3),
        seconds_by_phase={k: round(v, 3) for k, v in progress.seconds.items()},
        peak_memory_bytes=memory.peak_bytes,
        last_step=int(lines[-1]["step"]) if lines else 0,
    )
    append_line(folder / ATTEMPTS, asdict(ended))


def read_attempts(folder: Path) -> list[Attempt]:
    """Finished attempts, oldest first."""
    return [Attempt(**line) for line in read_lines(folder / ATTEMPTS)]


def seconds_by_phase(attempts: Sequence[Attempt]) -> dict[str, float]:
    phases = dict.fromkeys(phase for record in attempts for phase in record.seconds_by_phase)
    return {phase: sum(record.seconds_by_phase.get(phase, 0.0) for record in attempts) for phase in phases}
