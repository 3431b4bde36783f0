"""The cells of an xlsx file's first sheet, as texts."""

import io
import zipfile
from pathlib import Path

from common.datasets.files.tables import read_bytes
from common.errors import DatasetError


def read_sheet(path: Path) -> list[tuple[int, dict[int, str]]]:
    """(row, cells by 0-based column) of every non-empty row, numbered from 1.

    Raises:
        DatasetError: the file cannot be read or is not a workbook.
    """
    import openpyxl

    try:
        book = openpyxl.load_workbook(io.BytesIO(read_bytes(path)), read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise DatasetError(f"{path}: must be an xlsx workbook, got {error}; unpack or download it again") from error
    rows = [
        (number, {column: text for column, value in enumerate(row) if (text := cell_text(value))})
        for number, row in enumerate(book.worksheets[0].iter_rows(values_only=True), start=1)
    ]
    return [(number, cells) for number, cells in rows if cells]


def cell_text(value: object) -> str:
    """A cell as a stripped text: "" for None; a whole number has no decimal point."""
    if value is None:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
