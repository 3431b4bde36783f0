"""The tables at the end of a run: recognition, proofs, answers beside their labels, where to look."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from common.evaluation.metrics import Estimate
from common.evaluation.predictions import Prediction, read_predictions
from common.runtime.metrics import MetricsFile
from deploy.reporting.summary import CONTROLLED, Summary, canaries, results
from learner.loops.evaluation import EvaluationResult, answers_file
from learner.records.record import read_samples, sample_file

NUM_EXAMPLES = 3
FEW_CLIPS = 100
"""Fewer held-out clips leave an interval of twenty percent and more."""


def print_report(console: Console, folder: Path, summary: Summary) -> None:
    """Prints the results of a run; with 80 columns in the log of a job."""
    evaluated = results(folder)
    if evaluated:
        console.print(_recognition(evaluated))
    if "grpo" in evaluated and (controlled := results(folder, CONTROLLED)):
        console.print(_controls({"av": evaluated["grpo"], **controlled}))
    if summary.grpo_steps:
        console.print(_steps(folder, summary))
    best = next((policy for policy in ("grpo", "cold_start", "untrained") if policy in evaluated), None)
    if best is not None:
        console.print(_examples(read_predictions(answers_file(folder / "eval", best)), best))
    elif (samples := sample_file(folder, summary.grpo_steps)).exists():
        console.print(_completion(samples))
    if evaluated and summary.num_heldout < FEW_CLIPS:
        few = f"{summary.num_heldout} held-out clips are too few to evaluate a policy by"
        console.print(f"note        {few}: the shares above say nothing about quality", soft_wrap=True)
    console.print(f"run folder  {folder}", markup=False, highlight=False, soft_wrap=True)
    if summary.grpo_steps:
        console.print(f"curves      tensorboard --logdir {folder / 'tensorboard'}", markup=False, soft_wrap=True)


def _recognition(evaluated: Mapping[str, EvaluationResult]) -> Table:
    columns = list(evaluated.values())
    recognition = columns[0].recognition
    title = f"recognition on {recognition.num_clips} held-out clips, in %, with 95 % intervals"
    table = Table("recall (clips)", *evaluated, title=title)
    for name in ("war", "uar"):
        table.add_row(name.upper(), *(_interval(getattr(column.recognition, name)) for column in columns))
    table.add_section()
    for label, support in recognition.support.items():
        recalls = (_percent(column.recognition.recall[label]) for column in columns)
        table.add_row(Text(f"{label} ({support})"), *recalls)
    table.add_section()
    table.add_row("answers in form", *(_percent(column.format_rate) for column in columns))
    if any(column.num_failed for column in columns):
        table.add_row("not asked, wrong", *(str(column.num_failed) for column in columns))
    return table


def _controls(evaluated: Mapping[str, EvaluationResult]) -> Table:
    """The last policy in every condition, the unchanged clips first."""
    table = Table("asked", "WAR", "UAR", "in form", title="what the grpo policy's answers rest on")
    for condition, result in evaluated.items():
        shares = (_interval(result.recognition.war), _interval(result.recognition.uar))
        table.add_row(condition.removeprefix("grpo_"), *shares, _percent(result.format_rate))
    return table


def _interval(estimate: Estimate) -> str:
    return f"{_percent(estimate.value)} [{_percent(estimate.low)}-{_percent(estimate.high)}]"


def _percent(fraction: float) -> str:
    # at most four characters
    shown = f"{100 * fraction:.1f}"
    return "100" if shown == "100.0" else shown


def _steps(folder: Path, summary: Summary) -> Table:
    lines = MetricsFile(folder / "metrics.jsonl").read()
    first, last = lines[0], lines[-1]
    table = Table("what", "value", title=f"{summary.grpo_steps} GRPO steps")
    for key in sorted(k for k in last if k.startswith("reward/") and k.endswith("/mean")):
        table.add_row(Text(key), f"{first[key]:.3f} -> {last[key]:.3f}")
    for phase in ("rollout", "learn", "publish"):
        mean = sum(line.get(f"seconds/{phase}", 0.0) for line in lines) / len(lines)
        table.add_row(f"seconds per step: {phase}", f"{mean:.2f}")
    if summary.best_uar is not None:
        table.add_row("best checkpoint", f"step {summary.best_step}, validation UAR {_percent(summary.best_uar)} %")
    if summary.steps_left_out:
        table.add_row("left out: not finite", f"{summary.steps_left_out} steps, filtered in the ledger")
    table.add_row("publishes", f"{summary.publishes}, each with the receipt of every tensor")
    passed = f"{summary.rehearsals} passed; layers left out: see the log"
    table.add_row("proof: rehearsal", passed if summary.rehearsals else "off")
    largest = max((v for line in lines for v in canaries(line)), default=0.0)
    table.add_row("proof: canary", f"{summary.canary_failures} failures, largest difference {largest:.1e}")
    if summary.logprob_diff_max is not None:
        table.add_row(
            "logprob difference, trained",
            f"mean {summary.logprob_diff_mean:.1e}, max {summary.logprob_diff_max:.1e}",
        )
    failed = [f"{reason} x{count}" for reason, count in summary.draws_failed.items()] or ["none"]
    for number, reason in enumerate(failed):
        table.add_row("" if number else "draws that failed", Text(reason))
    table.add_row("peak memory (PSS + /dev/shm)", f"{summary.peak_memory_bytes / 2**30:.2f} GiB")
    return table


def _examples(clips: list[Prediction], policy: str) -> Table:
    """The first held-out clips of different labels, right or wrong."""
    chosen: dict[str, Prediction] = {}
    for clip in clips:
        if len(chosen) < NUM_EXAMPLES:
            chosen.setdefault(clip.label, clip)
    table = _answers(title=f"what the {policy} policy says")
    for clip in chosen.values():
        table.add_row(Text(clip.id), Text(clip.label), _answer(clip.text))
    return table


def _completion(samples: Path) -> Table:
    # the best completion, if no evaluation has any
    best = max(read_samples(samples), key=lambda sample: sample["reward"])
    table = _answers("reward", title="one completion of the last step")
    table.add_row(Text(best["clip"]), Text(best["label"]), _answer(best["text"]), f"{best['reward']:.2f}")
    return table


def _answers(*more: str, title: str) -> Table:
    # paths and answers are shown in full
    clip, answer = Column("clip", overflow="fold"), Column("answer", overflow="fold")
    return Table(clip, "label", answer, *more, title=title, show_lines=True)


def _answer(text: str) -> Text:
    return Text(text.strip() or "(nothing)")
