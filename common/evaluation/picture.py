"""The picture of which label was answered how."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.evaluation.confusion import MAX_CLASSES, OTHER, Confusion
from common.runtime.atomic_files import atomic_write

INK, GROUND = "#1d1f23", "#ffffff"
CELL_INCHES = 0.62
MAX_NUMBERED = 20
"""Rows from which on the cells are too small for numbers."""


def write_confusions(path: Path, tables: Sequence[tuple[str, Confusion]]) -> None:
    """Draws tables below each other: rows are labels, shades are shares of a row, numbers are clips.

    A table of more than `MAX_CLASSES` classes becomes a line of text.
    """
    # not pyplot: it would keep figures, and choose a backend of the screen's
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [len(table.support) if _is_drawn(table) else 0 for _, table in tables]
    heights = [2.0 + CELL_INCHES * num for num in rows]
    width = 3.2 + CELL_INCHES * max(len(table.classes) + 1 if _is_drawn(table) else 8 for _, table in tables)
    figure: Any = Figure(
        figsize=(min(width, 40.0), min(sum(heights), 60.0)), facecolor=GROUND, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(len(tables), 1, height_ratios=heights))
    for axis, (name, table) in zip(axes, tables, strict=True):
        _draw(axis, name, table)
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=144 if width < 15 else 96)


def _is_drawn(table: Confusion) -> bool:
    return len(table.classes) <= MAX_CLASSES


def _draw(axis: Any, name: str, table: Confusion) -> None:
    # a name with a dollar sign is no formula
    axis.set_title(name.replace("$", r"\$"), loc="left", color=INK, fontsize=12, fontweight="bold", pad=12)
    if not _is_drawn(table):
        axis.set_axis_off()
        axis.text(0, 0.5, f"{len(table.classes)} classes are too many for a picture", color=INK, fontsize=9)
        return
    whole_table = table.counts
    occurring = [i for i, row in enumerate(whole_table) if sum(row)]
    counts = np.array([whole_table[i] for i in occurring])
    shares = counts / counts.sum(axis=1, keepdims=True)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    columns = [*table.classes, OTHER]
    axis.set_xticks(range(len(columns)), [c.replace("$", r"\$") for c in columns], rotation=40, ha="right")
    rows = [f"{table.classes[i]} ({sum(whole_table[i])})".replace("$", r"\$") for i in occurring]
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xlabel("answered", color=INK)
    axis.set_ylabel("labelled", color=INK)
    axis.tick_params(colors=INK, length=0, labelsize=9)
    axis.spines[:].set_visible(False)
    if len(occurring) <= MAX_NUMBERED:
        for row, column in np.argwhere(counts > 0):
            colour = GROUND if shares[row, column] > 0.55 else INK
            axis.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=9)
