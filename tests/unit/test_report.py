"""What a person reads at the end: whatever the model wrote must not stop it."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from common.metrics import MetricsFile
from common.types import StepReport
from deploy.progress import Progress
from deploy.report import print_report
from learner.ledger import Ledger
from learner.proofs import Agreement
from learner.publisher import PublishReport
from learner.record import RunRecorder
from tests.support.builders import make_draw, make_group


def report_of(folder: Path, *, text: str, name: str = "clip-0") -> str:
    """Of a run of two steps; the best completion reads so."""
    console = Console(file=io.StringIO(), width=160)
    (folder / "samples").mkdir(parents=True)
    recorder = RunRecorder(
        folder, metrics=MetricsFile(folder / "metrics.jsonl"), progress=Progress(console, num_steps=2)
    )
    ledger = Ledger(folder / "ledger.jsonl")
    for step, mean in ((1, 0.25), (2, 0.75)):
        group = make_group([1.0, 0.0], draw=make_draw(name))
        object.__setattr__(group.samples[0].completion, "text", text)
        metrics = {"reward/total/mean": mean, "rollout/length/mean": 1.0, "learner/logprob_diff/max": 2e-6 * step}
        seconds = {"rollout": 1.0 * step, "learn": 2.0, "publish": 0.5}
        canary = {"engine-0": Agreement(mean=0.0, max=3e-7 / step, by_probe=(0.0,))}
        ledger.trained(make_draw(f"clip-{step}"), step=step)
        recorder(
            step,
            [group],
            StepReport(policy_version=step, metrics=metrics, seconds=seconds),
            PublishReport(version=step, num_tensors=104, num_bytes=3 * 2**20, canary=canary),
        )
    publisher = SimpleNamespace(num_publishes=2, num_rehearsals=1, canary_tolerance=1e-4)
    parts = SimpleNamespace(publisher=publisher, ledger=ledger)
    print_report(console, parts, recorder, peak_memory_bytes=3 * 2**29)  # pyright: ignore[reportArgumentType]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_says_what_the_run_was(tmp_path: Path) -> None:
    shown = report_of(tmp_path, text="<think>x</think><answer>happy</answer>")
    for part in (
        "2 GRPO steps",
        "0.250 -> 0.750",
        # mean seconds of the rollout
        "1.50",
        "2, 104 tensors, 3.0 MiB each",
        "largest difference 3.0e-07, tolerance 1.0e-04",
        "4.0e-06",
        "2 trained, failed: none",
        "1.50 GiB",
        "<think>x</think><answer>happy</answer>",
        "label happy, reward 1",
        "/data/clip-0.mp4",
        str(tmp_path),
    ):
        assert part in shown, part


@pytest.mark.parametrize("text", ["[/think] done", "[bold]", "[link=x", "\\[", "[red]answer[/red]", "", "\n"])
def test_nothing_that_a_model_writes_is_taken_for_markup(tmp_path: Path, text: str) -> None:
    shown = report_of(tmp_path, text=text)
    assert (text.strip() or "(empty)") in shown


@pytest.mark.parametrize("name", ["[hd] clip", "a[/b]c"])
def test_no_path_is_taken_for_markup(tmp_path: Path, name: str) -> None:
    shown = report_of(tmp_path / "[run]", text="x", name=name)
    assert f"/data/{name}.mp4" in shown
    assert f"{tmp_path}/[run]" in shown
