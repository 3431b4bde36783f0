"""Lists and tables as text: UTF-8 with or without a byte order mark, any line ends, errors with file and line."""

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import DatasetError

AFTER_ALL = "\N{END OF MEDIUM}"
"""A line that no table has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    file: Path
    line: int
    """The last line of the row, from 1."""
    cells: Mapping[str, str]
    """Stripped, by column."""

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


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
        raise DatasetError(f"{key} must be a folder, got {str(folder)!r}; give where the corpus was unpacked")
    return folder


def require_once(clips: Iterable[tuple[str, str]]) -> None:
    """Raises `DatasetError` if a clip, given as (place, id), is repeated."""
    places: dict[str, str] = {}
    for place, clip_id in clips:
        if clip_id in places:
            raise DatasetError(
                f"{place}: each clip must stand once, got {clip_id!r} at {places[clip_id]} too; remove one"
            )
        places[clip_id] = place


def read_text(path: Path) -> str:
    """Raises `DatasetError` if the file cannot be read or is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DatasetError(
            f"a corpus must be a readable file, got {str(path)!r}: {error.strerror}; mend the path"
        ) from error
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path}: a list must be UTF-8, got byte {error.object[error.start]:#x} at {error.start}; save it so"
        ) from error


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(line, text) of every non-blank line, stripped; raises `DatasetError` if the file is unreadable or empty."""
    # splitlines would break a text at U+2028, too
    texts = re.split(r"\r\n|\r|\n", read_text(path))
    lines = [(n, text.strip()) for n, text in enumerate(texts, start=1) if text.strip()]
    if not lines:
        raise DatasetError(f"{path}: a list must have a line for each clip, got an empty file; unpack it again")
    return lines


def csv_text(path: Path) -> str:
    """The text of a CSV file; raises `DatasetError` for a cell that is too long or a quote that is never closed."""
    text = read_text(path)
    # behind an open quote, the last line would be part of a cell
    reader = csv.reader(io.StringIO(f"{text}\n{AFTER_ALL}", newline=""))
    starts_at, row_ends, row = 0, 0, list[str]()
    try:
        for cells in reader:
            row, starts_at, row_ends = cells, row_ends + 1, reader.line_num
    except csv.Error as error:
        raise DatasetError(f"{path}:{reader.line_num}: a table must be CSV, got {error}; mend the line") from error
    if row != [AFTER_ALL]:
        raise DatasetError(
            f"{path}:{starts_at}: a table must close its quotes, got one that is open to the end; close it"
        )
    return text


def read_csv(path: Path, *, columns: Sequence[str]) -> list[Row]:
    """Reads a table with a header, with all its columns.

    Raises:
        DatasetError: the file is unreadable or has no row, a column is missing, or a row has a wrong number of
            cells.
    """
    reader = csv.reader(io.StringIO(csv_text(path), newline=""))
    rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    if not rows:
        raise DatasetError(f"{path}: a table must have a header and rows, got an empty file; unpack it again")
    header = [cell.strip() for cell in rows[0][1]]
    missing = [column for column in columns if column not in header]
    if missing:
        raise DatasetError(
            f"{path}:{rows[0][0]}: a header must have the columns {', '.join(columns)}, got no {missing[0]!r} in "
            f"{', '.join(header)!r}; mend the header or name another file"
        )
    return [_row(path, line, header, cells) for line, cells in rows[1:]]


def _row(path: Path, line: int, header: Sequence[str], cells: Sequence[str]) -> Row:
    if len(cells) != len(header):
        raise DatasetError(
            f"{path}:{line}: a row must have {len(header)} cells as its header, got {len(cells)}; put text with "
            "commas in quotes"
        )
    return Row(file=path, line=line, cells=dict(zip(header, (cell.strip() for cell in cells), strict=True)))
