"""What a step leaves in the run folder."""

import asyncio
import gc
import gzip
import json
import math
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.runtime.metrics import MetricsFile, distribution
from common.types import Group, StepReport
from learner.publishing.publisher import PublishReport
from learner.publishing.verification import Agreement
from learner.records import record
from learner.records.record import (
    CurvedMetrics,
    RunRecorder,
    read_samples,
    rewind_records,
    sample_file,
    write_samples,
)
from tests.support.builders import make_draw, make_group


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Gzipped JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_every_sample_is_a_line_with_all_that_it_takes_to_evaluate_it(tmp_path: Path) -> None:
    groups = [
        make_group([1.0, 0.0], lengths=[2, 1]),
        make_group([0.5], draw=make_draw("ü", epoch=3), first_token=9),
    ]
    path = tmp_path / "step_000001.jsonl.gz"
    write_samples(path, groups)
    lines = lines_of(path)
    assert [(x["draw"], x["index"], x["reward"]) for x in lines] == [
        ("0/clip-0/0", 0, 1.0),
        ("0/clip-0/0", 1, 0.0),
        ("3/ü/0", 0, 0.5),
    ]
    first = groups[0].samples[0].completion
    assert lines[0] == {
        "draw": "0/clip-0/0",
        "index": 0,
        "clip": "/data/clip-0.mp4",
        "prompt_id": "clip-0",
        "video_path": "/data/clip-0.mp4",
        "label": "happy",
        "taxonomy": "open",
        "dataset": "d",
        "split": "train",
        "question": "How?",
        "text": "answer 1",
        "reward": 1.0,
        "breakdown": {"accuracy": 1.0},
        "details": {},
        "facts": {},
        "finish_reason": "stop",
        "token_ids": [1, 2],
        "rollout_logprobs": list(first.rollout_logprobs),
        "version_spans": [{"version": 0, "start": 0, "end": 2}],
        "engine": "engine-0",
    }
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_samples_come_back_as_they_were_written(tmp_path: Path) -> None:
    group = make_group([1.0, 0.0])
    # U+2028 breaks lines for some readers
    object.__setattr__(group.samples[0].completion, "text", "ü\u2028\r\n")
    path = tmp_path / "step_000001.jsonl.gz"
    write_samples(path, [group])
    assert [(x["text"], x["reward"]) for x in read_samples(path)] == [("ü\u2028\r\n", 1.0), ("answer 2", 0.0)]


def test_a_transcript_that_is_no_unicode_is_recorded_by_its_escape(tmp_path: Path) -> None:
    draw = make_draw()
    draw = replace(draw, record=replace(draw.record, transcript="half \ud83d"))
    path = tmp_path / "step_000001.jsonl.gz"
    write_samples(path, [make_group([1.0], draw=draw)])
    assert read_samples(path)[0]["transcript"] == "half \ud83d"


def test_a_recorder_keeps_nothing_of_a_step(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    recorder = RunRecorder(tmp_path, metrics=MetricsFile(tmp_path / "metrics.jsonl"), display=Screen())
    group = make_group([1.0])
    metrics = {"reward/total/mean": 0.5, "rollout/length/mean": 1.0, "learner/logprob_diff/max": 2e-6}
    seconds = {"rollout": 1.5, "learn": 2.5, "publish": 0.25}
    published = PublishReport(version=1, num_bytes=4, canary={}, canary_tolerance=1e-4, num_rehearsals=0)
    before = sys.getrefcount(group)
    asyncio.run(recorder(1, [group], StepReport(metrics=metrics, seconds=seconds), published))
    gc.collect()
    # a clip that is still referred to stays in the object store
    assert sys.getrefcount(group) == before


def test_draws_go_on_while_samples_are_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "samples").mkdir()
    went_on = threading.Event()

    def compress(path: Path, groups: Sequence[Group]) -> None:
        # on the event loop, nobody would set it
        assert went_on.wait(timeout=60)

    async def work() -> None:
        monkeypatch.setattr(record, "write_samples", compress)
        recorder = RunRecorder(tmp_path, metrics=MetricsFile(tmp_path / "metrics.jsonl"), display=Screen())
        metrics = {"reward/total/mean": 0.5, "rollout/length/mean": 1.0, "learner/logprob_diff/max": 2e-6}
        report = StepReport(metrics=metrics, seconds={"rollout": 1.5, "learn": 2.5})
        recording = asyncio.create_task(recorder(1, [make_group([1.0])], report, None))
        await asyncio.sleep(0)
        went_on.set()
        await recording

    asyncio.run(work())


def test_samples_that_break_off_leave_no_file(tmp_path: Path) -> None:
    broken = make_group([1.0])
    object.__setattr__(broken.samples[0].completion, "text", object())
    with pytest.raises(TypeError):
        write_samples(tmp_path / "step.jsonl.gz", [broken])
    assert not (tmp_path / "step.jsonl.gz").exists()


