"""The cells of an xlsx file's first sheet, as texts."""

import zipfile
from pathlib import Path

from common.errors import DatasetError


def read_sheet(path: Path) -> list[tuple[int, dict[int, str]]]:
    """(row, cells by 0-based column) of every non-empty row, numbered from 1. Whole numbers have no decimal point.

    Raises:
        DatasetError: the file cannot be read or is not a workbook.
    """
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, InvalidFileException, KeyError, ValueError) as error:
        raise DatasetError(f"{path}: must be an xlsx workbook, got {error}; unpack or download it again") from error
    except OSError as error:
        raise DatasetError(
            f"a corpus must be a readable file, got {str(path)!r}: {error.strerror}; mend the path"
        ) from error
    try:
        rows = [
            (number, {column: text for column, value in enumerate(row) if (text := _text(value))})
            for number, row in enumerate(book.worksheets[0].iter_rows(values_only=True), start=1)
        ]
    finally:
        book.close()
    return [(number, cells) for number, cells in rows if cells]


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
