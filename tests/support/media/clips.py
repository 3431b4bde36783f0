"""Prompts made from clips of every awkward kind."""

from dataclasses import dataclass

import numpy as np

from common.models.qwen2_5_omni.processor import process_prompt
from common.types import DecodedClip, ProcessedPrompt

QUESTION = "Which emotion do you see and hear?"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipCase:
    """One kind of clip."""

    name: str
    num_frames: int
    """0 for no video."""
    fps: float
    seconds: float
    """0 for no audio."""


CASES = (
    ClipCase(name="av-2fps", num_frames=6, fps=2.0, seconds=3.0),
    ClipCase(name="av-8fps-odd-frames", num_frames=17, fps=8.0, seconds=2.1),
    ClipCase(name="av-12fps", num_frames=24, fps=12.0, seconds=2.0),
    ClipCase(name="av-one-frame", num_frames=1, fps=8.0, seconds=1.0),
    ClipCase(name="av-audio-longer", num_frames=8, fps=8.0, seconds=4.3),
    ClipCase(name="av-audio-shorter", num_frames=24, fps=8.0, seconds=0.7),
    ClipCase(name="video-only-odd-frames", num_frames=13, fps=12.0, seconds=0),
    ClipCase(name="video-only-one-frame", num_frames=1, fps=2.0, seconds=0),
    ClipCase(name="audio-only", num_frames=0, fps=0.0, seconds=2.5),
    ClipCase(name="text-only", num_frames=0, fps=0.0, seconds=0),
)


def decoded(case: ClipCase, *, seed: int = 0, side: int = 112) -> DecodedClip:
    """Noise of the case's shape; another seed is another clip."""
    rng = np.random.default_rng(seed)
    return DecodedClip(
        frames=rng.integers(0, 256, (case.num_frames, side, side, 3), dtype=np.uint8) if case.num_frames else None,
        fps=case.fps,
        waveform=rng.normal(0, 0.1, int(case.seconds * 16_000)).astype(np.float32) if case.seconds else None,
    )


def processed(case: ClipCase, model_path: str, *, seed: int = 0, question: str = QUESTION) -> ProcessedPrompt:
    """The case as both planes consume it."""
    return process_prompt(
        decoded(case, seed=seed), question, model_path=model_path, min_pixels=784, max_pixels=12_544
    )


def case_named(name: str) -> ClipCase:
    """One case."""
    return next(c for c in CASES if c.name == name)
