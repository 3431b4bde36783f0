"""Lists and tables as text: UTF-8 with or without a byte order mark, any line ends, errors with file and line."""

import csv
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from common.errors import DatasetError


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a table."""

    place: str
    """File and line, from 1; the last line of a row with several."""
    cells: Mapping[str, Any]
    """By column; the cells of a CSV are stripped."""


def resolved(path: str | Path) -> Path:
    """An absolute path, with `~` expanded and links unchanged."""
    expanded = Path(path).expanduser()
    # Path.resolve raises at a loop of links
    folder = Path(os.path.realpath(expanded.parent if expanded.name else expanded))
    return folder / expanded.name


def require_folder(path: str | Path, *, key: str) -> Path:
    """An existing folder as an absolute path; raises `DatasetError`."""
    folder = resolved(path)
    if not folder.is_dir():
        raise DatasetError(f"{key} must be a folder, got {str(folder)!r}; set it to the folder of the corpus")
    return folder


def read_bytes(path: Path) -> bytes:
    """Raises `DatasetError` if the file cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"a corpus must be a readable file, got {str(path)!r}: {error.strerror}; correct the path"
        ) from error


def read_text(path: Path) -> str:
    """Raises `DatasetError` if the file cannot be read or is not UTF-8."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path}: a list must be UTF-8, got byte {error.object[error.start]:#x} at {error.start}; save it as "
            "UTF-8"
        ) from error


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(line, text) of every non-blank line, stripped; raises `DatasetError` if the file is unreadable or empty."""
    # splitlines would break a text at U+2028, too
    texts = re.split(r"\r\n|\r|\n", read_text(path))
    lines = [(n, text.strip()) for n, text in enumerate(texts, start=1) if text.strip()]
    if not lines:
        raise DatasetError(f"{path}: a list must have a line for each clip, got an empty file; unpack it again")
    return lines


def read_jsonl(path: Path) -> list[Row]:
    """Reads a JSON object per line; raises `DatasetError`."""
    rows: list[Row] = []
    for number, text in read_lines(path):
        place = f"{path}:{number}"
        try:
            cells: Any = json.loads(text)
        except ValueError as error:
            raise DatasetError(f"{place}: a line must be JSON, got {error}; correct the line") from error
        if not isinstance(cells, dict):
            raise DatasetError(f"{place}: a line must be an object, got {text[:60]!r}; correct the line")
        rows.append(Row(place=place, cells=cast(dict[str, Any], cells)))
    return rows


def read_csv(
    path: Path, *, columns: Sequence[str] = (), remedy: str = "correct the header or name another file"
) -> list[Row]:
    """Reads a table with a header, with all its columns and without its blank rows.

    Args:
        columns: required columns.
        remedy: the end of the message about a missing column.

    Raises:
        DatasetError: the file is unreadable or empty, its quotes are wrong, a column is missing, or a row has a
            wrong number of cells.
    """
    # without `strict`, everything behind an open quote would be one cell
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    end = 0
    try:
        for cells in reader:
            end = reader.line_num
            rows.append((end, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise DatasetError(
            f"{path}:{end + 1}: a row must be CSV, got {error}; close each quote, double the quotes inside a cell, "
            "or shorten the cell"
        ) from error
    rows = [(line, cells) for line, cells in rows if any(cells)]
    if not rows:
        raise DatasetError(f"{path}: a table must have a header and rows, got an empty file; unpack it again")
    (line, header), *rows = rows
    missing = [column for column in columns if column not in header]
    if missing:
        raise DatasetError(
            f"{path}:{line}: a header must have the columns {', '.join(columns)}, got no {missing[0]!r} in "
            f"{', '.join(header)!r}; {remedy}"
        )
    for line, cells in rows:
        if len(cells) != len(header):
            raise DatasetError(
                f"{path}:{line}: a row must have {len(header)} cells like its header, got {len(cells)}; put text "
                "with commas in quotes"
            )
    return [Row(place=f"{path}:{line}", cells=dict(zip(header, cells, strict=True))) for line, cells in rows]
