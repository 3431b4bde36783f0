"""What a person reads at the end: whatever the model wrote must not stop it."""

import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from common.metrics import MetricsFile
from deploy.report import print_report
from deploy.summary import summarize
from learner.evaluation import JudgedClip, judgement_of, write_judgement
from tests.support.builders import make_judged, metrics_line


def report_of(
    folder: Path,
    *,
    clips: Sequence[JudgedClip] = (),
    num_steps: int = 2,
    num_rehearsals: int = 1,
    failures: dict[str, int] | None = None,
) -> str:
    """Of a run of so many steps whose last policy said so."""
    folder.mkdir(exist_ok=True)
    console = Console(file=io.StringIO(), width=160)
    metrics = MetricsFile(folder / "metrics.jsonl")
    for step in range(1, num_steps + 1):
        metrics.write(
            step,
            metrics_line(
                reward__total__mean=0.25 * step,
                seconds__rollout=float(step),
                learner__logprob_diff__max=2e-6 * step,
                publish__version=float(step),
            ),
        )
    if clips:
        write_judgement(folder / "eval", judgement_of(clips, policy="grpo", policy_version=num_steps), clips)
    summary = summarize(
        folder,
        seed=0,
        corpus_sha256="",
        num_heldout=len(clips),
        canary_tolerance=1e-4,
        peak_memory_bytes=3 * 2**29,
        seconds_total=1.0,
        seconds_by_phase={},
    )
    publisher = SimpleNamespace(num_rehearsals=num_rehearsals)
    print_report(console, folder, summary, publisher=publisher, failures=failures or {})  # pyright: ignore[reportArgumentType]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(shown: str, name: str) -> str:
    """The line of a table that begins so, without its frame."""
    (line,) = (line for line in shown.splitlines() if line.strip("│┃ ").startswith(name))
    return " ".join(line.replace("│", " ").split())


def test_the_tables_say_what_the_run_was(tmp_path: Path) -> None:
    clips = [
        make_judged("a.mp4", label="sad", answer="sad", text="<think>x</think><answer>sad</answer>"),
        make_judged("b.mp4", label="sad", answer="happy"),
        make_judged("c.mp4", label="sad", answer="sad"),
        make_judged("d.mp4", label="happy", answer=None),
    ]
    shown = report_of(tmp_path, clips=clips, failures={"media/undecodable": 3})
    assert "2 GRPO steps" in shown
    assert row(shown, "reward/total/mean") == "reward/total/mean 0.250 -> 0.500"
    assert row(shown, "seconds per step: rollout") == "seconds per step: rollout 1.50"
    assert row(shown, "publishes").startswith("publishes 2, each")
    assert row(shown, "proof: rehearsal").startswith("proof: rehearsal 1 passed")
    assert row(shown, "proof: canary") == "proof: canary 0 failures, largest difference 3.0e-07"
    assert row(shown, "logprob difference").endswith("mean 1.0e-06, max 4.0e-06")
    assert row(shown, "draws that failed").endswith("media/undecodable x3")
    assert row(shown, "peak memory").endswith("1.50 GiB")
    assert "on 4 held-out clips" in shown
    assert row(shown, "WAR").startswith("WAR 50.0 [")
    # (2/3 + 0) / 2
    assert row(shown, "UAR").startswith("UAR 33.3 [")
    assert row(shown, "recall of sad (3)") == "recall of sad (3) 66.7"
    assert row(shown, "answers in form") == "answers in form 75.0"
    assert row(shown, "clips not asked") == "clips not asked, so wrong 1"
    assert row(shown, "a.mp4") == "a.mp4 sad <think>x</think><answer>sad</answer>"
    assert row(shown, "d.mp4") == "d.mp4 happy (nothing)"
    assert "b.mp4" not in shown, "one example of each label"
    assert f"run folder  {tmp_path}" in shown
    assert f"--logdir {tmp_path}/tensorboard" in shown


def test_what_was_not_run_is_not_shown(tmp_path: Path) -> None:
    shown = report_of(tmp_path, num_steps=0)
    assert shown.strip() == f"run folder  {tmp_path}"


def test_a_rehearsal_that_was_off_is_not_said_to_have_passed(tmp_path: Path) -> None:
    assert row(report_of(tmp_path, num_rehearsals=0), "proof: rehearsal") == "proof: rehearsal off"


@pytest.mark.parametrize("text", ["[/think] done", "[bold]", "[link=x", "[red]answer[/red]", "", "\n"])
def test_nothing_that_a_model_writes_is_taken_for_markup(tmp_path: Path, text: str) -> None:
    shown = report_of(tmp_path, clips=[make_judged("a", label="sad", answer="x", text=text)])
    assert (text.strip() or "(nothing)") in shown


@pytest.mark.parametrize("name", ["[hd] clip", "a[/b]c"])
def test_no_path_is_taken_for_markup(tmp_path: Path, name: str) -> None:
    shown = report_of(tmp_path / "[run]", clips=[make_judged(name, label="sad", answer="sad")])
    assert name in shown
    assert f"{tmp_path}/[run]" in shown
