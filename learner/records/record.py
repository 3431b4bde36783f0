"""The records of a step in the run folder: samples, a metrics line, curves, and a line on the screen."""

import asyncio
import gzip
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from common.errors import PublishError
from common.runtime.atomic_files import append_line, atomic_write, read_lines
from common.runtime.metrics import MetricsFile
from common.types import Group, Record, StepReport
from learner.checkpoints import checkpoint
from learner.checkpoints.checkpoint import RunState
from learner.ledger import Ledger
from learner.publishing.publisher import PublishReport

PUBLISH_FAILURES = "publish_failures.jsonl"


class StepDisplay(Protocol):
    """Shows a finished step."""

    def step(self, step: int, text: str) -> None: ...


class Curves(Protocol):
    """Takes the values of a step, such as TensorBoard or W&B."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None: ...


class CurvedMetrics(MetricsFile):
    """A metrics file whose lines are also drawn."""

    def __init__(self, path: Path, *, curves: Sequence[Curves]) -> None:
        super().__init__(path)
        self._curves = curves

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        super().write(step, metrics)
        for curves in self._curves:
            curves.write(step, metrics)


class RunRecorder:
    """A `StepRecorder` over a run folder."""

    def __init__(self, folder: Path, *, metrics: MetricsFile, display: StepDisplay, lineage: int = 0) -> None:
        self.folder = folder
        self._metrics, self._display, self._lineage = metrics, display, lineage

    async def __call__(
        self, step: int, groups: Sequence[Group], report: StepReport, published: PublishReport | None
    ) -> Path:
        # in a thread: compression would hold up completions and rewards of the next groups
        # samples first: a line in the metrics means whole samples
        samples = sample_file(self.folder, step)
        await asyncio.to_thread(write_samples, samples, groups)
        line = {**report.metrics, "run/lineage": float(self._lineage)}
        line |= _of_publish(published) if published else {}
        self._metrics.write(step, line | {f"seconds/{k}": v for k, v in report.seconds.items()})
        metrics = report.metrics
        self._display.step(
            step,
            f"reward {metrics['reward/total/mean']:.2f}  length {metrics['rollout/length/mean']:.0f}  "
            f"logprob diff {metrics['learner/logprob_diff/max']:.0e}  rollout {report.seconds['rollout']:.1f} "
            f"learn {report.seconds['learn']:.1f} publish {report.seconds.get('publish', 0.0):.1f} s"
            + ("" if published else "  left out: not finite"),
        )
        return samples


def _of_publish(published: PublishReport) -> dict[str, float]:
    seconds = {f"publish/{phase}/seconds": value for phase, value in published.seconds.items()}
    canary = {
        f"publish/canary/{engine}/{stat}": getattr(agreement, stat)
        for engine, agreement in published.canary.items()
        for stat in ("mean", "max")
    }
    return {
        "publish/version": float(published.version),
        "publish/rehearsals": float(published.num_rehearsals),
        "publish/canary/tolerance": published.canary_tolerance,
        **seconds,
        **canary,
    }


def note_publish_failure(folder: Path, error: PublishError) -> None:
    """Adds a line to `publish_failures.jsonl`: a failed publish ends the run before its step has a metrics line."""
    line = {"proof": error.proof, "engine": error.engine, "subject": error.subject, "error": str(error)}
    append_line(folder / PUBLISH_FAILURES, {"time": round(time.time(), 3), **line})


def publish_failures(folder: Path) -> list[dict[str, Any]]:
    """Lines of all attempts, oldest first."""
    return read_lines(folder / PUBLISH_FAILURES)


def sample_file(folder: Path, step: int) -> Path:
    return folder / "samples" / f"step_{step:06d}.jsonl.gz"


def take_up_records(folder: Path, state: RunState) -> Ledger:
    """Opens a stage's ledger; an earlier attempt's records and checkpoints after the state become void."""
    folder.mkdir(mode=0o700, exist_ok=True)
    ledger = Ledger(folder / "ledger.jsonl")
    if ledger.num_bytes > state.ledger_bytes:
        ledger.rewound(step=state.step, ledger_bytes=state.ledger_bytes)
        ledger.commit()
    rewind_records(folder, step=state.step)
    checkpoint.clear_after(folder, state.step)
    return ledger


def rewind_records(folder: Path, *, step: int) -> None:
    """Removes metrics and samples after a step."""
    metrics = MetricsFile(folder / "metrics.jsonl")
    if (folder / "metrics.jsonl").exists():
        metrics.keep_until(step)
    for path in (folder / "samples").glob("step_*"):
        if int(path.name.split("_")[1].split(".")[0]) > step:
            path.unlink()


def write_samples(path: Path, groups: Sequence[Group]) -> None:
    """Writes one line per sample, gzipped, in one atomic write."""
    # half a surrogate pair becomes its escape, which JSON reads back
    with (
        atomic_write(path) as partial,
        gzip.open(partial, "wt", encoding="utf-8", errors="backslashreplace") as file,
    ):
        for group in groups:
            record = group.prompt.draw.record
            for index, sample in enumerate(group.samples):
                line = {
                    "draw": group.prompt.draw.key,
                    "index": index,
                    "clip": record.clip.video_path or record.clip.audio_path,
                    **_fields_of(record),
                    "text": sample.completion.text,
                    "reward": sample.score.total,
                    "breakdown": dict(sample.score.breakdown),
                    "details": dict(sample.score.details),
                    "facts": dict(sample.score.facts),
                    "finish_reason": sample.completion.finish_reason,
                    "token_ids": sample.completion.token_ids,
                    "rollout_logprobs": sample.completion.rollout_logprobs,
                    "version_spans": [asdict(s) for s in sample.completion.version_spans],
                    "engine": group.engine,
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _fields_of(record: Record) -> dict[str, Any]:
    # named as in `POST /v1/score`
    fields = {
        "prompt_id": record.prompt_id,
        "video_path": record.clip.video_path,
        "audio_path": record.clip.audio_path,
        "label": record.label,
        "labels": list(record.labels) or None,
        "label_distribution": None if record.label_distribution is None else dict(record.label_distribution),
        "taxonomy": record.taxonomy,
        "dataset": record.dataset,
        "split": record.split,
        "question": record.question,
        "transcript": record.transcript,
    }
    return {key: value for key, value in fields.items() if value is not None}


def read_samples(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]
