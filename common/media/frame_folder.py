"""Clips that are folders of images, one image per frame."""

import os
import re

import numpy as np

from common.errors import MediaError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp"})


def is_frame_folder(path: str) -> bool:
    """True if the first entry that is not hidden is an image."""
    with os.scandir(path) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                return os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES
    return False


def list_frames(path: str) -> list[str]:
    """Paths of the images, in the order of the numbers in their names; raises `MediaError`."""
    try:
        names = [n for n in os.listdir(path) if os.path.splitext(n)[1].lower() in IMAGE_SUFFIXES]
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror}", reason="unreadable") from error
    frames = sorted((n for n in names if not n.startswith(".")), key=_natural)
    if not frames:
        raise MediaError(f"{path}: a folder of frames must hold images, got none", reason="empty")
    return [os.path.join(path, name) for name in frames]


def read_frames(paths: list[str], indices: np.ndarray) -> np.ndarray:
    """Decodes the images at `indices`, int64 [T], to uint8 [T, H, W, 3].

    Raises:
        MediaError: `undecodable`: an image cannot be read, or differs in size from the first.
    """
    from PIL import Image

    frames: list[np.ndarray] = []
    taken: list[int] = indices.tolist()
    for index in taken:
        try:
            with Image.open(paths[index]) as image:
                frames.append(np.asarray(image.convert("RGB")))
        except (OSError, SyntaxError, ValueError) as error:
            raise MediaError(f"{paths[index]}: {error}", reason="undecodable") from error
        if frames[-1].shape != frames[0].shape:
            size, first = frames[-1].shape, frames[0].shape
            raise MediaError(
                f"{paths[index]}: a frame must be as large as the first, {first[1]} x {first[0]}, got {size[1]} x "
                f"{size[0]}",
                reason="undecodable",
            )
    return np.stack(frames)


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    # by value: frame 10 comes after frame 9
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part)
