"""EMER, OV-MERD, MER-Caption+ and the labelled parts of MER2023 to MER2025 (Lian et al., 2023 to 2025).

Tables have `name` and one more column each: open labels or one of six classes, reasons, subtitles in two languages.
Media are `video/NAME.mp4`, `audio/NAME.wav`, or both.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.config.corpora import EmerDataConfig
from common.datasets.assembly import assembled
from common.datasets.corpus import Corpus, Dropped, Labelled, require_unique
from common.datasets.files.media_tree import index_media
from common.datasets.files.tables import read_csv, require_folder, resolved
from common.errors import DatasetError

FACES = frozenset({"openface_face", "openface_all"})
"""Folders of cropped faces, one per clip; they are not searched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """The files of one variant, recognized by their columns."""

    labels: tuple[str, ...]
    """Tables of labels; the first that exists is read."""
    label_column: str
    reasons: tuple[str, ...] = ()
    reason_column: str | None = None
    """None: the column that has the name of the language."""
    subtitles: tuple[str, ...] = ("subtitle_chieng.csv",)
    subtitle_column: str | None = None
    name_column: str = "name"
    media: str = ""
    """Folder of the media, if it exists; else the root."""
    is_open: bool = True
    """True for open labels; a clip may have several."""


_TRACKS = _Layout(
    labels=("track2_train_{variant}.csv",),
    label_column="openset",
    reasons=("track3_train_{variant}.csv",),
    reason_column="reason",
)
LAYOUTS: Mapping[str, _Layout] = {
    "emer_v1": _Layout(
        labels=("gt-eng.csv",),
        label_column="emotions",
        reasons=("gt-eng.csv",),
        reason_column="reasons",
        subtitles=("gt-eng.csv",),
        subtitle_column="subtitles",
        name_column="names",
    ),
    "emer_v2": _Layout(
        labels=("final-EMER-openset.csv", "track2_train_ovmerd.csv"),
        label_column="openset",
        reasons=("final-EMER-reason.csv",),
    ),
    "ovmerd": _TRACKS,
    "mercaptionplus": _TRACKS,
    "mer2023": _Layout(
        labels=("{subset}-label.csv",), label_column="discrete", subtitles=(), media="{subset}", is_open=False
    ),
    "mer2024": _Layout(
        labels=("label-disdim.csv",),
        label_column="discrete",
        subtitles=("label-transcription.csv",),
        media="video-labeled",
        is_open=False,
    ),
    "mer2025": _Layout(labels=("track1_train_disdim.csv",), label_column="discrete", is_open=False),
}


def load_emer(config: EmerDataConfig, *, split: str) -> Corpus:
    """Reads every labelled clip of a variant, with its explanation if it has one; the cold start uses only those.

    Raises:
        DatasetError: root, table or column is missing, an id is repeated, or no clip has media.
    """
    root = require_folder(config.root, key="root")
    layout = LAYOUTS[config.variant]
    labels = _table(root, config, layout.labels, key="labels_file")
    reasons = _table(root, config, layout.reasons, key="reasons_file")
    subtitles = _table(root, config, layout.subtitles, key="subtitles_file", is_needed=False)
    assert labels is not None
    reason_column = layout.reason_column or config.language
    reason_by_name = _texts(reasons, reason_column, layout, remedy="correct the header or name another file")
    subtitle_column = layout.subtitle_column or config.language
    transcripts = _texts(subtitles, subtitle_column, layout, remedy="set language or subtitles_file")
    items: list[Labelled] = []
    dropped: list[Dropped] = []
    for row in read_csv(labels, columns=(layout.name_column, layout.label_column)):
        name: str = row.cells[layout.name_column]
        cell: str = row.cells[layout.label_column]
        row_labels = open_labels(cell) if layout.is_open else (cell.lower(),)
        if not any(row_labels):
            dropped.append(Dropped(clip_id=name, reason="no-label", detail=f"{row.place}: its label is empty"))
        elif split == "cold_start" and name not in reason_by_name:
            dropped.append(Dropped(clip_id=name, reason="no-reason", detail=f"{row.place}: {name!r} has no reason"))
        else:
            item = Labelled(
                place=row.place,
                clip_id=name,
                label=row_labels[0],
                labels=row_labels if len(row_labels) > 1 else (),
                response=reason_by_name.get(name),
                transcript=transcripts.get(name),
            )
            items.append(item)
    names = {item.clip_id for item in items}
    below = root / layout.media.format(subset=config.subset)
    folder = require_folder(config.media_root or (below if below.is_dir() else root), key="media_root")
    corpus = assembled(
        items,
        tree=index_media(folder, key=lambda n: n if n in names else None, ignored=FACES),
        config=config,
        dataset=config.variant,
        taxonomy="open" if layout.is_open else "mer",
        split=split,
        files=tuple(dict.fromkeys(str(f) for f in (labels, reasons, subtitles) if f is not None)),
    )
    labelled = names | {d.clip_id for d in dropped}
    dropped += [
        Dropped(clip_id=name, reason="no-label", detail=f"{reasons}: {name!r} has a reason and no label")
        for name in reason_by_name
        if name not in labelled
    ]
    return replace(corpus, dropped=(*corpus.dropped, *dropped))


def open_labels(text: str) -> tuple[str, ...]:
    """The labels of `['happy', 'at ease']` or of `happy, at ease`, in lower case, each once."""
    parts = (part.strip(" \t\"'.").lower() for part in re.split(r"[,;\u3001\uff0c]", text.strip(" []")))
    return tuple(dict.fromkeys(part for part in parts if part))


def _table(
    root: Path, config: EmerDataConfig, names: Sequence[str], *, key: str, is_needed: bool = True
) -> Path | None:
    """The configured table, or the first of `names` that exists; None for a table that may be missing."""
    configured: str | None = getattr(config, key)
    if configured is not None:
        return resolved(root / Path(configured).expanduser())
    candidates = [root / name.format(subset=config.subset, variant=config.variant) for name in names]
    file = next((path for path in candidates if path.is_file()), None)
    if file is None and candidates and is_needed:
        raise DatasetError(
            f"{root}: must hold {candidates[0].name} of {config.variant}, got no such file; unpack it there or set "
            f"{key}"
        )
    return file


def _texts(path: Path | None, column: str, layout: _Layout, *, remedy: str) -> dict[str, str]:
    """The non-empty texts of a column by name."""
    if path is None:
        return {}
    rows = read_csv(path, columns=(layout.name_column, column), remedy=remedy)
    require_unique((row.place, row.cells[layout.name_column]) for row in rows)
    return {row.cells[layout.name_column]: row.cells[column] for row in rows if row.cells[column]}
