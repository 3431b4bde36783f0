"""What a person reads at the end: whatever the model wrote must not stop it."""

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from common.evaluation.predictions import Prediction, write_predictions
from common.runtime.atomic_files import append_line
from common.runtime.metrics import MetricsFile
from common.types import Failure, Group
from deploy.reporting.report import print_report
from deploy.reporting.summary import POLICIES, summarize
from learner.ledger import Ledger
from learner.loops.evaluation import answers_file, evaluation_result, write_result
from learner.records.record import sample_file, write_samples
from tests.support.builders import make_draw, make_group, make_prediction, metrics_line


def report_of(
    folder: Path,
    *,
    clips: Sequence[Prediction] = (),
    policies: Sequence[str] = ("grpo",),
    num_steps: int = 2,
    num_rehearsals: int = 1,
    num_failed: int = 0,
    samples: Sequence[Group] = (),
    width: int = 80,
) -> str:
    """Of a run of so many steps whose policies said so."""
    (folder / "samples").mkdir(parents=True)
    console = Console(file=io.StringIO(), width=width)
    metrics = MetricsFile(folder / "metrics.jsonl")
    for step in range(1, num_steps + 1):
        metrics.write(
            step,
            metrics_line(
                reward__total__mean=0.25 * step,
                seconds__rollout=float(step),
                learner__logprob_diff__max=2e-6 * step,
                publish__version=float(step),
                publish__rehearsals=float(num_rehearsals),
            ),
        )
    if clips:
        for policy in policies:
            write_predictions(answers_file(folder / "eval", policy), clips)
            write_result(folder / "eval", evaluation_result(clips, policy=policy, policy_version=num_steps))
    if samples:
        write_samples(sample_file(folder, num_steps), samples)
    ledger = Ledger(folder / "ledger.jsonl")
    for number in range(num_failed):
        failure = Failure(stage="media", reason="undecodable", detail="broken")
        ledger.failed(make_draw(f"clip-{number}"), failure)
    ledger.commit()
    attempt = {"started": 0.0, "seconds_total": 1.0, "seconds_by_phase": {}, "last_step": num_steps}
    append_line(folder / "attempts.jsonl", {**attempt, "peak_memory_bytes": 3 * 2**29})
    summary = summarize(folder, seed=0, corpus_sha256="", num_heldout=len(clips))
    print_report(console, folder, summary)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(shown: str, name: str) -> str:
    """The line of a table that begins so, without its frame."""
    (line,) = (line for line in shown.splitlines() if line.strip("│┃ ").startswith(name))
    return " ".join(line.replace("│", " ").split())


def test_the_tables_say_what_the_run_was(tmp_path: Path) -> None:
    clips = [
        make_prediction("a.mp4", label="sad", answer="sad", text="<think>x</think><answer>sad</answer>"),
        make_prediction("b.mp4", label="sad", answer="happy"),
        make_prediction("c.mp4", label="sad", answer="sad"),
        make_prediction("d.mp4", label="happy", answer=None),
    ]
    shown = report_of(tmp_path / "run", clips=clips, num_failed=3)
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
    assert row(shown, "sad (3)") == "sad (3) 66.7"
    assert row(shown, "answers in form") == "answers in form 75.0"
    assert row(shown, "not asked") == "not asked, wrong 1"
    assert row(shown, "a.mp4") == "a.mp4 sad <think>x</think><answer>sad</answer>"
    assert row(shown, "d.mp4") == "d.mp4 happy (nothing)"
    assert "b.mp4" not in shown, "one example of each label"
    assert f"run folder  {tmp_path}/run" in shown
    assert f"--logdir {tmp_path}/run/tensorboard" in shown


def test_conditions_of_the_last_policy_are_a_table_of_80_columns(tmp_path: Path) -> None:
    clips = [make_prediction(f"{i}.mp4", label="sad", answer="sad" if i % 2 else "fear") for i in range(1000)]
    shown = report_of(tmp_path / "run", clips=clips, policies=("grpo", "grpo_swapped_audio", "grpo_no_think"))
    assert "what the grpo policy's answers rest on" in shown
    assert row(shown, "av").startswith("av 50.0 [")
    assert row(shown, "swapped_audio").startswith("swapped_audio 50.0 [")
    assert row(shown, "no_think").endswith("] 100")
    assert "video_only" not in shown
    assert max(len(line) for line in shown.splitlines() if "│" in line) <= 80
    assert "rest on" not in report_of(tmp_path / "other", clips=clips)


