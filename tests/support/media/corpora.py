"""Small trees in the layouts of the corpora, of real videos and sounds."""

import functools
import struct
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import openpyxl
import soundfile

from tests.support.media.files import pictures, write_media


@functools.cache
def _mp4(has_audio: bool) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = write_media(Path(folder) / "a.mp4", num_frames=6, fps=6, audio_s=1.0 if has_audio else 0)
        return path.read_bytes()


def put_mp4(path: Path, *, has_audio: bool = True) -> Path:
    """A second of moving noise, H.264 and AAC; a box at its end makes each file another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = str(path).encode()
    path.write_bytes(_mp4(has_audio) + struct.pack(">I4s", 8 + len(mark), b"free") + mark)
    return path


def put_wav(path: Path, *, level: float = 0.1) -> Path:
    """A second of noise at 16 kHz; of digital silence at level 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, path.name))
    noise = np.random.default_rng(seed).normal(0, 1, 16_000) * level
    soundfile.write(path, noise.astype(np.float32), 16_000)
    return path


def put_frames(folder: Path, count: int) -> Path:
    """A folder of images called from 1 up without zeros before."""
    from PIL import Image

    folder.mkdir(parents=True)
    for number, pixels in enumerate(pictures(count), start=1):
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return folder


def put_text(path: Path, text: str) -> Path:
    """A list or table, byte for byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def put_dfew(root: Path, *, train: Mapping[int, int], test: Mapping[int, int], fold: int = 1) -> Path:
    """DFEW as it is unpacked: {clip: label from 1}, clips spread over parts."""
    for part, clips in (("train", train), ("test", test)):
        rows = "".join(f"{clip},{label}\r\n" for clip, label in clips.items())
        put_text(
            root / "EmoLabel_DataSplit" / f"{part}(single-labeled)" / f"set_{fold}.csv",
            f"video_name,label\r\n{rows}",
        )
        for clip in clips:
            put_mp4(root / f"part_{clip % 3 + 1}" / f"{clip}.mp4")
    return root


def put_mafw(root: Path, *, train: Sequence[str], test: Sequence[str], fold: int = 1) -> Path:
    """MAFW as it is unpacked: lines such as `00025.mp4 anger`, the last without an end of line."""
    for part, lines in (("train", train), ("test", test)):
        put_text(
            root / "Train & Test Set" / "single" / "no_caption" / f"set_{fold}" / f"{part}.txt", "\n".join(lines)
        )
        for line in lines:
            put_mp4(root / "data" / "clips" / line.split()[0])
    return root


def put_ravdess(root: Path, names: Iterable[str]) -> Path:
    """Files by code below their actor: mp4 for video, silent where the code says so, wav for sound."""
    for name in names:
        path = root / f"Actor_{name[-2:]}" / name
        if name.startswith("03"):
            put_wav(path.with_name(f"{name}.wav"))
        else:
            put_mp4(path.with_name(f"{name}.mp4"), has_audio=name.startswith("01"))
    return root


def put_ovmerd(root: Path, count: int) -> Path:
    """OV-MERD with as many reasons and one clip more without."""
    names = [f"sample_{n:08}" for n in range(count + 1)]
    put_text(
        root / "track2_train_ovmerd.csv", "name,openset\n" + "".join(f"{n},\"['worried', 'x']\"\n" for n in names)
    )
    put_text(
        root / "track3_train_ovmerd.csv", "name,reason\n" + "".join(f"{n},He frowns.\n" for n in names[:count])
    )
    for name in names:
        put_mp4(root / "video" / f"{name}.mp4")
    put_wav(root / "audio" / f"{names[0]}.wav")
    return root


def put_workbook(path: Path, rows: Sequence[Mapping[int, str | float]]) -> Path:
    """An xlsx file; columns from 0, rows from 1."""
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    for number, row in enumerate(rows, start=1):
        for column, value in row.items():
            sheet.cell(number, column + 1, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path
