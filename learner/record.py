"""What each step leaves in the run folder: a metrics line, its samples, a line on the screen."""

import gzip
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from common.metrics import MetricsFile
from common.types import Group, StepReport
from learner.publisher import PublishReport


class StepDisplay(Protocol):
    """Shows a finished step."""

    def step(self, step: int, text: str) -> None: ...


class RunRecorder:
    """A `StepRecorder` over a run folder; remembers what the closing table says."""

    def __init__(self, folder: Path, *, metrics: MetricsFile, progress: StepDisplay) -> None:
        self.folder = folder
        self.reports: list[StepReport] = []
        self.published: list[PublishReport] = []
        self.example: Group | None = None
        self._metrics, self._progress = metrics, progress

    def __call__(self, step: int, groups: Sequence[Group], report: StepReport, published: PublishReport) -> None:
        """Writes the step's samples, then its metrics: a line in the metrics means whole samples."""
        write_samples(self.folder / "samples" / f"step_{step:06d}.jsonl.gz", groups)
        seconds = {f"seconds/{k}": v for k, v in report.seconds.items()}
        publish = {f"publish/{k}/seconds": v for k, v in published.seconds.items()}
        canary = {
            f"publish/canary/{name}/{stat}": getattr(agreement, stat)
            for name, agreement in published.canary.items()
            for stat in ("mean", "max")
        }
        self._metrics.write(step, {**report.metrics, **seconds, **publish, **canary})
        self.reports.append(report)
        self.published.append(published)
        self.example = max(groups, key=lambda g: max(s.score.total for s in g.samples))
        metrics = report.metrics
        self._progress.step(
            step,
            f"version {report.policy_version}  reward {metrics['reward/total/mean']:.3f}  "
            f"length {metrics['rollout/length/mean']:.0f}  "
            f"logprob diff max {metrics['learner/logprob_diff/max']:.1e}  "
            f"rollout {report.seconds['rollout']:.1f} learn {report.seconds['learn']:.1f} "
            f"publish {report.seconds['publish']:.1f} s",
        )


def write_samples(path: Path, groups: Sequence[Group]) -> None:
    """One line per sample, gzipped, put in place whole."""
    partial = path.with_suffix(".partial")
    with gzip.open(partial, "wt", encoding="utf-8") as file:
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
    os.replace(partial, path)
