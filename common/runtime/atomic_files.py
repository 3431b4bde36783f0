"""Atomic writes, and files of JSON lines that grow by whole lines."""

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic_write(path: Path) -> Generator[Path]:
    """Yields a path whose file replaces `path` after the block; after a failure the old file remains."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def atomic_write_text(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Appends a JSON line, with an fsync; removes an incomplete last line first."""
    with path.open("a+b") as file:
        file.truncate(end_of_lines(file))
        file.write(json.dumps(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every complete JSON line, oldest first; none if the file does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def end_of_lines(file: BinaryIO) -> int:
    """Length in bytes up to the last line break."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        if file.read() != b"\n":
            file.seek(0)
            return file.read().rfind(b"\n") + 1
    return size


def sync(path: Path) -> None:
    """Makes a file's bytes, or a folder's names, durable."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
