"""The cells of an xlsx file's first sheet: a zip of XML, read without more than the standard library."""

import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree as XmlTree

from common.errors import DatasetError

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def read_sheet(path: Path) -> list[tuple[int, dict[int, str]]]:
    """(row, its cells by column from 0) of every row that has one, rows counted from 1 as the program shows them.

    Raises:
        DatasetError: the file cannot be read, or is no workbook.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            shared = _shared_strings(archive)
            sheet = XmlTree.fromstring(archive.read(_first_sheet(archive)))
    except OSError as error:
        raise DatasetError(
            f"a corpus must be a readable file, got {str(path)!r}: {error.strerror}; mend the path"
        ) from error
    except (zipfile.BadZipFile, KeyError, XmlTree.ParseError, StopIteration) as error:
        raise DatasetError(f"{path}: must be an xlsx workbook, got {error}; unpack or download it again") from error
    rows: list[tuple[int, dict[int, str]]] = []
    for count, row in enumerate(sheet.iter(f"{MAIN}row"), start=1):
        cells = _cells(row, shared)
        if cells:
            rows.append((int(row.get("r", count)), cells))
    return rows


def _first_sheet(archive: zipfile.ZipFile) -> str:
    sheet = next(XmlTree.fromstring(archive.read("xl/workbook.xml")).iter(f"{MAIN}sheet"))
    wanted = sheet.get(RELATION)
    relations = XmlTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))
    target = next(str(r.get("Target")) for r in relations if r.get("Id") == wanted)
    return target.lstrip("/") if target.startswith("/") else f"xl/{target}"


def _shared_strings(archive: zipfile.ZipFile) -> list[str]:
    if "xl/sharedStrings.xml" not in archive.namelist():
        return []
    table = XmlTree.fromstring(archive.read("xl/sharedStrings.xml"))
    return [_text(item) for item in table.iter(f"{MAIN}si")]


def _cells(row: XmlTree.Element, shared: list[str]) -> dict[int, str]:
    cells: dict[int, str] = {}
    for position, cell in enumerate(row.iter(f"{MAIN}c")):
        reference = re.match(r"[A-Z]+", cell.get("r", ""))
        column = _column(reference[0]) if reference else position
        value = cell.find(f"{MAIN}v")
        if cell.get("t") == "inlineStr":
            text = _text(cell)
        elif value is None or value.text is None:
            continue
        else:
            text = shared[int(value.text)] if cell.get("t") == "s" else value.text
        if text.strip():
            cells[column] = text.strip()
    return cells


def _text(element: XmlTree.Element) -> str:
    # rPh repeats a text's reading
    reading = {t for ruby in element.iter(f"{MAIN}rPh") for t in ruby.iter(f"{MAIN}t")}
    return "".join(t.text or "" for t in element.iter(f"{MAIN}t") if t not in reading)


def _column(letters: str) -> int:
    """0 of A, 26 of AA."""
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1