def test_shares_of_few_clips_are_said_to_mean_nothing(tmp_path: Path) -> None:
    clips = [make_prediction(f"{i}.mp4", label="sad", answer="sad") for i in range(100)]
    note = "held-out clips are too few to evaluate a policy by: the shares above say nothing about quality"
    assert f"note        99 {note}" in report_of(tmp_path / "few", clips=clips[:99])
    assert note not in report_of(tmp_path / "enough", clips=clips)
    assert note not in report_of(tmp_path / "not evaluated")


def test_what_was_not_run_is_not_shown(tmp_path: Path) -> None:
    shown = report_of(tmp_path / "run", num_steps=0)
    assert shown.strip() == f"run folder  {tmp_path}/run"


def test_a_rehearsal_that_was_off_is_not_said_to_have_passed(tmp_path: Path) -> None:
    shown = report_of(tmp_path / "run", num_rehearsals=0)
    assert row(shown, "proof: rehearsal") == "proof: rehearsal off"


def test_draws_that_failed_are_said_or_none(tmp_path: Path) -> None:
    assert row(report_of(tmp_path / "run"), "draws that failed").endswith("failed none")


def test_without_an_evaluation_the_best_completion_of_the_last_step_is_shown(tmp_path: Path) -> None:
    samples = [make_group([0.0, 0.5]), make_group([1.75, 1.0], draw=make_draw("[best]"), first_token=7)]
    shown = report_of(tmp_path / "run", samples=samples)
    assert "one completion of the last step" in shown
    assert row(shown, "/data/[best].mp4") == "/data/[best].mp4 happy answer 7 1.75"
    assert "answer 8" not in shown


def test_a_path_and_an_answer_without_a_space_are_shown_to_their_end(tmp_path: Path) -> None:
    path, text = "/".join(["emotion"] * 12) + ".mp4", "<think></think>" + "<answer>sad</answer>" * 5
    for number in range(2):
        clips = [make_prediction(path, label="sad", answer="sad", text=text)] if number else []
        samples = [make_group([1.0], draw=make_draw(path))]
        object.__setattr__(samples[0].samples[0].completion, "text", text)
        shown = report_of(tmp_path / str(number), clips=clips, samples=samples)
        # of the cells of a column, top to bottom
        cells = [line.split("│")[1:4] for line in shown.splitlines() if line.count("│") >= 4]
        columns = ["".join(cell.strip() for cell in column) for column in zip(*cells, strict=True)]
        assert path in columns[0]
        assert text in columns[2]


def test_with_an_evaluation_held_out_clips_are_shown_instead(tmp_path: Path) -> None:
    clips = [make_prediction("a.mp4", label="sad", answer="sad")]
    shown = report_of(tmp_path / "run", clips=clips, samples=[make_group([1.0])])
    assert "one completion" not in shown


@pytest.mark.parametrize("all_right", [False, True])
def test_no_row_wraps_in_the_80_columns_of_a_job(tmp_path: Path, all_right: bool) -> None:
    # the longest label of the papers, in numbers of four digits, and the widest intervals
    num_right = {"contemptuous": 1000 if all_right else 800, "disappointed": 10, "sad": 10}
    clips = [
        make_prediction(f"{label}-{i}", label=label, answer=label if i < right else None)
        for label, right in num_right.items()
        for i in range(1000 if label == "contemptuous" else 10)
    ]
    shown = report_of(
        tmp_path / "run", clips=clips, policies=POLICIES, num_failed=200, num_rehearsals=16, num_steps=3
    )
    tables = shown.split("what the grpo policy says")[0].splitlines()
    assert max(len(line) for line in tables) <= 80
    names = ["WAR", "UAR", "contemptuous (1000)", "disappointed (10)", "answers in form", "proof: rehearsal"]
    names += ["publishes", "proof: canary", "logprob difference, trained", "draws that failed", "peak memory"]
    for name in names:
        assert row(shown, name)
    # a row that wraps has a line that begins with an empty cell
    assert [line for line in tables if line.startswith("│  ")] == []
    assert row(shown, "WAR").count("-") == 3


@pytest.mark.parametrize("text", ["[/think] done", "[bold]", "[link=x", "[red]answer[/red]", "", "\n"])
def test_nothing_that_a_model_writes_is_taken_for_markup(tmp_path: Path, text: str) -> None:
    shown = report_of(tmp_path / "run", clips=[make_prediction("a", label="sad", answer="x", text=text)])
    assert (text.strip() or "(nothing)") in shown


@pytest.mark.parametrize("name", ["[hd] clip", "a[/b]c"])
def test_no_path_is_taken_for_markup(tmp_path: Path, name: str) -> None:
    shown = report_of(tmp_path / "[run]", clips=[make_prediction(name, label="sad", answer="sad")])
    assert name in shown
    assert f"{tmp_path}/[run]" in shown
