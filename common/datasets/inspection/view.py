"""An inspection as tables on a terminal."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice

from rich.console import Console
from rich.table import Table

from common.datasets.inspection.statistics import Inspection, modality_of

MAX_LISTED = 20
"""Most lines of one list; --json has all."""


def show(inspection: Inspection, console: Console, *, level: str) -> None:
    """Prints counts, then left-out clips, then problems."""
    # markup=False: names of clips and files may contain brackets
    console.print(_counts(inspection))
    if inspection.dropped:
        console.print(_tallied("left out", "clips", [dropped.reason for dropped in inspection.dropped]))
    if inspection.problems:
        console.print(_tallied("would fail", "times", [problem.reason for problem in inspection.problems]))
        for problem in islice(inspection.problems, MAX_LISTED):
            console.print(f"{problem.split} {problem.reason}: {problem.detail}", markup=False, soft_wrap=True)
        _more(console, len(inspection.problems))
    for overlap in islice(inspection.overlaps, MAX_LISTED):
        splits, clips = " and ".join(overlap.splits), " and ".join(dict.fromkeys(overlap.clip_ids))
        console.print(f"overlap by {overlap.by}: {clips} in {splits}", markup=False, soft_wrap=True)
    _more(console, len(inspection.overlaps))
    if inspection.num_unlisted:
        console.print(f"{inspection.num_unlisted} clips on the disk are in no list", markup=False)
    extents = {"none": "no file was opened", "header": "headers alone: --check-media full finds silence"}
    note = f" ({extents[level]})" if level in extents else ""
    console.print(("nothing would fail" if inspection.is_clean else "some of it would fail") + note, markup=False)


def _counts(inspection: Inspection) -> Table:
    table = Table("class", *inspection.splits, "total", title=", ".join(inspection.files[:2]) or None)

    def add(name: str, numbers: Sequence[int]) -> None:
        table.add_row(name, *map(str, numbers), str(sum(numbers)))

    labels = [Counter(record.label for record in records) for records in inspection.splits.values()]
    for label in sorted({label for counts in labels for label in counts}):
        add(label, [counts[label] for counts in labels])
    table.add_section()
    add("all", list(map(len, inspection.splits.values())))
    if inspection.published:
        published = [inspection.published.get(split) for split in inspection.splits]
        table.add_row("published", *("" if n is None else str(n) for n in published), "")
    for modality in ("video", "audio"):
        numbers = [sum(modality_of(r) == modality for r in records) for records in inspection.splits.values()]
        if any(numbers):
            add(f"{modality} alone", numbers)
    if any(inspection.without_sound.values()):
        add("asked without sound", [inspection.without_sound[split] for split in inspection.splits])
    hours = [inspection.seconds[split] / 3600 for split in inspection.splits]
    if any(hours):
        table.add_row("hours", *(f"{h:.2f}" for h in hours), f"{sum(hours):.2f}")
    return table


def _tallied(head: str, unit: str, reasons: Sequence[str]) -> Table:
    table = Table(head, unit)
    for reason, count in Counter(reasons).most_common():
        table.add_row(reason, str(count))
    return table


def _more(console: Console, count: int) -> None:
    if count > MAX_LISTED:
        console.print(f"... and {count - MAX_LISTED} more; --json lists them all", markup=False)
