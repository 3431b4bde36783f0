"""The results of a run as numbers: `summary.json`, computed from the files of the run folder."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from common.config.evaluation import Policy
from common.evaluation.controls import CONTROLS
from common.runtime.atomic_files import atomic_write_text
from common.runtime.metrics import MetricsFile
from deploy.reporting.attempts import read_attempts, seconds_by_phase
from learner.checkpoints.checkpoint import read_best
from learner.ledger import live_entries
from learner.loops.evaluation import EvaluationResult, read_result, result_name
from learner.records.record import publish_failures

POLICIES: tuple[Policy, ...] = get_args(Policy)
CONTROLLED = tuple(result_name("grpo", condition) for condition in CONTROLS)
"""Evaluations of the last policy in conditions other than `av`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """WAR, UAR and rates are fractions; None without an evaluation.

    WAR and UAR compare the classes of labels and answers; `war_exact_*` compares the texts.
    """

    seed: int
    corpus_sha256: str
    num_heldout: int
    war_untrained: float | None = None
    war_cold_start: float | None = None
    war_grpo: float | None = None
    war_grpo_video_only: float | None = None
    """WAR on the same clips in other conditions: `evaluation.controls`."""
    war_grpo_audio_only: float | None = None
    war_grpo_swapped_audio: float | None = None
    war_grpo_no_think: float | None = None
    war_grpo_label_list: float | None = None
    uar_untrained: float | None = None
    uar_cold_start: float | None = None
    uar_grpo: float | None = None
    war_exact_untrained: float | None = None
    war_exact_cold_start: float | None = None
    war_exact_grpo: float | None = None
    format_rate_grpo: float | None = None
    best_step: int | None
    """Step of the checkpoint with the highest validation UAR; None if none was evaluated."""
    best_war: float | None
    best_uar: float | None
    grpo_steps: int
    steps_left_out: int
    """Steps with a loss or gradient that was not finite: no update, no publish."""
    publishes: int
    rehearsals: int
    """Rehearsals that passed in the attempt of the last step: one per engine, or 0 where it is off."""
    canary_failures: int
    """Comparisons in which the log-probabilities of an engine exceeded the tolerance; each ends its attempt."""
    draws_failed: Mapping[str, int]
    """Counts by `stage/reason`, without draws that a rewind voided."""
    logprob_diff_mean: float | None
    """Mean over trained tokens of all steps."""
    logprob_diff_max: float | None
    kl_rollout_mean: float | None
    num_attempts: int
    """Attempts that were not killed; the next three values are of these."""
    peak_memory_bytes: int
    """Maximum over all attempts."""
    seconds_total: float
    """Sum over all attempts."""
    seconds_by_phase: Mapping[str, float]
    """Sums over all attempts; `rollout`, `learn` and `publish` are parts of `grpo`, from the metrics."""


def results(folder: Path, names: Sequence[str] = POLICIES) -> dict[str, EvaluationResult]:
    """Finished evaluations by name."""
    named = ((name, read_result(folder / "eval", name)) for name in names)
    return {name: result for name, result in named if result is not None}


def summarize(folder: Path, *, seed: int, corpus_sha256: str, num_heldout: int) -> Summary:
    """Summarizes results, metrics, the ledger, attempts and failed publishes."""
    policies, controlled = results(folder), results(folder, CONTROLLED)
    lines = MetricsFile(folder / "metrics.jsonl").read()
    taken = [line for line in lines if not line["learner/is_skipped"]]
    attempts, best = read_attempts(folder), read_best(folder)
    tokens = sum(line["learner/num_tokens"] for line in taken)

    def over_tokens(key: str) -> float | None:
        return sum(line[key] * line["learner/num_tokens"] for line in taken) / tokens if taken else None

    parts = {
        phase: sum(line.get(f"seconds/{phase}", 0.0) for line in lines) for phase in ("rollout", "learn", "publish")
    }
    return Summary(
        seed=seed,
        corpus_sha256=corpus_sha256,
        num_heldout=num_heldout,
        **{f"war_{name}": result.recognition.war.value for name, result in {**policies, **controlled}.items()},
        **{f"uar_{policy}": result.recognition.uar.value for policy, result in policies.items()},
        **{f"war_exact_{policy}": result.war_exact for policy, result in policies.items()},
        format_rate_grpo=policies["grpo"].format_rate if "grpo" in policies else None,
        best_step=best.step if best else None,
        best_war=best.war if best else None,
        best_uar=best.uar if best else None,
        grpo_steps=len(lines),
        steps_left_out=len(lines) - len(taken),
        publishes=int(taken[-1]["publish/version"]) if taken else 0,
        rehearsals=int(taken[-1]["publish/rehearsals"]) if taken else 0,
        canary_failures=_num_canary_failures(folder, taken),
        draws_failed=_draws_failed(folder / "ledger.jsonl"),
        logprob_diff_mean=over_tokens("learner/logprob_diff/mean"),
        logprob_diff_max=max((line["learner/logprob_diff/max"] for line in taken), default=None),
        kl_rollout_mean=over_tokens("learner/kl_rollout/mean"),
        num_attempts=len(attempts),
        peak_memory_bytes=max((record.peak_memory_bytes for record in attempts), default=0),
        seconds_total=round(sum(record.seconds_total for record in attempts), 2),
        seconds_by_phase={k: round(v, 2) for k, v in {**seconds_by_phase(attempts), **parts}.items()},
    )


def write_summary(folder: Path, summary: Summary) -> None:
    atomic_write_text(folder / "summary.json", json.dumps(asdict(summary), indent=1) + "\n")


def canaries(line: Mapping[str, float]) -> list[float]:
    """The largest difference on each engine after a step."""
    return [v for k, v in line.items() if k.startswith("publish/canary/") and k.endswith("/max")]


def _num_canary_failures(folder: Path, lines: Sequence[Mapping[str, float]]) -> int:
    """Steps above their tolerance, and publishes whose failure ended a run."""
    steps = sum(any(not v <= line["publish/canary/tolerance"] for v in canaries(line)) for line in lines)
    return steps + sum(failure["proof"] == "canary" for failure in publish_failures(folder))


def _draws_failed(ledger: Path) -> dict[str, int]:
    entries = live_entries(ledger) if ledger.exists() else []
    return dict(Counter(f"{e['stage']}/{e['reason']}" for e in entries if e.get("fate") == "failed"))