def test_metrics_are_one_line_per_step(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "m.jsonl")
    metrics.write(1, {"learner/loss": 0.5})
    MetricsFile(tmp_path / "m.jsonl").write(2, {"learner/loss": 0.25})
    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "learner/loss": 0.5}, {"step": 2, "learner/loss": 0.25}]


def test_a_metrics_line_that_broke_off_is_not_read(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "m.jsonl")
    assert metrics.read() == []
    metrics.write(1, {"a": 0.5})
    with (tmp_path / "m.jsonl").open("a") as file:
        file.write('{"step": 2, "a"')
    assert metrics.read() == [{"step": 1, "a": 0.5}]


def test_metrics_are_kept_until_a_step_and_resume_after_it(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "m.jsonl")
    for step in (1, 2, 3):
        metrics.write(step, {"a": float(step)})
    with (tmp_path / "m.jsonl").open("a") as file:
        file.write('{"step": 4')
    metrics.keep_until(2)
    metrics.write(3, {"a": 30.0})
    assert metrics.read() == [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}, {"step": 3, "a": 30.0}]
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


def test_rewinding_removes_what_stands_after_a_step_and_no_more(tmp_path: Path) -> None:
    rewind_records(tmp_path, step=0)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "samples").mkdir()
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(1, 12):
        metrics.write(step, {})
        write_samples(sample_file(tmp_path, step), [make_group([1.0])])
    (tmp_path / "samples" / "step_000012.jsonl.gz.partial").write_text("torn")
    rewind_records(tmp_path, step=9)
    assert [line["step"] for line in metrics.read()] == list(range(1, 10))
    assert sorted((tmp_path / "samples").iterdir()) == [sample_file(tmp_path, step) for step in range(1, 10)]


def test_a_distribution_by_hand() -> None:
    assert distribution("a/b", [1.0, 4.0, 1.0]) == {"a/b/mean": 2.0, "a/b/min": 1.0, "a/b/max": 4.0}
    assert distribution("a/b", []) == {}


class Screen:
    """What a person would see."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def step(self, step: int, text: str) -> None:
        """Keeps it."""
        self.lines.append(f"{step} {text}")


class Drawing:
    """Curves, as points."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keeps them."""
        self.points.append((step, dict(metrics)))


def test_a_step_is_recorded_in_samples_metrics_and_on_the_screen(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    screen = Screen()
    curves = Drawing()
    recorder = RunRecorder(
        tmp_path,
        metrics=CurvedMetrics(tmp_path / "metrics.jsonl", curves=[curves]),
        display=screen,
        lineage=2,
    )
    groups = [make_group([0.0, 0.5]), make_group([0.0, 2.0], draw=make_draw("best"))]
    metrics = {"reward/total/mean": 0.625, "rollout/length/mean": 1.0, "learner/logprob_diff/max": 2e-6}
    report = StepReport(metrics=metrics, seconds={"rollout": 1.5, "learn": 2.5, "publish": 0.25})
    canary = {"engine-0": Agreement(mean=1e-7, max=3e-7, by_probe=(3e-7,))}
    published = PublishReport(
        version=4,
        num_bytes=8,
        canary=canary,
        canary_tolerance=0.03,
        num_rehearsals=2,
        seconds={"pause": 0.125},
    )
    asyncio.run(recorder(4, groups, report, published))
    assert len(lines_of(tmp_path / "samples" / "step_000004.jsonl.gz")) == 4
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line == {
        "step": 4,
        **metrics,
        "seconds/rollout": 1.5,
        "seconds/learn": 2.5,
        "seconds/publish": 0.25,
        "publish/pause/seconds": 0.125,
        "publish/canary/engine-0/mean": 1e-7,
        "publish/canary/engine-0/max": 3e-7,
        "publish/canary/tolerance": 0.03,
        "publish/rehearsals": 2.0,
        "publish/version": 4.0,
        "run/lineage": 2.0,
    }
    assert curves.points == [(4, {k: v for k, v in line.items() if k != "step"})]
    assert len(screen.lines) == 1
    for part in ("4 reward 0.62", "length 1", "logprob diff 2e-06", "rollout 1.5 learn 2.5 publish 0.2 s"):
        assert part in screen.lines[0], part


def test_what_is_not_finite_is_null_in_the_file_and_comes_back_as_no_number(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.write(1, {"learner/loss": math.nan, "learner/grad_norm": math.inf, "learner/lr": 0.5})
    metrics.write(2, {"learner/loss": 1.0})
    metrics.keep_until(1)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 1, "learner/loss": null, "learner/grad_norm": null, "learner/lr": 0.5}\n'
    (line,) = metrics.read()
    assert math.isnan(line["learner/loss"])
    assert line["learner/lr"] == 0.5
