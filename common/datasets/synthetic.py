"""A seeded corpus of real mp4 files: a drawn face that moves, and a voice that speaks.

Brows, eyes, mouth and head follow the emotion, and so do the voice's pitch, range, rate, loudness and words.
Who it is, the colours, the background and the noise vary from clip to clip.
"""

import json
import math
import random
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soxr
from PIL import Image, ImageDraw

from common.datasets.r1_omni import QUESTION
from common.datasets.voice import Prosody, speak
from common.media import SAMPLE_RATE

SIZE = 112
CLASSES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
VOICES = ("en-us", "en-us+f1", "en-us+f2", "en-us+f4", "en-us+m3", "en-us+m7")


@dataclass(frozen=True, kw_only=True, slots=True)
class Expression:
    """A face and a voice of one emotion."""

    brow: float
    """Slope of the brows towards the nose; negative is down."""
    raise_: float
    """Height of the brows."""
    eye: float
    """Opening of the eyes."""
    smile: float
    """Curve of the mouth."""
    mouth: float
    """Opening of the mouth."""
    sway: float
    """Movement of the head, in pixels."""
    prosody: Prosody
    words: tuple[str, ...]


def _prosody(pitch: int, pitch_range: int, rate: int, volume: int) -> Prosody:
    return Prosody(pitch=pitch, pitch_range=pitch_range, words_per_minute=rate, volume=volume)


