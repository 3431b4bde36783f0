"""A table with a row for each clip: JSONL, CSV, Parquet, or a folder of Hugging Face's `datasets`.

A folder has `metadata.jsonl` or `.csv` beside the files, Parquet files named by their split, or the Arrow files of
`save_to_disk`.
"""

import csv
import importlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from common.config.corpora import Part, TableDataConfig
from common.config.questions import QUESTION
from common.datasets.corpus import Corpus, Dropped, require_unique
from common.datasets.files.tables import csv_text, read_lines, resolved
from common.errors import DatasetError
from common.types import Clip, Record

FILE_NAME = "file_name"
"""Column of the paths in a `metadata` file."""
PARTS: Mapping[str, Part] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "eval": "test",
    "heldout": "test",
}
"""Common names of splits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    place: str
    cells: Mapping[str, Any]
    folder: Path
    """That its paths start from."""
    part: str | None
    """The split by the names of files or folders; None if unknown."""


def load_table(config: TableDataConfig, *, part: Part, split: str) -> Corpus:
    """The rows of one part, or all rows of a table without parts.

    Raises:
        DatasetError: the table is missing, malformed or empty, a column is missing, or an id is repeated.
    """
    path = resolved(config.path)
    files = _files(path)
    lines = [line for file in files for line in _lines(file, path)]
    if not lines:
        raise DatasetError(f"{path}: a table must have rows, got none; write some")
    columns = _columns(config, lines[0])
    parts = {id(line): _part(line, config) for line in lines}
    known_parts = frozenset(p for p in parts.values() if p in ("train", "validation", "test"))
    wanted = part if part in known_parts or part == "test" else "train"
    records: list[Record] = []
    dropped: list[Dropped] = []
    for line in lines:
        item = _record(line, columns, config, dataset=config.name or path.stem, split=split)
        row_part = parts[id(line)]
        if row_part == "other":
            dropped.append(
                Dropped(clip_id=_name(item), reason="other-split", detail=f"{line.place}: of no known split")
            )
        elif row_part is None and (known_parts or config.split_column is not None):
            dropped.append(Dropped(clip_id=_name(item), reason="no-split", detail=f"{line.place}: says no split"))
        elif known_parts and row_part != wanted:
            continue
        elif isinstance(item, Dropped):
            dropped.append(item)
        else:
            records.append(item)
    require_unique(records, subject=str(path), remedy="remove one or name an id_column")
    return Corpus(
        records=tuple(records),
        dropped=tuple(dropped),
        files=tuple(map(str, files)),
        parts=cast(frozenset[Part], known_parts),
    )


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DatasetError(f"path must be a table or a folder of them, got {str(path)!r}: no such file; mend it")
    # unlike rglob, it does not pass over what it cannot read
    names = [(folder, name) for folder, _, files in os.walk(path, onerror=_refuse) for name in files]
    for pattern in ("metadata.jsonl", "metadata.csv", "*.parquet", "*.arrow", "*.jsonl"):
        paths = sorted(
            Path(folder, name)
            for folder, name in names
            if fnmatchcase(name, pattern) and not name.startswith((".", "cache-"))
        )
        if paths:
            return paths
    raise DatasetError(
        f"{path}: a folder must hold metadata.jsonl, metadata.csv, Parquet, Arrow or JSONL files, got none; name "
        "the table itself"
    )


def _refuse(error: OSError) -> None:
    raise error


def _lines(file: Path, root: Path) -> Iterator[_Line]:
    named = re.match(r"[A-Za-z]+", file.stem)
    is_metadata = file.stem == "metadata"
    # `train-00000-of-00002.parquet`, or a folder below the root that is called after the split
    folders = reversed(file.relative_to(root).parts[:-1])
    candidates = [named[0] if named and not is_metadata else "", *folders]
    part = next((c for c in candidates if c.lower() in PARTS), None) if root.is_dir() else None
    folder = file.parent if is_metadata or root.is_file() else root
    rows = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".parquet": _parquet, ".arrow": _arrow}.get(
        file.suffix.lower()
    )
    if rows is None:
        raise DatasetError(
            f"{file}: a table must be .jsonl, .csv, .parquet or .arrow, got {file.suffix!r}; convert it"
        )
    for place, cells in rows(file):
        yield _Line(place=place, cells=cells, folder=folder, part=part)


def _jsonl(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, text in read_lines(file):
        try:
            cells: Any = json.loads(text)
        except ValueError as error:
            raise DatasetError(f"{file}:{number}: a line must be JSON, got {error}; mend the line") from error
        if not isinstance(cells, dict):
            raise DatasetError(f"{file}:{number}: a line must be an object, got {text[:60]!r}; mend the line")
        yield f"{file}:{number}", cast(dict[str, Any], cells)


def _csv(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(csv_text(file), newline=""))
    header = [name.strip() for name in reader.fieldnames or ()]
    if "" in header:
        raise DatasetError(
            f"{file}:1: a header must name each column, got none for column {header.index('') + 1}; name it, or "
            "write the table without its index (pandas: index=False)"
        )
    for cells in reader:
        if None in cells or None in cells.values():
            raise DatasetError(
                f"{file}:{reader.line_num}: a row must have {len(header)} cells as its header, "
                "got others; put text with commas in quotes"
            )
        yield f"{file}:{reader.line_num}", {k.strip(): v for k, v in cells.items()}


def _parquet(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    parquet: Any = importlib.import_module("pyarrow.parquet")
    yield from _columnar(file, parquet.read_table)


def _arrow(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    ipc: Any = importlib.import_module("pyarrow.ipc")
    yield from _columnar(file, lambda path: ipc.open_stream(path).read_all())


def _columnar(file: Path, read: Callable[[str], Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        rows = read(str(file)).to_pylist()
    # pyarrow's own are of these two
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(
            f"{file}: must be a readable {file.suffix} table, got {reason}; write or download it again"
        ) from error
    yield from ((f"{file}: row {number}", cells) for number, cells in enumerate(rows, start=1))


def _columns(config: TableDataConfig, first: _Line) -> TableDataConfig:
    # `file_name` is the clip's column if the table has no `video`
    if config.video_column == "video" and "video" not in first.cells:
        if FILE_NAME in first.cells:
            config = config.model_copy(update={"video_column": FILE_NAME})
        elif config.audio_column is not None:
            config = config.model_copy(update={"video_column": None})
    named = {
        name: getattr(config, name)
        for name in type(config).model_fields
        if name.endswith("_column") and getattr(config, name) is not None
    }
    for name, column in named.items():
        if column not in first.cells:
            raise DatasetError(
                f"{first.place}: {name} must be a column, got {column!r} beside {', '.join(first.cells)}; "
                f"set {name}"
            )
    if config.video_column is None and config.audio_column is None:
        raise DatasetError(
            f"{first.place}: a clip must have a video_column or an audio_column, got neither; set one"
        )
    return config


def _part(line: _Line, config: TableDataConfig) -> str | None:
    value = _text(line, config.split_column) if config.split_column is not None else line.part
    return None if value is None else PARTS.get(value.lower(), "other")


def _record(
    line: _Line, config: TableDataConfig, names: TableDataConfig, *, dataset: str, split: str
) -> Record | Dropped:
    root = resolved(names.media_root) if names.media_root else line.folder
    video, audio = _path(line, config.video_column), _path(line, config.audio_column)
    row_id = _text(line, config.id_column)
    clip_id = row_id or video or audio
    if not clip_id:
        raise DatasetError(f"{line.place}: a row must name its clip, got no path; mend the row")
    if not video and not audio:
        return Dropped(clip_id=clip_id, reason="no-media", detail=f"{line.place}: neither video nor audio")
    labels = _labels(line, config)
    if not labels:
        return Dropped(clip_id=clip_id, reason="no-label", detail=f"{line.place}: {config.label_column!r} is empty")
    track = video if config.audio_column is None else None
    return Record(
        prompt_id=clip_id,
        clip=Clip(
            clip_id=clip_id,
            video_path=str(root / video) if video else None,
            audio_path=str(root / (audio or track or "")) if audio or track else None,
        ),
        question=_text(line, config.question_column) or QUESTION,
        label=labels[0],
        labels=labels if len(labels) > 1 else (),
        dataset=dataset,
        split=split,
        response=_text(line, config.response_column),
        taxonomy=config.taxonomy,
        transcript=_text(line, config.transcript_column),
        caption=_text(line, config.caption_column),
    )


def _labels(line: _Line, config: TableDataConfig) -> tuple[str, ...]:
    value = line.cells.get(config.label_column)
    values = cast(list[Any], value) if isinstance(value, list) else [value]
    return tuple(_label(v, line, config) for v in values if v is not None and str(v).strip())


def _label(value: Any, line: _Line, config: TableDataConfig) -> str:
    if not config.label_names:
        if isinstance(value, int | float):
            raise DatasetError(
                f"{line.place}: a label must be a text, got the number {value}; name the classes in label_names"
            )
        return str(value).strip()
    number = re.fullmatch(r"(\d+)(\.0+)?", str(value).strip())
    if number is None or int(number[1]) >= len(config.label_names):
        raise DatasetError(
            f"{line.place}: a label must be a number from 0 to {len(config.label_names) - 1}, got {value!r}; "
            "mend the row or label_names"
        )
    return config.label_names[int(number[1])]


def _path(line: _Line, column: str | None) -> str | None:
    value = line.cells.get(column) if column is not None else None
    if isinstance(value, dict):
        struct = cast(dict[str, Any], value)
        if struct.get("bytes") is not None:
            raise DatasetError(
                f"{line.place}: {column!r} must be a path, got the bytes of a file; write them "
                "to files and name these"
            )
        value = struct.get("path")
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise DatasetError(f"{line.place}: {column!r} must be a path, got {value!r}; mend the row")
    return value.strip()


def _text(line: _Line, column: str | None) -> str | None:
    value = line.cells.get(column) if column is not None else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None or not str(value).strip() else str(value).strip()


def _name(item: Record | Dropped) -> str:
    return item.prompt_id if isinstance(item, Record) else item.clip_id
