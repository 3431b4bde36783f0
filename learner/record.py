"""What each step leaves in the run folder: its samples, a metrics line, curves, a line on the screen."""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from common.durable import whole
from common.metrics import MetricsFile
from common.types import Group, StepReport
from learner.publisher import PublishReport


class StepDisplay(Protocol):
    """Shows a finished step."""

    def step(self, step: int, text: str) -> None: ...


class Curves(Protocol):
    """Takes the values of a step: TensorBoard, W&B."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None: ...


class RunRecorder:
    """A `StepRecorder` over a run folder; remembers what the closing table says."""

    def __init__(
        self,
        folder: Path,
        *,
        metrics: MetricsFile,
        display: StepDisplay,
        curves: Sequence[Curves] = (),
        lineage: int = 0,
    ) -> None:
        self.folder = folder
        self.reports: list[StepReport] = []
        self.published: list[PublishReport] = []
        self.example: Group | None = None
        self._metrics, self._display, self._curves, self._lineage = metrics, display, curves, lineage

    def __call__(self, step: int, groups: Sequence[Group], report: StepReport, published: PublishReport) -> None:
        """Writes the step's samples, then its metrics: a line in the metrics means whole samples."""
        write_samples(sample_file(self.folder, step), groups)
        line = {**report.metrics, **_of_publish(published), "run/lineage": float(self._lineage)}
        line |= {f"seconds/{k}": v for k, v in report.seconds.items()}
        self._metrics.write(step, line)
        for curves in self._curves:
            curves.write(step, line)
        self.reports.append(report)
        self.published.append(published)
        self.example = max(groups, key=lambda g: max(s.score.total for s in g.samples))
        metrics = report.metrics
        self._display.step(
            step,
            f"reward {metrics['reward/total/mean']:.2f}  length {metrics['rollout/length/mean']:.0f}  "
            f"logprob diff {metrics['learner/logprob_diff/max']:.0e}  rollout {report.seconds['rollout']:.1f} "
            f"learn {report.seconds['learn']:.1f} publish {report.seconds['publish']:.1f} s",
        )


def _of_publish(published: PublishReport) -> dict[str, float]:
    seconds = {f"publish/{phase}/seconds": value for phase, value in published.seconds.items()}
    canary = {
        f"publish/canary/{engine}/{stat}": getattr(agreement, stat)
        for engine, agreement in published.canary.items()
        for stat in ("mean", "max")
    }
    return {"publish/version": float(published.version), **seconds, **canary}


def sample_file(folder: Path, step: int) -> Path:
    """Where a step's samples stand."""
    return folder / "samples" / f"step_{step:06d}.jsonl.gz"


def rewind_records(folder: Path, *, step: int) -> None:
    """Removes what stands after a step: metrics and samples."""
    metrics = MetricsFile(folder / "metrics.jsonl")
    if (folder / "metrics.jsonl").exists():
        metrics.keep_until(step)
    for path in (folder / "samples").glob("step_*"):
        if int(path.name.split("_")[1].split(".")[0]) > step:
            path.unlink()


def write_samples(path: Path, groups: Sequence[Group]) -> None:
    """One line per sample, gzipped, put in place whole."""
    with whole(path) as partial, gzip.open(partial, "wt", encoding="utf-8") as file:
        for group in groups:
            record = group.prompt.draw.record
            for index, sample in enumerate(group.samples):
                line = {
                    "draw": group.prompt.draw.key,
                    "index": index,
                    "clip": record.clip.video_path or record.clip.audio_path,
                    "label": record.label,
                    "text": sample.completion.text,
                    "reward": sample.score.total,
                    "breakdown": dict(sample.score.breakdown),
                    "finish_reason": sample.completion.finish_reason,
                    "token_ids": sample.completion.token_ids,
                    "rollout_logprobs": sample.completion.rollout_logprobs,
                    "version_spans": [asdict(s) for s in sample.completion.version_spans],
                    "engine": group.engine,
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
