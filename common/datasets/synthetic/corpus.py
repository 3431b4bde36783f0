"""A seeded corpus of real mp4 files: a drawn, moving face, and a synthetic voice.

Brows, eyes, mouth and head follow the emotion, as do the voice's pitch, range, rate, loudness and words. Person,
colours, background and noise vary. In half of the clips face and voice agree; in a quarter only the voice has the
emotion, and in a quarter only the face. The latter come in pairs that share the uninformative modality.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
import soxr

from common.config.data import SyntheticDataConfig
from common.config.questions import QUESTION
from common.datasets.synthetic.expressions import EMOTIONS, FACES, NEUTRAL, VOICES, explanation
from common.datasets.synthetic.face import render_face
from common.datasets.synthetic.mp4 import write_mp4
from common.datasets.synthetic.voice import speak
from common.media.decode import SAMPLE_RATE
from common.runtime.atomic_files import atomic_write_text
from common.runtime.parent_watch import end_with_parent

LabelFrom = Literal["both", "voice", "face"]
SPEAKERS = tuple(f"en-us+{v}" for v in ("f1", "f2", "f3", "f4", "m1", "m3", "m4", "m5", "m7", "m8"))
HELDOUT_SPEAKERS = tuple(f"en-us+{v}" for v in ("f5", "m2", "m6"))
NUM_IDENTITIES = 400
"""Number of people in the training splits; the numbers of held-out people start here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRecipe:
    """The parameters of one clip."""

    clip_id: str
    split: str
    label: str
    label_from: LabelFrom
    """The modality that shows the label."""
    pair: str | None
    """Two clips with the same pair differ in one modality alone."""
    face: str
    """Emotion of the face."""
    voice: str
    """Emotion of the voice."""
    transcript: str
    identity: int
    speaker: str
    fps: int
    seconds: float
    seed: int

    @property
    def explanation(self) -> str:
        return explanation(face=self.face, voice=self.voice, label=self.label)


def corpus_folder(parent: Path, config: SyntheticDataConfig) -> Path:
    """The folder of a corpus of these sizes and this seed."""
    chosen = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:8]
    return parent / "corpus" / f"seed-{config.seed}-{chosen}"


def write_synthetic_corpus(
    folder: Path, config: SyntheticDataConfig, *, on_clip: Callable[[int, int], None] | None = None
) -> Path:
    """Writes the clips, `<split>.json` in R1-Omni's form and `metadata.jsonl`; a complete corpus is kept."""
    if (folder / "corpus.json").exists():
        return folder
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    recipes = plan_corpus(config)
    context = get_context("spawn")
    with ProcessPoolExecutor(max_workers=2, mp_context=context, initializer=end_with_parent) as pool:
        jobs = pool.map(write_clip, [folder / r.clip_id for r in recipes], recipes, chunksize=8)
        for count, _ in enumerate(jobs, start=1):
            if on_clip is not None:
                on_clip(count, len(recipes))
    (folder / "metadata.jsonl").write_text("".join(json.dumps(asdict(r)) + "\n" for r in recipes))
    for split in dict.fromkeys(r.split for r in recipes):
        records = [_r1_omni_record(r) for r in recipes if r.split == split]
        (folder / f"{split}.json").write_text(json.dumps(records, indent=1) + "\n")
    # last: its presence shows that the corpus is complete
    atomic_write_text(folder / "corpus.json", json.dumps(config.model_dump(), indent=1) + "\n")
    return folder


def corpus_sha256(folder: Path) -> str:
    """Hash of every clip, split and metadata line, by name."""
    digest = hashlib.sha256()
    files = [*(folder / "clips").glob("*.mp4"), *folder.glob("*.json"), folder / "metadata.jsonl"]
    for path in sorted(f for f in files if f.name != "corpus.json"):
        digest.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def plan_corpus(config: SyntheticDataConfig) -> list[ClipRecipe]:
    """Every clip of every split, in an order that is independent of the labels."""
    sizes = {
        "cold_start": config.num_cold_start,
        "train": config.num_train,
        "validation": config.num_validation,
        "heldout": config.num_heldout,
    }
    recipes: list[ClipRecipe] = []
    for split, size in sizes.items():
        rng = random.Random(f"{config.seed}/{split}")
        planned = list(_plan_split(split, size, rng))
        rng.shuffle(planned)
        recipes += planned
    return recipes


