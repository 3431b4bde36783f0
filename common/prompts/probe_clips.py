"""Prompts without files: the probe of the canary, and the longest prompt within the limits."""

import dataclasses

import numpy as np

from common.config.data import DataConfig
from common.media.decode import SAMPLE_RATE
from common.models.registry import Family
from common.types import DecodedClip, ProcessedPrompt

PROBE_QUESTION = "Which emotion do the face and the voice convey?"
MIN_SECONDS = 0.5
NUM_REPEATS = 24
"""Repeats of the text probe's question, which then exceeds two of vLLM's blocks (128 tokens on CPU). Only whole
blocks are shared, and a probe that shares none cannot detect a stale block."""


def probe_prompts(family: Family, *, model_path: str, data: DataConfig) -> list[ProcessedPrompt]:
    """The prompts of the canary: a clip with video and audio, and a text."""
    clip = dataclasses.replace(_noise_clip(num_frames=6, side=84, fps=4.0, seconds=1.0), waveform=_bursts())
    silent = DecodedClip(frames=None, fps=0.0, waveform=None)
    pinned = {"model_path": model_path, "min_pixels": data.min_pixels, "max_pixels": data.max_pixels}
    return [
        family.process_prompt(clip, PROBE_QUESTION, **pinned),
        family.process_prompt(silent, " ".join([PROBE_QUESTION] * NUM_REPEATS), **pinned),
    ]


def longest_prompt(
    family: Family, *, model_path: str, data: DataConfig, question: str, max_prompt_tokens: int
) -> ProcessedPrompt:
    """A prompt as long as the data's limits and the engine's length allow."""
    side = int(data.max_pixels**0.5)
    num_frames, seconds = data.max_frames, data.max_audio_s
    pinned = {"model_path": model_path, "min_pixels": data.min_pixels, "max_pixels": data.max_pixels}
    while True:
        clip = _noise_clip(num_frames=num_frames, side=side, fps=data.max_fps, seconds=seconds)
        prompt = family.process_prompt(clip, question, **pinned)
        if len(prompt.prompt_token_ids) <= max_prompt_tokens or (num_frames == 1 and seconds <= MIN_SECONDS):
            return prompt
        # 5 % less: the length in tokens is not exactly proportional
        shrink = 0.95 * max_prompt_tokens / len(prompt.prompt_token_ids)
        num_frames, seconds = max(1, int(num_frames * shrink)), max(MIN_SECONDS, seconds * shrink)


def _bursts() -> np.ndarray:
    """One second in ten parts: silence, a tone and noise in turn, each tone higher."""
    # in steady noise all moments sound alike: an audio tower's queries and keys would hardly matter
    rng = np.random.default_rng(7)
    length = SAMPLE_RATE // 10
    moments = np.arange(length) / SAMPLE_RATE
    parts: list[np.ndarray] = []
    for i in range(10):
        tone = 0.5 * np.sin(2 * np.pi * 200 * 2 ** (i / 2) * moments)
        parts.append((np.zeros(length), tone, rng.normal(0, 0.3, length))[i % 3])
    return np.concatenate(parts).astype(np.float32)


def _noise_clip(*, num_frames: int, side: int, fps: float, seconds: float) -> DecodedClip:
    rng = np.random.default_rng(7)
    return DecodedClip(
        frames=rng.integers(0, 256, (num_frames, side, side, 3), dtype=np.uint8),
        fps=fps,
        waveform=rng.normal(0, 0.1, int(seconds * SAMPLE_RATE)).astype(np.float32),
    )
