"""Rotary positions against transformers' `get_rope_index`, and against exact arithmetic."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from common.models.qwen2_5_omni.positions import prompt_positions
from common.models.qwen2_5_omni.processor import process_prompt
from common.types import DecodedClip, ProcessedPrompt

RATES = (2, 5, 7, 8, 10, 12, 12.5, 15, 24, 25, 29.97, 30)
FRAME_COUNTS = (1, 2, 3, 4, 7, 13, 24, 50)


def prompt_with(tiny: str, *, num_frames: int, fps: float, num_samples: int = 8_000) -> ProcessedPrompt:
    """Black frames of two tokens each, and silence."""
    clip = DecodedClip(
        frames=np.zeros((num_frames, 28, 56, 3), dtype=np.uint8) if num_frames else None,
        fps=fps,
        waveform=np.zeros(num_samples, dtype=np.float32) if num_samples else None,
    )
    return process_prompt(clip, "How?", model_path=tiny, min_pixels=784, max_pixels=12_544)


def positions_of(prompt: ProcessedPrompt) -> np.ndarray:
    """As in the released models."""
    return prompt_positions(prompt, positions_per_second=25, merge_size=2)


def rope_index(thinker: Any, prompt: ProcessedPrompt) -> np.ndarray:
    """What transformers makes of the same tensors."""
    ids = torch.tensor([prompt.prompt_token_ids])
    media: dict[str, torch.Tensor] = {}
    if "video" in prompt.placeholders:
        media["video_grid_thw"] = torch.from_numpy(prompt.tensors["video_grid_thw"])
        media["second_per_grids"] = torch.from_numpy(prompt.tensors["video_second_per_grid"])
    if "audio" in prompt.placeholders:
        media["audio_seqlens"] = torch.from_numpy(prompt.tensors["audio_feature_lengths"])
    return thinker.get_rope_index(ids, attention_mask=torch.ones_like(ids), **media)[0][:, 0].long().numpy()


@pytest.mark.parametrize("fps", RATES)
def test_positions_are_those_of_transformers(tiny: str, thinker: Any, fps: float) -> None:
    for num_frames in FRAME_COUNTS:
        prompt = prompt_with(tiny, num_frames=num_frames, fps=fps)
        expected = rope_index(thinker, prompt)
        assert positions_of(prompt).tolist() == expected.tolist(), f"{num_frames} frames"


@pytest.mark.parametrize("fps", RATES)
def test_temporal_positions_are_the_exact_seconds(tiny: str, fps: float) -> None:
    # a pair of frames lasts 2 / fps seconds, a second 25 positions; rounded down only once, at the end
    prompt = prompt_with(tiny, num_frames=50, fps=fps)
    start, length = prompt.placeholders["video"]
    temporal = positions_of(prompt)[0, start : start + length : 2] - positions_of(prompt)[0, start]
    exact = [int(Fraction(pair) * 50 / Fraction(str(fps))) for pair in range(25)]
    assert temporal.tolist() == exact


@pytest.mark.parametrize(("num_frames", "num_samples"), [(0, 8_000), (0, 0), (5, 0)])
def test_positions_without_a_modality_are_those_of_transformers(
    tiny: str, thinker: Any, num_frames: int, num_samples: int
) -> None:
    prompt = prompt_with(tiny, num_frames=num_frames, fps=8.0, num_samples=num_samples)
    assert positions_of(prompt).tolist() == rope_index(thinker, prompt).tolist()


def test_positions_by_hand(tiny: str) -> None:
    # 3 frames at 5 fps: two pairs, 0.4 s = 10 positions apart, of 1 x 2 tokens
    prompt = prompt_with(tiny, num_frames=3, fps=5.0, num_samples=0)
    start, length = prompt.placeholders["video"]
    got = positions_of(prompt)
    assert length == 4
    assert got[:, start - 1].tolist() == [start - 1] * 3
    block = got[:, start : start + length] - start
    assert block.tolist() == [[0, 0, 10, 10], [0, 0, 0, 0], [0, 1, 0, 1]]
    # what follows starts one past the largest
    assert got[:, start + length].tolist() == [start + 11] * 3
