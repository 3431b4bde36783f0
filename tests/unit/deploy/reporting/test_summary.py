"""The numbers of a run, from metrics and results written by hand."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

from common.errors import PublishError
from common.evaluation.controls import CONTROLS
from common.evaluation.predictions import Prediction
from common.runtime.atomic_files import append_line
from common.runtime.metrics import MetricsFile
from common.types import Failure
from deploy.reporting.summary import Summary, summarize, write_summary
from learner.ledger import Ledger
from learner.loops.evaluation import evaluation_result, write_result
from learner.records.record import note_publish_failure
from tests.support.builders import make_draw, make_prediction, metrics_line


def summary_of(folder: Path) -> Summary:
    """With what is not read from the folder."""
    return summarize(folder, seed=3, corpus_sha256="abc", num_heldout=4)


def attempted(folder: Path, *, seconds_total: float, peak_memory_bytes: int = 1024, **seconds: float) -> None:
    """A line as an attempt leaves it."""
    line = {
        "started": 1.7e9,
        "seconds_total": seconds_total,
        "seconds_by_phase": seconds,
        "peak_memory_bytes": peak_memory_bytes,
        "last_step": 1,
    }
    append_line(folder / "attempts.jsonl", line)


def evaluated(folder: Path, policy: str, clips: list[Prediction]) -> None:
    """Written as a run writes it."""
    write_result(folder / "eval", evaluation_result(clips, policy=policy, policy_version=0))


def test_a_run_of_nothing_has_no_numbers(tmp_path: Path) -> None:
    found = summary_of(tmp_path)
    assert (found.grpo_steps, found.publishes, found.canary_failures) == (0, 0, 0)
    assert (found.rehearsals, found.draws_failed, found.num_attempts) == (0, {}, 0)
    assert (found.seconds_total, found.peak_memory_bytes) == (0.0, 0)
    assert (found.war_untrained, found.uar_grpo, found.format_rate_grpo) == (None, None, None)
    assert (found.logprob_diff_mean, found.logprob_diff_max, found.kl_rollout_mean) == (None, None, None)


def test_steps_are_summed_by_hand(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.write(
        1,
        metrics_line(
            learner__num_tokens=100.0,
            learner__logprob_diff__mean=1e-6,
            learner__logprob_diff__max=5e-5,
            learner__kl_rollout__mean=1e-9,
        ),
    )
    metrics.write(
        2,
        metrics_line(
            learner__num_tokens=300.0,
            learner__logprob_diff__mean=5e-6,
            learner__logprob_diff__max=2e-5,
            learner__kl_rollout__mean=5e-9,
            publish__version=2.0,
            seconds__rollout=3.005,
        ),
    )
    attempted(tmp_path, seconds_total=9.0, grpo=7.123456)
    found = summary_of(tmp_path)
    assert (found.grpo_steps, found.publishes) == (2, 2)
    # over tokens, not over steps: (100 x 1 + 300 x 5) / 400
    assert found.logprob_diff_mean == pytest.approx(4e-6, rel=1e-9)
    assert found.kl_rollout_mean == pytest.approx(4e-9, rel=1e-9)
    assert found.logprob_diff_max == 5e-5
    assert found.seconds_by_phase == {"grpo": 7.12, "rollout": 4.0, "learn": 4.0, "publish": 1.0}


def test_a_publish_that_misses_the_tolerance_on_any_engine_counts_once(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    name = "publish/canary/engine-1/max"
    for step, values in enumerate([(1e-5, 1e-5), (2e-4, 3e-4), (1e-5, math.nan), (1e-4, 1e-4)], start=1):
        metrics.write(step, metrics_line(**{"publish__canary__engine-0__max": values[0]}) | {name: values[1]})
    assert summary_of(tmp_path).canary_failures == 2


def test_a_publish_is_evaluated_by_the_tolerance_of_its_time(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    # bfloat16: the noise of each attempt sets its own
    for step, (largest, tolerance) in enumerate([(0.02, 0.03), (0.02, 0.01), (0.03, 0.03)], start=1):
        metrics.write(
            step,
            metrics_line(**{"publish__canary__engine-0__max": largest, "publish__canary__tolerance": tolerance}),
        )
    assert summary_of(tmp_path).canary_failures == 1


def test_a_canary_that_stopped_the_run_is_counted(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "metrics.jsonl").write(1, metrics_line())
    for proof in ("canary", "receipt", "rehearsal", "update", "canary"):
        note_publish_failure(tmp_path, PublishError("no", proof=proof, engine="engine-0", subject="t"))
    assert summary_of(tmp_path).canary_failures == 2


def test_steps_that_were_left_out_are_counted_and_averaged_over_nowhere(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.write(1, metrics_line())
    left_out = metrics_line(learner__is_skipped=1.0, learner__logprob_diff__max=math.inf, learner__num_tokens=9.0)
    published = ("publish/", "seconds/publish")
    metrics.write(2, {k: v for k, v in left_out.items() if not k.startswith(published)})
    found = summary_of(tmp_path)
    assert (found.grpo_steps, found.steps_left_out, found.publishes, found.canary_failures) == (2, 1, 1, 0)
    assert (found.logprob_diff_mean, found.logprob_diff_max) == (1e-6, 1e-5)
    assert found.seconds_by_phase["publish"] == 0.5


def test_attempts_add_up(tmp_path: Path) -> None:
    attempted(tmp_path, seconds_total=100.0, peak_memory_bytes=3000, model=1.0, grpo=80.0)
    attempted(tmp_path, seconds_total=50.5, peak_memory_bytes=2000, model=0.5, rehearsal=2.0, grpo=40.0)
    found = summary_of(tmp_path)
    assert (found.num_attempts, found.seconds_total, found.peak_memory_bytes) == (2, 150.5, 3000)
    parts = {"rollout": 0, "learn": 0, "publish": 0}
    assert found.seconds_by_phase == {"model": 1.5, "grpo": 120.0, "rehearsal": 2.0, **parts}


def test_draws_that_failed_are_those_of_the_steps_that_count(tmp_path: Path) -> None:
    broken = Failure(stage="media", reason="undecodable", detail="no")
    late = Failure(stage="rollout", reason="deadline", detail="no")
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.failed(make_draw("a"), broken)
    ledger.commit()
    kept = ledger.num_bytes
    ledger.failed(make_draw("b"), broken)
    ledger.commit()
    # another attempt, which has counted nothing yet
    again = Ledger(tmp_path / "ledger.jsonl")
    again.rewound(step=0, ledger_bytes=kept)
    again.failed(make_draw("b"), late)
    again.failed(make_draw("c"), broken)
    again.commit()
    assert summary_of(tmp_path).draws_failed == {"media/undecodable": 2, "rollout/deadline": 1}


def test_rehearsals_are_those_before_the_last_step(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step, number in enumerate([3.0, 3.0, 2.0], start=1):
        metrics.write(step, metrics_line(publish__rehearsals=number))
    assert summary_of(tmp_path).rehearsals == 2


def test_recognition_is_read_by_policy(tmp_path: Path) -> None:
    evaluated(tmp_path, "untrained", [make_prediction("a", label="sad", answer="happy")])
    clips = [
        make_prediction("a", label="sad", answer="sad"),
        make_prediction("b", label="sad", answer="sad"),
        make_prediction("c", label="sad", answer="happy"),
        make_prediction("d", label="happy", answer=None),
    ]
    evaluated(tmp_path, "grpo", clips)
    found = summary_of(tmp_path)
    assert (found.war_untrained, found.uar_untrained) == (0.0, 0.0)
    assert (found.war_cold_start, found.uar_cold_start) == (None, None)
    assert (found.war_grpo, found.uar_grpo) == (0.5, pytest.approx((2 / 3 + 0) / 2))
    assert found.format_rate_grpo == 0.75
    assert (found.war_grpo_video_only, found.war_grpo_no_think) == (None, None)


def test_a_policy_in_other_conditions_is_read_by_condition(tmp_path: Path) -> None:
    for count, control in enumerate(CONTROLS):
        clips = [make_prediction(str(i), label="sad", answer="sad" if i < count else "fear") for i in range(5)]
        evaluated(tmp_path, f"grpo_{control}", clips)
    values = asdict(summary_of(tmp_path))
    assert [values[f"war_grpo_{control}"] for control in CONTROLS] == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert values["war_grpo"] is None


def test_what_is_written_is_json_with_every_field(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "metrics.jsonl").write(1, metrics_line())
    attempted(tmp_path, seconds_total=9.0)
    found = summary_of(tmp_path)
    write_summary(tmp_path, found)
    path = tmp_path / "summary.json"
    values = json.loads(path.read_text())
    assert Summary(**values) == found
    assert (values["seed"], values["corpus_sha256"], values["num_heldout"], values["seconds_total"]) == (
        3,
        "abc",
        4,
        9,
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["attempts.jsonl", "metrics.jsonl", "summary.json"]
