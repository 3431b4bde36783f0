"""Lists of a split: the corpora's own, and the public ones of DFER-CLIP, MMA-DFER, MAE-DFER and HiCMAE.

The location of a list determines its kind, not its content. The corpora's own lists have `video_name,label`, labels
from 1. The public ones have `<folder>/00001 144 1` (path, number of frames, label), `<folder>/00001 1` or
`<folder>/00001 <sound> 1`, labels from 0.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.datasets.files.media_tree import SOUND_SUFFIXES, Key
from common.datasets.files.tables import read_lines
from common.errors import DatasetError

FOLDS = range(1, 7)
"""That are looked for when one is missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    place: str
    """File and line."""
    name: str
    """The name in the list, without folder and suffix."""
    class_index: int
    """The class, from 0."""


def find_list(folder: Path, patterns: Sequence[str], *, fold: int, part: str, remedy: str) -> tuple[Path, str]:
    """The first existing file of relative patterns with `{fold}` and `{part}`, and its pattern; raises
    `DatasetError`.
    """
    for pattern in patterns:
        path = folder / pattern.format(fold=fold, part=part)
        if path.is_file():
            return path, pattern
    there = [n for n in FOLDS if any((folder / p.format(fold=n, part=part)).is_file() for p in patterns)]
    if there:
        raise DatasetError(
            f"{folder}: fold must be one of those there, {', '.join(map(str, there))}, got {fold}; choose another "
            "or add its lists"
        )
    raise DatasetError(
        f"{folder}: must hold the {part} list of fold {fold}, got none such as "
        f"{patterns[0].format(fold=fold, part=part)!r}; {remedy}"
    )


def read_own_list(path: Path, *, num_classes: int) -> list[Listed]:
    """Reads a corpus's own list: `video_name,label`, numbered from 1, with or without a header.

    Raises:
        DatasetError: the list cannot be read, a line has another form, or a label is out of range.
    """
    lines = read_lines(path)
    for line, text in lines:
        if "," not in text:
            raise DatasetError(f"{path}:{line}: a line must be video_name,label, got {text!r}; mend the line")
    rows = [(line, [cell.strip().strip('"') for cell in text.split(",")]) for line, text in lines]
    name_at, label_at = 0, 1
    first = rows[0][1]
    if not any(re.fullmatch(r"\d+(\.0+)?", cell) for cell in first):
        for column in ("video_name", "label"):
            if column not in first:
                raise DatasetError(
                    f"{path}:{rows[0][0]}: a header must have the columns video_name and label, got no {column!r} "
                    f"in {', '.join(first)!r}; mend the header or name another list"
                )
        name_at, label_at = first.index("video_name"), first.index("label")
        rows = rows[1:]
    listed: list[Listed] = []
    for line, cells in rows:
        place = f"{path}:{line}"
        if len(cells) <= max(name_at, label_at) or not cells[name_at]:
            raise DatasetError(f"{place}: a line must be video_name,label, got {','.join(cells)!r}; mend the line")
        index = class_at(cells[label_at], first=1, num_classes=num_classes, place=place)
        listed.append(Listed(place=place, name=stem_of(cells[name_at]), class_index=index))
    return listed


def read_public_list(path: Path, *, num_classes: int) -> list[Listed]:
    """Reads a public list: `path frames label`, `path sound label` or `path label`, numbered from 0.

    Raises:
        DatasetError: the list cannot be read, a line has another form, or a label is out of range.
    """
    return [_public_line(f"{path}:{line}", text, num_classes=num_classes) for line, text in read_lines(path)]


def shortness(path: Path, count: int, *, published: int) -> tuple[str, ...]:
    """A line for a list with fewer clips than its paper; empty if the numbers agree."""
    return (f"{path}: {count} clips of the {published} that are published",) if count < published else ()


def stem_of(name: str) -> str:
    """A clip's name without folder and suffix."""
    base = PurePosixPath(name.replace("\\", "/")).name
    return re.sub(r"\.(mp4|avi|mkv|mov|webm|wav)$", "", base, flags=re.IGNORECASE)


def numbered(name: str, *, place: str, key: Key) -> str:
    """The id of a clip that is named by its number; raises `DatasetError`."""
    clip_id = key(name)
    if clip_id is None:
        raise DatasetError(f"{place}: a clip must be called by its number, got {name!r}; mend the line")
    return clip_id


def class_at(text: str, *, first: int, num_classes: int, place: str) -> int:
    """The 0-based index of a class numbered from `first`; raises `DatasetError`."""
    number = re.sub(r"\.0+$", "", text)
    if not re.fullmatch(r"-?\d+", number) or not 0 <= int(number) - first < num_classes:
        raise DatasetError(
            f"{place}: a label must be a number from {first} to {first + num_classes - 1}, got {text!r}; mend the "
            "line or name another list"
        )
    return int(number) - first


def _public_line(place: str, text: str, *, num_classes: int) -> Listed:
    # a path may contain blanks
    path, _, label = text.rpartition(" ") if "\t" not in text else text.rpartition("\t")
    path = path.strip()
    rest, middle = path.rsplit(maxsplit=1) if len(path.split()) > 1 else (path, "")
    if middle.isdigit() or Path(middle).suffix.lower() in SOUND_SUFFIXES:
        path = rest
    if not path:
        raise DatasetError(f"{place}: a line must be path, frames and label, got {text!r}; mend the line")
    return Listed(
        place=place,
        name=stem_of(path.strip()),
        class_index=class_at(label, first=0, num_classes=num_classes, place=place),
    )