def _plan_split(split: str, size: int, rng: random.Random) -> Iterator[ClipRecipe]:
    # per class: two clips with both modalities, one with the voice alone, one with the face alone
    kinds: tuple[LabelFrom, ...] = ("both", "voice", "both", "face")
    wanted = [(kinds[(i // len(EMOTIONS)) % len(kinds)], EMOTIONS[i % len(EMOTIONS)]) for i in range(size)]
    for kind in dict.fromkeys(kinds):
        labels = [label for k, label in wanted if k == kind]
        for group in [[label] for label in labels] if kind == "both" else _pairs(labels, rng):
            yield from _recipe(split, group, kind, rng)


def _pairs(labels: Sequence[str], rng: random.Random) -> Iterator[list[str]]:
    # two different labels at a time; a label without a partner remains alone
    left = list(labels)
    rng.shuffle(left)
    while left:
        first = left.pop()
        partner = next((i for i, label in enumerate(left) if label != first), None)
        yield [first] if partner is None else [first, left.pop(partner)]


def _recipe(split: str, labels: Sequence[str], kind: LabelFrom, rng: random.Random) -> list[ClipRecipe]:
    """A clip, or a pair that differs in the modality of the label."""
    is_heldout = split == "heldout"
    first_identity = NUM_IDENTITIES if is_heldout else 0
    identity = rng.randrange(first_identity, first_identity + NUM_IDENTITIES)
    speaker = rng.choice(HELDOUT_SPEAKERS if is_heldout else SPEAKERS)
    fps, seconds, seed = rng.choice((8, 10, 12)), rng.uniform(2.0, 3.0), rng.randrange(2**31)
    # of the whole pair: its clips differ in words only if their voices differ
    sentence = rng.randrange(2**31)
    recipes: list[ClipRecipe] = []
    for label in labels:
        voice = NEUTRAL if kind == "face" else label
        sentences = VOICES[voice].sentences
        recipes.append(
            ClipRecipe(
                clip_id=f"clips/{rng.getrandbits(40):010x}.mp4",
                split=split,
                label=label,
                label_from=kind,
                pair=None if len(labels) < 2 else f"{split}-{seed:08x}",
                face=NEUTRAL if kind == "voice" else label,
                voice=voice,
                transcript=sentences[sentence % len(sentences)],
                identity=identity,
                speaker=speaker,
                fps=fps,
                seconds=seconds,
                seed=seed,
            )
        )
    return recipes


def write_clip(path: Path, recipe: ClipRecipe) -> None:
    frames = render_face(
        FACES[recipe.face],
        identity=recipe.identity,
        fps=recipe.fps,
        num_frames=max(1, round(recipe.fps * recipe.seconds)),
        seed=recipe.seed,
    )
    write_mp4(path, frames=frames, fps=recipe.fps, waveform=render_voice(recipe))


def render_voice(recipe: ClipRecipe) -> np.ndarray:
    """float32 [S] at 16 kHz, as long as the clip."""
    # another stream than that of the face
    rng = np.random.default_rng(recipe.seed + 1)
    samples, rate = speak(
        recipe.transcript, voice=recipe.speaker, prosody=VOICES[recipe.voice].prosody, seed=recipe.seed
    )
    waveform = soxr.resample(samples, rate, SAMPLE_RATE)
    length = round(recipe.seconds * SAMPLE_RATE)
    start = int(rng.integers(0, max(1, min(4_000, length - len(waveform)))))
    waveform = np.pad(waveform, (start, max(0, length - start - len(waveform))))[:length]
    return (waveform + rng.normal(0, 0.003, length)).clip(-1, 1).astype(np.float32)


def _r1_omni_record(recipe: ClipRecipe) -> dict[str, object]:
    answer = recipe.explanation if recipe.split == "cold_start" else recipe.label
    return {
        "video": recipe.clip_id,
        "conversations": [
            {"from": "human", "value": f"<video>\n<audio>\n{QUESTION}"},
            {"from": "gpt", "value": answer},
        ],
    }
