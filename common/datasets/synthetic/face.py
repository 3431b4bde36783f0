"""Drawings of a moving face."""

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from common.datasets.synthetic.expressions import FaceExpression

SIZE = 112
"""Pixels of a side."""
Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """The features of a person that stay while the expression changes."""

    skin: Colour
    hair: Colour
    width: float
    height: float
    """Half of the size of the face, in pixels."""
    parting: float
    """Length of the hair, as a share of the height."""


def look_of(identity: int) -> Look:
    rng = random.Random(f"identity/{identity}")
    tone = rng.randint(110, 235)
    return Look(
        skin=(tone, max(40, tone - rng.randint(20, 50)), max(30, tone - rng.randint(40, 90))),
        hair=(rng.randint(10, 130), rng.randint(10, 110), rng.randint(10, 100)),
        width=rng.uniform(40, 45),
        height=rng.uniform(47, 52),
        parting=rng.uniform(0.35, 0.55),
    )


def render_face(expression: FaceExpression, *, identity: int, fps: float, num_frames: int, seed: int) -> np.ndarray:
    """Draws a person with an expression: uint8 [num_frames, 112, 112, 3] at `fps`."""
    rng = np.random.default_rng(seed)
    red, green, blue = (int(c) for c in rng.integers(60, 190, 3))
    x, y = SIZE / 2 + rng.uniform(-3, 3), SIZE / 2 + 3 + rng.uniform(-2, 2)
    start = rng.uniform(0, 2 * math.pi)
    look = look_of(identity)
    frames: list[np.ndarray] = []
    for t in range(num_frames):
        phase = start + 2 * math.pi * 1.3 * t / fps
        image = Image.new("RGB", (SIZE, SIZE), (red, green, blue))
        _draw_head(
            ImageDraw.Draw(image),
            expression,
            look,
            x=x + expression.sway * math.sin(phase),
            y=y + 0.5 * expression.sway * math.cos(1.7 * phase),
            talk=expression.mouth * (0.7 + 0.3 * math.sin(4.3 * phase)),
        )
        frames.append(np.asarray(image, dtype=np.float32))
    noise = rng.normal(0, 4, (num_frames, SIZE, SIZE, 1)).astype(np.float32)
    return np.clip(np.stack(frames) + noise, 0, 255).astype(np.uint8)


def _draw_head(
    draw: ImageDraw.ImageDraw, e: FaceExpression, look: Look, *, x: float, y: float, talk: float
) -> None:
    w, h = look.width, look.height
    draw.ellipse((x - w - 3, y - h - 6, x + w + 3, y + h * 0.4), fill=look.hair)
    draw.ellipse((x - w, y - h * (1 - look.parting * 0.3), x + w, y + h), fill=look.skin)
    for side in (-1, 1):
        _draw_eye(draw, e, look, x=x + side * w * 0.42, y=y - h * 0.18, side=side)
    mx, my = x, y + h * 0.5
    across = np.linspace(-1, 1, 9)
    curve = [(mx + 22 * u, my - 13 * e.smile * (u * u - 0.5)) for u in across]
    lower = [(px, py + (3 + 15 * talk) * (1 - u * u)) for (px, py), u in zip(curve, across, strict=True)]
    draw.polygon([*lower, *reversed(curve)], fill=(110, 20, 30), outline=(150, 40, 50))


def _draw_eye(draw: ImageDraw.ImageDraw, e: FaceExpression, look: Look, *, x: float, y: float, side: int) -> None:
    lid = 1.5 + 9 * e.eye
    draw.ellipse((x - 10, y - lid, x + 10, y + lid), fill=(250, 250, 250))
    draw.ellipse((x - 4, y - min(4, lid), x + 4, y + min(4, lid)), fill=(20, 20, 40))
    top = y - 15 - 7 * e.lift
    draw.line((x - side * 13, top - 7 * e.brow, x + side * 13, top + 7 * e.brow), fill=look.hair, width=5)
