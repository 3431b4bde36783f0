"""What a run came to, as numbers: `summary.json`, made of what stands in the run folder."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from common.config.evaluation import Policy
from common.durable import write_whole
from common.metrics import MetricsFile
from learner.evaluation import Judgement, read_judgement

POLICIES: tuple[Policy, ...] = get_args(Policy)


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """WAR, UAR and rates are fractions; None where that was not judged or not run."""

    seed: int
    corpus_sha256: str
    num_heldout: int
    war_untrained: float | None
    war_cold_start: float | None
    war_grpo: float | None
    uar_untrained: float | None
    uar_cold_start: float | None
    uar_grpo: float | None
    format_rate_grpo: float | None
    grpo_steps: int
    publishes: int
    canary_failures: int
    """Publishes after which an engine's log-probabilities lay past the tolerance."""
    logprob_diff_mean: float | None
    """Of trained tokens, over all steps."""
    logprob_diff_max: float | None
    kl_rollout_mean: float | None
    peak_memory_bytes: int
    """Of the last attempt."""
    seconds_total: float
    """Of the last attempt."""
    seconds_by_phase: Mapping[str, float]
    """Of the last attempt; `rollout`, `learn` and `publish` are parts of `grpo`."""


def judgements(folder: Path) -> dict[Policy, Judgement]:
    """Of the policies that were judged."""
    judged: dict[Policy, Judgement] = {}
    for policy in POLICIES:
        judgement = read_judgement(folder / "eval", policy)
        if judgement is not None:
            judged[policy] = judgement
    return judged


def summarize(
    folder: Path,
    *,
    seed: int,
    corpus_sha256: str,
    num_heldout: int,
    canary_tolerance: float,
    peak_memory_bytes: int,
    seconds_total: float,
    seconds_by_phase: Mapping[str, float],
) -> Summary:
    """Reads judgements and metrics."""
    judged = judgements(folder)
    lines = MetricsFile(folder / "metrics.jsonl").read()
    tokens = sum(line["learner/num_tokens"] for line in lines)

    def over_tokens(key: str) -> float | None:
        return sum(line[key] * line["learner/num_tokens"] for line in lines) / tokens if lines else None

    def war(policy: Policy) -> float | None:
        return judged[policy].recognition.war.value if policy in judged else None

    def uar(policy: Policy) -> float | None:
        return judged[policy].recognition.uar.value if policy in judged else None

    parts = {phase: sum(line[f"seconds/{phase}"] for line in lines) for phase in ("rollout", "learn", "publish")}
    return Summary(
        seed=seed,
        corpus_sha256=corpus_sha256,
        num_heldout=num_heldout,
        war_untrained=war("untrained"),
        war_cold_start=war("cold_start"),
        war_grpo=war("grpo"),
        uar_untrained=uar("untrained"),
        uar_cold_start=uar("cold_start"),
        uar_grpo=uar("grpo"),
        format_rate_grpo=judged["grpo"].format_rate if "grpo" in judged else None,
        grpo_steps=len(lines),
        publishes=int(lines[-1]["publish/version"]) if lines else 0,
        canary_failures=sum(_fails(line, canary_tolerance) for line in lines),
        logprob_diff_mean=over_tokens("learner/logprob_diff/mean"),
        logprob_diff_max=max((line["learner/logprob_diff/max"] for line in lines), default=None),
        kl_rollout_mean=over_tokens("learner/kl_rollout/mean"),
        peak_memory_bytes=peak_memory_bytes,
        seconds_total=seconds_total,
        seconds_by_phase={k: round(v, 2) for k, v in {**seconds_by_phase, **parts}.items()},
    )


def write_summary(folder: Path, summary: Summary) -> Path:
    """Puts `summary.json` in place whole."""
    target = folder / "summary.json"
    write_whole(target, json.dumps(asdict(summary), indent=1) + "\n")
    return target


def _fails(line: Mapping[str, float], tolerance: float) -> bool:
    canaries = [v for k, v in line.items() if k.startswith("publish/canary/") and k.endswith("/max")]
    return any(not value <= tolerance for value in canaries)
