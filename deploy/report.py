"""The table at the end of a run."""

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from learner.loop import LoopParts, StepRecorder
from learner.record import RunRecorder


def print_report(console: Console, parts: LoopParts, recorder: StepRecorder, *, peak_memory_bytes: int) -> None:
    """Rewards, phases, publishes, the three proofs, one completion with its clip, and where to look."""
    assert isinstance(recorder, RunRecorder), "the table is made of what a run folder's recorder keeps"
    console.print(_table(parts, recorder, peak_memory_bytes=peak_memory_bytes))
    group = recorder.example
    if group is not None:
        best = max(group.samples, key=lambda s: s.score.total)
        record = group.prompt.draw.record
        clip = record.clip
        console.print(
            Panel(
                Text(best.completion.text.strip() or "(empty)"),
                title=f"one completion: label {escape(record.label)}, reward {best.score.total:g}",
                subtitle=escape(clip.video_path or clip.audio_path or "text only"),
            )
        )
    console.print(f"run folder: {recorder.folder}", markup=False, highlight=False, soft_wrap=True)


def _table(parts: LoopParts, recorder: RunRecorder, *, peak_memory_bytes: int) -> Table:
    first, last = recorder.reports[0].metrics, recorder.reports[-1].metrics
    table = Table("what", "value", title=f"{len(recorder.reports)} GRPO steps")
    for key in sorted(k for k in last if k.startswith("reward/") and k.endswith("/mean")):
        table.add_row(key, f"{first[key]:.3f} -> {last[key]:.3f}")
    for phase in ("rollout", "learn", "publish"):
        mean = sum(r.seconds[phase] for r in recorder.reports) / len(recorder.reports)
        table.add_row(f"seconds per step: {phase}", f"{mean:.2f}")
    publisher = parts.publisher
    tensors, size = recorder.published[-1].num_tensors, recorder.published[-1].num_bytes
    table.add_row("publishes", f"{publisher.num_publishes}, {tensors} tensors, {size / 2**20:.1f} MiB each")
    table.add_row("proof: receipt", f"{publisher.num_publishes} publishes, every tensor as sent")
    passed = f"{publisher.num_rehearsals} passed, every published layer followed"
    table.add_row("proof: rehearsal", passed if publisher.num_rehearsals else "off")
    worst = max(a.max for p in recorder.published for a in p.canary.values())
    table.add_row("proof: canary", f"largest difference {worst:.1e}, tolerance {publisher.canary_tolerance:.1e}")
    diff = max(r.metrics["learner/logprob_diff/max"] for r in recorder.reports)
    table.add_row("logprob difference on trained tokens, max", f"{diff:.1e}")
    failures = ", ".join(f"{k} x{v}" for k, v in parts.ledger.failures.items()) or "none"
    table.add_row("draws", f"{parts.ledger.num_trained} trained, failed: {failures}")
    table.add_row("peak memory (PSS + /dev/shm)", f"{peak_memory_bytes / 2**30:.2f} GiB")
    return table
