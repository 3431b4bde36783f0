"""Lists of a split: the corpora's own, and the public ones of DFER-CLIP, MMA-DFER, MAE-DFER and HiCMAE.

The location of a list determines its kind, not its content. The corpora's own lists have `video_name,label`, labels
from 1. The public ones have `<folder>/00001 144 1` (path, number of frames, label), `<folder>/00001 1` or
`<folder>/00001 <sound> 1`, labels from 0.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from common.datasets.corpus import Labelled
from common.datasets.files.media_tree import SOUND_SUFFIXES, Key
from common.datasets.files.tables import read_lines
from common.errors import DatasetError


def find_list(folder: Path, patterns: Sequence[str], *, fold: int, part: str, remedy: str) -> tuple[Path, str]:
    """The first existing file of relative patterns with `{fold}` and `{part}`, and its pattern; raises
    `DatasetError`.
    """
    for pattern in patterns:
        path = folder / pattern.format(fold=fold, part=part)
        if path.is_file():
            return path, pattern
    folds = [n for n in range(1, 7) if any((folder / p.format(fold=n, part=part)).is_file() for p in patterns)]
    if folds:
        raise DatasetError(
            f"{folder}: fold must be one of those there, {', '.join(map(str, folds))}, got {fold}; choose another "
            "or add its lists"
        )
    raise DatasetError(
        f"{folder}: must hold the {part} list of fold {fold}, got none such as "
        f"{patterns[0].format(fold=fold, part=part)!r}; {remedy}"
    )


def read_own_list(path: Path, *, classes: Sequence[str], key: Key) -> list[Labelled]:
    """Reads a corpus's own list: `video_name,label`, numbered from 1, with or without a header.

    Raises:
        DatasetError: the list cannot be read, a line has another form, or a name or label is out of range.
    """
    rows = [(line, [cell.strip().strip('"') for cell in text.split(",")]) for line, text in read_lines(path)]
    name_at, label_at = 0, 1
    line, first = rows[0]
    if len(first) > 1 and not any(re.fullmatch(r"\d+(\.0+)?", cell) for cell in first):
        for column in ("video_name", "label"):
            if column not in first:
                raise DatasetError(
                    f"{path}:{line}: a header must have the columns video_name and label, got no {column!r} in "
                    f"{', '.join(first)!r}; correct the header or name another list"
                )
        name_at, label_at = first.index("video_name"), first.index("label")
        del rows[0]
    clips: list[Labelled] = []
    for line, cells in rows:
        place = f"{path}:{line}"
        if len(cells) <= max(name_at, label_at) or not cells[name_at]:
            raise DatasetError(
                f"{place}: a line must be video_name,label, got {','.join(cells)!r}; correct the line"
            )
        label = class_of(cells[label_at], classes=classes, first=1, place=place)
        clips.append(Labelled(place=place, clip_id=numbered(cells[name_at], place=place, key=key), label=label))
    return clips


def read_public_list(path: Path, *, classes: Sequence[str], key: Key) -> list[Labelled]:
    """Reads a public list: `path frames label`, `path sound label` or `path label`, numbered from 0.

    Raises:
        DatasetError: the list cannot be read, a line has another form, or a name or label is out of range.
    """
    clips: list[Labelled] = []
    for line, text in read_lines(path):
        place = f"{path}:{line}"
        # a path may contain blanks
        name, _, label = text.rpartition("\t" if "\t" in text else " ")
        name = name.strip()
        parts = name.rsplit(maxsplit=1)
        if len(parts) == 2 and (parts[1].isdigit() or Path(parts[1]).suffix.lower() in SOUND_SUFFIXES):
            name = parts[0]
        if not name:
            raise DatasetError(f"{place}: a line must be path, frames and label, got {text!r}; correct the line")
        label = class_of(label, classes=classes, first=0, place=place)
        clips.append(Labelled(place=place, clip_id=numbered(name, place=place, key=key), label=label))
    return clips


def shortness(path: Path, count: int, *, published: int) -> tuple[str, ...]:
    """A line for a list with fewer clips than its paper; empty if the numbers agree."""
    return (f"{path}: {count} clips of the {published} that are published",) if count < published else ()


def stem_of(name: str) -> str:
    """A clip's name without folder and suffix."""
    base = PurePosixPath(name.replace("\\", "/")).name
    return re.sub(r"\.(mp4|avi|mkv|mov|webm|wav)$", "", base, flags=re.IGNORECASE)


def numbered(path: str, *, place: str, key: Key) -> str:
    """The id of a clip whose file is named by its number; raises `DatasetError`."""
    clip_id = key(stem_of(path))
    if clip_id is None:
        raise DatasetError(f"{place}: a clip must be named by its number, got {stem_of(path)!r}; correct the line")
    return clip_id


def class_of(
    cell: object,
    *,
    classes: Sequence[str],
    first: int,
    place: str,
    remedy: str = "correct the line or name another list",
) -> str:
    """The class with a number that counts from `first`; raises `DatasetError`."""
    number = re.sub(r"\.0+$", "", str(cell).strip())
    if not re.fullmatch(r"-?\d+", number) or not 0 <= int(number) - first < len(classes):
        raise DatasetError(
            f"{place}: a label must be a number from {first} to {first + len(classes) - 1}, got {cell!r}; {remedy}"
        )
    return classes[int(number) - first]
