"""The length in bytes that a media file declares: a truncated copy is shorter.

Only the outermost structures are read: boxes of MP4 and QuickTime, elements of Matroska and WebM, chunks of WAV and
AVI, pages of Ogg. The end of other files (MP3, AAC, MPEG-TS) is unknown, as are missing pieces of fragmented MP4,
live Matroska and Ogg that were cut between two pieces.
"""

import struct
from pathlib import Path
from typing import BinaryIO

BOXES_WITH_CONTENT = frozenset({b"moov", b"moof", b"mdat"})
"""A file that ends within another box has lost nothing."""
OUTER_BOXES = BOXES_WITH_CONTENT | {b"ftyp", b"styp", b"sidx", b"free", b"skip", b"wide", b"uuid", b"mfra", b"meta"}
EBML, SEGMENT = 0x1A45DFA3, 0x18538067
UNKNOWN_RIFF_BYTES = 0x7FFFF000
"""Sizes from here on mean that the writer did not know the size, for example in a pipe."""


def declared_bytes(path: str | Path) -> int | None:
    """The file length that the headers declare, at most the file's own length if it is whole; None without one."""
    with Path(path).open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(12)
        file.seek(0)
        if head[4:8] in OUTER_BOXES:
            return _end_of_boxes(file, size)
        if head[:4] == EBML.to_bytes(4):
            return _end_of_segment(file, size)
        if head[:4] in (b"RIFF", b"RF64"):
            return _end_of_wave(file, size) if head[8:12] == b"WAVE" else _end_of_riff(file, size)
        if head[:4] == b"OggS":
            return _end_of_pages(file, size)
    return None


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    end = position = 0
    kind = b""
    while position + 8 <= size:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind not in OUTER_BOXES:
            break
        if length == 1:
            # a size of 64 bits follows
            length = int.from_bytes(file.read(8).ljust(8, b"\0"))
        if length < 8:
            # 0 means to the end of the file
            return max(end, size)
        position += length
        if kind in BOXES_WITH_CONTENT:
            end = position
    # a fragment's index is followed by a box with its media
    return end + 8 if kind == b"moof" and position >= size else end


def _end_of_segment(file: BinaryIO, size: int) -> int:
    end = 0
    while end < size:
        file.seek(end)
        identity, length = _ebml_number(file, keep_marker=True), _ebml_number(file)
        if identity is None or length is None:
            return end
        end = file.tell()
        if length >= 0:
            end += length
            if identity == SEGMENT:
                return end
        elif identity != SEGMENT:
            # a cluster of a live recording, which ends where the next begins
            return size
    return end


def _ebml_number(file: BinaryIO, *, keep_marker: bool = False) -> int | None:
    """A number of 1 to 8 bytes; -1 if all bits are set ("unknown"); None at the end of the file."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    num_bytes = 9 - first[0].bit_length()
    rest = file.read(num_bytes - 1)
    if len(rest) < num_bytes - 1:
        return None
    number = int.from_bytes(first + rest)
    if keep_marker:
        return number
    mask = (1 << 7 * num_bytes) - 1
    return -1 if number & mask == mask else number & mask


def _end_of_wave(file: BinaryIO, size: int) -> int:
    position = 12
    while position + 8 <= size:
        file.seek(position)
        kind, length = struct.unpack("<4sI", file.read(8))
        position += 8
        if kind == b"data":
            return size if length >= UNKNOWN_RIFF_BYTES else position + length
        position += length + length % 2
    return position


def _end_of_riff(file: BinaryIO, size: int) -> int:
    # a large AVI file has one RIFF chunk per GiB
    end = 0
    while end + 8 <= size:
        file.seek(end)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF":
            break
        if not 0 < length < UNKNOWN_RIFF_BYTES:
            return size
        end += 8 + length
    return end


def _end_of_pages(file: BinaryIO, size: int) -> int:
    end = 0
    while end < size:
        file.seek(end)
        header = file.read(27)
        if header[:4] != b"OggS"[: len(header)]:
            return end
        if len(header) < 27:
            return end + 27
        lacing = file.read(header[26])
        if len(lacing) < header[26]:
            return end + 27 + header[26]
        end += 27 + len(lacing) + sum(lacing)
    return end
