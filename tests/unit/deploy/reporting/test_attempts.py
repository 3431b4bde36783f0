"""What an attempt leaves behind: its line, however it ended, and the publish that ended it."""

import asyncio
import errno
import io
from pathlib import Path
from typing import Any, NoReturn

import pytest
from rich.console import Console

import deploy.reporting.attempts
from common.errors import PublishError, StopRequestedError
from common.runtime.metrics import MetricsFile
from common.runtime.peak_memory import MemorySampler
from deploy.reporting.attempts import Attempt, attempt, read_attempts
from deploy.reporting.progress import Progress
from learner.records.record import publish_failures


class Run:
    """A folder, and the progress of one command, whose clock stands still unless told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.now = 100.0
        monkeypatch.setattr("deploy.reporting.progress.time.perf_counter", lambda: self.now)
        monkeypatch.setattr("deploy.reporting.progress.time.time", lambda: 1.7e9)
        self.progress = Progress(Console(file=io.StringIO()))
        self.memory = MemorySampler()
        self.memory.peak_bytes = 2048
        self.work("model", 3.0)

    def work(self, phase: str, seconds: float, error: BaseException | None = None) -> None:
        """A phase of so many seconds."""
        with self.progress.phase(phase):
            self.now += seconds
            if error is not None:
                raise error

    def attempt(self, *phases: tuple[str, float], error: BaseException | None = None) -> None:
        """EventLog, the last of which may fail."""
        with attempt(self.folder, self.progress, self.memory):
            for number, (phase, seconds) in enumerate(phases, start=1):
                self.work(phase, seconds, error if number == len(phases) else None)
            if error is not None:
                raise error


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """At its start: the model is there."""
    return Run(tmp_path, monkeypatch)


def test_an_attempt_is_a_line_of_all_that_it_took_since_the_command(run: Run) -> None:
    metrics = MetricsFile(run.folder / "metrics.jsonl")
    for step in (1, 2):
        metrics.write(step, {})
    run.now += 0.5
    run.attempt(("rehearsal", 1.0), ("grpo", 8.0))
    expected = Attempt(
        started=1.7e9,
        seconds_total=12.5,
        seconds_by_phase={"model": 3.0, "rehearsal": 1.0, "grpo": 8.0},
        peak_memory_bytes=2048,
        last_step=2,
    )
    assert read_attempts(run.folder) == [expected]


@pytest.mark.parametrize(
    "error", [StopRequestedError("stop"), KeyboardInterrupt(), asyncio.CancelledError(), RuntimeError("oh")]
)
def test_an_attempt_that_was_ended_has_its_line_and_the_seconds_of_its_last_phase(
    run: Run, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        run.attempt(("grpo", 8.0), error=error)
    (found,) = read_attempts(run.folder)
    assert (found.seconds_total, found.seconds_by_phase, found.last_step) == (11.0, {"model": 3.0, "grpo": 8.0}, 0)
    assert publish_failures(run.folder) == []


def test_a_start_that_finds_nothing_to_do_is_no_attempt(run: Run) -> None:
    run.attempt()
    assert list(run.folder.iterdir()) == []


def test_a_publish_that_failed_its_proof_is_noted_and_raised(run: Run) -> None:
    error = PublishError("canary on engine-1", proof="canary", engine="engine-1", subject="log-probabilities")
    with pytest.raises(PublishError) as caught:
        run.attempt(("grpo", 8.0), error=error)
    assert caught.value is error
    (noted,) = publish_failures(run.folder)
    assert isinstance(noted.pop("time"), float)
    assert noted == {
        "proof": "canary",
        "engine": "engine-1",
        "subject": "log-probabilities",
        "error": "canary on engine-1",
    }
    assert len(read_attempts(run.folder)) == 1


def test_a_full_disk_does_not_hide_what_ended_the_attempt(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(deploy.reporting.attempts, "append_line", full)
    with pytest.raises(StopRequestedError):
        run.attempt(("grpo", 8.0), error=StopRequestedError("stop"))
    assert read_attempts(run.folder) == []
