"""Clips that no file holds."""

import numpy as np
import pytest

from common.config.data import DataConfig
from common.models.registry import family_of
from common.prompts.probe_clips import longest_prompt, probe_prompts


def test_the_probe_is_a_clip_with_both_modalities_and_a_text(tiny: str) -> None:
    clip, text = probe_prompts(family_of(tiny), model_path=tiny, data=DataConfig())
    assert set(clip.placeholders) == {"video", "audio"}
    assert set(text.placeholders) == set()
    again, _ = probe_prompts(family_of(tiny), model_path=tiny, data=DataConfig())
    assert clip.clip_hash == again.clip_hash
    assert np.array_equal(clip.tensors["input_features"], again.tensors["input_features"])


@pytest.mark.parametrize(
    ("max_frames", "max_audio_s", "max_prompt_tokens"),
    [(64, 30.0, 300), (64, 30.0, 3000), (64, 60.0, 800), (1, 30.0, 500), (2, 60.0, 600)],
)
def test_the_longest_prompt_fits_and_fills_the_model(
    tiny: str, max_frames: int, max_audio_s: float, max_prompt_tokens: int
) -> None:
    data = DataConfig(max_frames=max_frames, max_audio_s=max_audio_s, max_pixels=12_544)
    prompt = longest_prompt(
        family_of(tiny), model_path=tiny, data=data, question="How?", max_prompt_tokens=max_prompt_tokens
    )
    assert len(prompt.prompt_token_ids) <= max_prompt_tokens
    whole_s, whole_frames = prompt.placeholders["audio"][1] / 25, prompt.tensors["video_grid_thw"][0][0] * 2
    uncut = whole_s == max_audio_s and whole_frames >= max_frames
    assert uncut or len(prompt.prompt_token_ids) > 0.6 * max_prompt_tokens
