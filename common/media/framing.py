"""The shape of frames before a model sees them: unchanged, padded to a square, or resized to a square."""

import dataclasses
import math
from typing import Literal

import numpy as np

from common.types import DecodedClip

FrameShape = Literal["keep", "pad", "square"]
GREY = 127
"""Grey of the padding: half of 255, rounded down (R1-Omni, `expand2square`)."""


def framed(clip: DecodedClip, shape: FrameShape, *, max_pixels: int) -> DecodedClip:
    """The clip with frames of another shape; R1-Omni trains on `pad` and evaluates on `square`.

    `keep` leaves the shape, `pad` adds grey borders up to a square, `square` resizes to a square of at most
    `max_pixels` pixels.
    """
    if clip.frames is None or shape == "keep":
        return clip
    frames = _padded(clip.frames) if shape == "pad" else _squashed(clip.frames, side=math.isqrt(max_pixels))
    return dataclasses.replace(clip, frames=frames)


def _padded(frames: np.ndarray) -> np.ndarray:
    _, height, width, _ = frames.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    borders = ((0, 0), (top, side - height - top), (left, side - width - left), (0, 0))
    return np.pad(frames, borders, constant_values=GREY)


def _squashed(frames: np.ndarray, *, side: int) -> np.ndarray:
    from PIL import Image

    resized = [Image.fromarray(f).resize((side, side), Image.Resampling.BICUBIC) for f in frames]
    return np.stack([np.asarray(image) for image in resized])