EXPRESSIONS = {
    "happy": Expression(
        brow=0.1, raise_=0.3, eye=0.7, smile=1.0, mouth=0.4, sway=3.0,
        prosody=_prosody(70, 80, 190, 110), words=("What a lovely day", "I am so glad you came"),
    ),
    "sad": Expression(
        brow=0.8, raise_=0.1, eye=0.4, smile=-0.8, mouth=0.1, sway=0.7,
        prosody=_prosody(25, 15, 110, 60), words=("She is gone", "I miss the old house"),
    ),
    "neutral": Expression(
        brow=0.0, raise_=0.0, eye=0.6, smile=0.0, mouth=0.15, sway=0.5,
        prosody=_prosody(45, 35, 150, 90), words=("The train leaves at noon", "It is on the table"),
    ),
    "angry": Expression(
        brow=-1.0, raise_=-0.4, eye=0.7, smile=-0.5, mouth=0.5, sway=2.0,
        prosody=_prosody(35, 70, 200, 180), words=("Stop it right now", "How dare you"),
    ),
    "surprise": Expression(
        brow=0.2, raise_=1.0, eye=1.0, smile=0.0, mouth=1.0, sway=1.5,
        prosody=_prosody(85, 95, 175, 120), words=("Oh, is it you", "I did not expect that"),
    ),
    "disgust": Expression(
        brow=-0.5, raise_=-0.2, eye=0.3, smile=-1.0, mouth=0.2, sway=1.0,
        prosody=_prosody(30, 50, 125, 100), words=("That smells awful", "Take it away"),
    ),
    "fear": Expression(
        brow=0.9, raise_=0.7, eye=1.0, smile=-0.3, mouth=0.5, sway=4.0,
        prosody=_prosody(90, 60, 215, 80), words=("Something is out there", "Please do not leave me"),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRecipe:
    """Everything that makes one clip."""

    clip_id: str
    face: str
    """Emotion of the face."""
    voice: str
    """Emotion of the voice."""
    label: str
    identity: int
    speaker: str
    words: str
    fps: int
    seconds: float
    seed: int


def write_synthetic_corpus(folder: Path, *, num_clips: int, seed: int) -> Path:
    """Writes the clips, `records.json` in R1-Omni's form and `metadata.jsonl`; what is complete is kept.

    Returns:
        The JSON file.
    """
    index = folder / "records.json"
    if index.exists():
        return index
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    recipes = [_recipe(i, seed=seed) for i in range(num_clips)]
    for recipe in recipes:
        write_clip(folder / recipe.clip_id, recipe)
    records = [
        {
            "video": r.clip_id,
            "conversations": [
                {"from": "human", "value": f"<video>\n<audio>\n{QUESTION}"},
                {"from": "gpt", "value": r.label},
            ],
        }
        for r in recipes
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(asdict(r)) + "\n" for r in recipes))
    partial = index.with_suffix(".partial")
    partial.write_text(json.dumps(records, indent=1) + "\n")
    # last: its presence says that the corpus is whole
    partial.rename(index)
    return index


def _recipe(index: int, *, seed: int) -> ClipRecipe:
    rng = random.Random(f"{seed}/{index}")
    label = CLASSES[index % len(CLASSES)]
    return ClipRecipe(
        clip_id=f"clips/{index:05d}.mp4",
        face=label,
        voice=label,
        label=label,
        identity=rng.randrange(1000),
        speaker=rng.choice(VOICES),
        words=rng.choice(EXPRESSIONS[label].words),
        fps=rng.choice((8, 10, 12)),
        seconds=rng.uniform(2.0, 3.0),
        seed=rng.randrange(2**31),
    )


def write_clip(path: Path, recipe: ClipRecipe) -> None:
    """Renders a recipe as H.264 and AAC in mp4."""
    frames = render_face(recipe)
    write_mp4(path, frames=frames, fps=recipe.fps, waveform=render_voice(recipe))


def render_face(recipe: ClipRecipe) -> np.ndarray:
    """uint8 [T, 112, 112, 3]."""
    rng = np.random.default_rng(recipe.seed)
    look = random.Random(f"identity/{recipe.identity}")
    skin = tuple(look.randint(120, 230) - 25 * i for i in range(3))
    hair = tuple(look.randint(20, 160) for _ in range(3))
    wall = tuple(int(c) for c in rng.integers(30, 220, 3))
    width, height = look.uniform(26, 33), look.uniform(33, 40)
    count = max(1, round(recipe.fps * recipe.seconds))
    frames = [
        _frame(EXPRESSIONS[recipe.face], t / recipe.fps, skin=skin, hair=hair, wall=wall, size=(width, height))
        for t in range(count)
    ]
    noise = rng.normal(0, 4, (count, SIZE, SIZE, 1))
    return np.clip(np.stack(frames) + noise, 0, 255).astype(np.uint8)


def _frame(
    e: Expression,
    time: float,
    *,
    skin: tuple[int, ...],
    hair: tuple[int, ...],
    wall: tuple[int, ...],
    size: tuple[float, float],
) -> np.ndarray:
    image = Image.new("RGB", (SIZE, SIZE), wall)
    draw = ImageDraw.Draw(image)
    phase = 2 * math.pi * 1.3 * time
    x, y = SIZE / 2 + e.sway * math.sin(phase), SIZE / 2 + 4 + 0.5 * e.sway * math.cos(1.7 * phase)
    w, h = size
    talk = e.mouth * (0.6 + 0.4 * math.sin(4.3 * phase))
    draw.ellipse((x - w - 3, y - h - 6, x + w + 3, y + h * 0.4), fill=hair)
    draw.ellipse((x - w, y - h, x + w, y + h), fill=skin)
    for side in (-1, 1):
        ex, ey = x + side * w * 0.42, y - h * 0.18
        lid = 1.5 + 5 * e.eye
        draw.ellipse((ex - 6, ey - lid, ex + 6, ey + lid), fill=(250, 250, 250))
        draw.ellipse((ex - 2.5, ey - 2.5, ex + 2.5, ey + 2.5), fill=(20, 20, 40))
        top = ey - 10 - 5 * e.raise_
        inner, outer = (ex - side * 8, top - 4 * e.brow), (ex + side * 8, top + 4 * e.brow)
        draw.line((*inner, *outer), fill=hair, width=3)
    mx, my = x, y + h * 0.5
    points = [
        (mx + u * 13, my - 7 * e.smile * (u * u - 0.5) + 6 * talk * (1 - u * u)) for u in np.linspace(-1, 1, 9)
    ]
    upper = [(mx + u * 13, my - 7 * e.smile * (u * u - 0.5)) for u in np.linspace(1, -1, 9)]
    draw.polygon([*points, *upper], fill=(110, 20, 30), outline=(150, 40, 50))
    return np.asarray(image, dtype=np.float32)


def render_voice(recipe: ClipRecipe) -> np.ndarray:
    """float32 [S] at 16 kHz, as long as the clip."""
    rng = np.random.default_rng(recipe.seed + 1)
    samples, rate = speak(recipe.words, voice=recipe.speaker, prosody=EXPRESSIONS[recipe.voice].prosody)
    waveform = soxr.resample(samples, rate, SAMPLE_RATE)
    length = round(recipe.seconds * SAMPLE_RATE)
    waveform = np.pad(waveform, (0, max(0, length - len(waveform))))[:length]
    return (waveform + rng.normal(0, 0.003, length)).clip(-1, 1).astype(np.float32)


def write_mp4(path: Path, *, frames: np.ndarray | None, fps: float, waveform: np.ndarray | None) -> None:
    """Writes H.264 video, AAC audio at 16 kHz, or either alone."""
    from fractions import Fraction

    import av

    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", format="mp4") as container:
        video = audio = None
        if frames is not None:
            video = container.add_stream("libx264", rate=rate, options={"crf": "20", "threads": "1"})
            video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        if waveform is not None:
            audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        if video is not None and frames is not None:
            for pixels in frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(video.encode(None))
        if audio is not None and waveform is not None:
            frame = av.AudioFrame.from_ndarray(waveform[None, :], format="fltp", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            frame.pts, frame.time_base = 0, Fraction(1, SAMPLE_RATE)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
