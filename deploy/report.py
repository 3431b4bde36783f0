"""The tables at the end of a run: recognition, proofs, three answers beside their labels, where to look."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.config.evaluation import Policy
from common.evaluation.metrics import Estimate
from common.metrics import MetricsFile
from deploy.summary import Summary, judgements
from learner.evaluation import JudgedClip, Judgement, read_judged_clips
from learner.publisher import Publisher

NUM_EXAMPLES = 3


def print_report(
    console: Console, folder: Path, summary: Summary, *, publisher: Publisher | None, failures: Mapping[str, int]
) -> None:
    """Everything a person wants to know first."""
    judged = judgements(folder)
    if judged:
        console.print(_recognition(judged))
    if summary.grpo_steps:
        console.print(_steps(folder, summary, publisher, failures))
    best = next((policy for policy in ("grpo", "cold_start", "untrained") if policy in judged), None)
    if best is not None:
        console.print(_examples(read_judged_clips(folder / "eval", best), best))
    console.print(f"run folder  {folder}", markup=False, highlight=False, soft_wrap=True)
    if summary.grpo_steps:
        console.print(f"curves      tensorboard --logdir {folder / 'tensorboard'}", markup=False, soft_wrap=True)


def _recognition(judged: Mapping[Policy, Judgement]) -> Table:
    first = next(iter(judged.values()))
    title = f"recognition on {first.recognition.num_clips} held-out clips, in %, with 95 % intervals"
    table = Table("", *judged, title=title)
    for name in ("war", "uar"):
        table.add_row(name.upper(), *(_interval(getattr(j.recognition, name)) for j in judged.values()))
    for label, support in first.recognition.support.items():
        recalls = (f"{100 * j.recognition.recall[label]:.1f}" for j in judged.values())
        table.add_row(f"  recall of {label} ({support})", *recalls)
    table.add_row("answers in form", *(f"{100 * j.format_rate:.1f}" for j in judged.values()))
    if any(j.num_failed for j in judged.values()):
        table.add_row("clips not asked, so wrong", *(str(j.num_failed) for j in judged.values()))
    return table


def _interval(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _steps(folder: Path, summary: Summary, publisher: Publisher | None, failures: Mapping[str, int]) -> Table:
    lines = MetricsFile(folder / "metrics.jsonl").read()
    first, last = lines[0], lines[-1]
    table = Table("what", "value", title=f"{summary.grpo_steps} GRPO steps")
    for key in sorted(k for k in last if k.startswith("reward/") and k.endswith("/mean")):
        table.add_row(key, f"{first[key]:.3f} -> {last[key]:.3f}")
    for phase in ("rollout", "learn", "publish"):
        mean = sum(line[f"seconds/{phase}"] for line in lines) / len(lines)
        table.add_row(f"seconds per step: {phase}", f"{mean:.2f}")
    table.add_row("publishes", f"{summary.publishes}, each with the receipt of every tensor")
    if publisher is not None:
        passed = f"{publisher.num_rehearsals} passed: every published layer reaches the engine's arithmetic"
        table.add_row("proof: rehearsal", passed if publisher.num_rehearsals else "off")
    canary = max(v for line in lines for k, v in line.items() if k.startswith("publish/canary/") and "max" in k)
    table.add_row("proof: canary", f"{summary.canary_failures} failures, largest difference {canary:.1e}")
    table.add_row(
        "logprob difference on trained tokens",
        f"mean {summary.logprob_diff_mean:.1e}, max {summary.logprob_diff_max:.1e}",
    )
    table.add_row("draws that failed", ", ".join(f"{k} x{v}" for k, v in failures.items()) or "none")
    table.add_row("peak memory (PSS + /dev/shm)", f"{summary.peak_memory_bytes / 2**30:.2f} GiB")
    return table


def _examples(clips: list[JudgedClip], policy: str) -> Table:
    """The first held-out clips of different labels, right or wrong."""
    chosen: dict[str, JudgedClip] = {}
    for clip in clips:
        if len(chosen) < NUM_EXAMPLES:
            chosen.setdefault(clip.label, clip)
    table = Table("clip", "label", "answer", title=f"what the {policy} policy says", show_lines=True)
    for clip in chosen.values():
        table.add_row(Text(clip.prompt_id), clip.label, Text(clip.text.strip() or "(nothing)"))
    return table
