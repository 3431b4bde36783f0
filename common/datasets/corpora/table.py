"""A table with a row for each clip: JSONL, CSV, Parquet, or a folder of Hugging Face's `datasets`.

A folder has `metadata.jsonl` or `.csv` beside the files, Parquet files named by their split, or the Arrow files of
`save_to_disk`.
"""

import importlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn, cast

from common.config.corpora import Part, TableDataConfig
from common.config.questions import QUESTION
from common.datasets.corpus import Corpus, Dropped, require_unique
from common.datasets.files.split_lists import class_of
from common.datasets.files.tables import Row, read_csv, read_jsonl, resolved
from common.datasets.files.workbook import cell_text
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
    """The folder that relative paths start from."""
    part: str | None
    """The split in the names of files or folders; None if unknown."""


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
    config = _with_columns(config, lines[0])
    line_parts = [_part(line, config) for line in lines]
    known_parts = frozenset(p for p in line_parts if p in ("train", "validation", "test"))
    # a part that the table lacks is separated from its training rows
    requested = part if part in known_parts or part == "test" else "train"
    records: list[Record] = []
    dropped: list[Dropped] = []
    for line, line_part in zip(lines, line_parts, strict=True):
        item = _record(line, config, dataset=config.name or path.stem, split=split)
        clip_id = item.prompt_id if isinstance(item, Record) else item.clip_id
        if line_part == "other":
            dropped.append(Dropped(clip_id=clip_id, reason="other-split", detail=f"{line.place}: unknown split"))
        elif line_part is None and (known_parts or config.split_column is not None):
            dropped.append(Dropped(clip_id=clip_id, reason="no-split", detail=f"{line.place}: no split"))
        elif known_parts and line_part != requested:
            continue
        elif isinstance(item, Dropped):
            dropped.append(item)
        else:
            records.append(item)
    require_unique(((str(path), r.prompt_id) for r in records), remedy="remove one or name an id_column")
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
        raise DatasetError(f"path must be a table or a folder of them, got {str(path)!r}: no such file; correct it")
    # rglob would skip unreadable folders silently
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


def _refuse(error: OSError) -> NoReturn:
    raise error


def _lines(file: Path, root: Path) -> Iterator[_Line]:
    is_metadata = file.stem == "metadata"
    prefix = re.match(r"[A-Za-z]+", file.stem)
    # `train-00000-of-00002.parquet`, or a folder below the root that is called after the split
    names = [prefix[0] if prefix and not is_metadata else "", *reversed(file.relative_to(root).parts[:-1])]
    part = next((name for name in names if name.lower() in PARTS), None) if root.is_dir() else None
    folder = file.parent if is_metadata or root.is_file() else root
    for row in _rows(file):
        yield _Line(place=row.place, cells=row.cells, folder=folder, part=part)


def _rows(file: Path) -> list[Row]:
    match file.suffix.lower():
        case ".jsonl" | ".ndjson":
            return read_jsonl(file)
        case ".csv":
            rows = read_csv(file)
            if rows and "" in rows[0].cells:
                raise DatasetError(
                    f"{file}:1: a header must name each column, got none for column "
                    f"{[*rows[0].cells].index('') + 1}; name it, or write the table without its index (pandas: "
                    "index=False)"
                )
            return rows
        case ".parquet" | ".arrow":
            return _columnar(file)
        case _:
            raise DatasetError(
                f"{file}: a table must be .jsonl, .csv, .parquet or .arrow, got {file.suffix!r}; convert it"
            )


def _columnar(file: Path) -> list[Row]:
    parquet: Any = importlib.import_module("pyarrow.parquet")
    ipc: Any = importlib.import_module("pyarrow.ipc")
    is_parquet = file.suffix.lower() == ".parquet"
    try:
        table = parquet.read_table(str(file)) if is_parquet else ipc.open_stream(str(file)).read_all()
        rows = table.to_pylist()
    # the bases of pyarrow's errors
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(
            f"{file}: must be a readable {file.suffix} table, got {reason}; write or download it again"
        ) from error
    return [Row(place=f"{file}: row {number}", cells=cells) for number, cells in enumerate(rows, start=1)]


def _with_columns(config: TableDataConfig, first: _Line) -> TableDataConfig:
    """The configuration with the columns that the table has; raises `DatasetError` for a missing column."""
    if config.video_column == "video" and "video" not in first.cells:
        if FILE_NAME in first.cells:
            config = config.model_copy(update={"video_column": FILE_NAME})
        elif config.audio_column is not None:
            config = config.model_copy(update={"video_column": None})
    for name in type(config).model_fields:
        column = getattr(config, name)
        if name.endswith("_column") and column is not None and column not in first.cells:
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


def _record(line: _Line, config: TableDataConfig, *, dataset: str, split: str) -> Record | Dropped:
    root = resolved(config.media_root) if config.media_root else line.folder
    video, audio = _path(line, config.video_column), _path(line, config.audio_column)
    clip_id = _text(line, config.id_column) or video or audio
    if not clip_id:
        raise DatasetError(f"{line.place}: a row must name its clip, got no path; correct the row")
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
    if config.label_names:
        return class_of(
            value, classes=config.label_names, first=0, place=line.place, remedy="correct the row or label_names"
        )
    if isinstance(value, int | float):
        raise DatasetError(
            f"{line.place}: a label must be a text, got the number {value}; name the classes in label_names"
        )
    return str(value).strip()


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
        raise DatasetError(f"{line.place}: {column!r} must be a path, got {value!r}; correct the row")
    return value.strip()


def _text(line: _Line, column: str | None) -> str | None:
    return cell_text(line.cells.get(column)) or None if column is not None else None
