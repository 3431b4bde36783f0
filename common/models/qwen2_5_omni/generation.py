"""Greedy answers without an engine, by transformers' `generate` with its positions and its cache."""

from typing import Any

import torch

from common.models.qwen2_5_omni.policy import Qwen2_5OmniPolicy
from common.models.qwen2_5_omni.processor import load_processor
from common.types import ProcessedPrompt


def generate(
    policy: Qwen2_5OmniPolicy, prompt: ProcessedPrompt, *, model_path: str, max_tokens: int
) -> tuple[int, ...]:
    """Greedy token ids, [C], with the token that ends the answer if it occurs within `max_tokens`."""
    thinker: Any = policy.thinker
    device, dtype = thinker.device, thinker.dtype
    tokenizer = load_processor(model_path).tokenizer
    ids = torch.tensor([prompt.prompt_token_ids], device=device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    tensors = {name: torch.from_numpy(array).to(device) for name, array in prompt.tensors.items()}
    if "video" in prompt.placeholders:
        inputs["pixel_values_videos"] = tensors["pixel_values_videos"].to(dtype)
        inputs |= {name: tensors[name] for name in ("video_grid_thw", "video_second_per_grid")}
    if "audio" in prompt.placeholders:
        features = tensors["input_features"].to(dtype).unsqueeze(0)
        inputs["input_features"] = features
        inputs["feature_attention_mask"] = torch.ones(features.shape[0], features.shape[2], device=device).long()
    # the thinker keeps the offsets of the last prompt
    thinker.rope_deltas = None
    with torch.inference_mode():
        output = thinker.generate(
            **inputs,
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=int(tokenizer.eos_token_id),
            pad_token_id=int(tokenizer.pad_token_id),
        )
    return tuple(int(token) for token in output[0, ids.shape[1] :])
