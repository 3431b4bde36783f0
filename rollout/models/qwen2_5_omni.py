"""Qwen2.5-Omni's processed prompt as vLLM's rendered engine input: no processor runs in the engine."""

from typing import Any

import torch
from transformers import BatchFeature
from vllm.inputs.engine import mm_input, tokens_input
from vllm.model_executor.models.qwen2_5_omni_thinker import create_qwen2_5_omni_thinker_field_factory
from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange

from common.types import ProcessedPrompt

SPATIAL_MERGE_SIZE = 2
"""Fixed in the architecture; it only splits a batch into its items, of which there is one per modality."""


def engine_input(prompt: ProcessedPrompt, *, cache_salt: str, tower_version: str) -> Any:
    """The engine input of a processed prompt.

    `cache_salt` names the weights of the prefix blocks, `tower_version` those of the encoder cache's entries.
    """
    ids = list(prompt.prompt_token_ids)
    if not prompt.placeholders:
        return tokens_input(ids, cache_salt=cache_salt)
    tensors = {k: torch.from_numpy(v) for k, v in prompt.tensors.items()}
    features: dict[str, torch.Tensor] = {}
    if "video" in prompt.placeholders:
        features |= {
            "pixel_values_videos": tensors["pixel_values_videos"],
            "video_grid_thw": tensors["video_grid_thw"],
            "second_per_grid_ts": tensors["video_second_per_grid"],
        }
    if "audio" in prompt.placeholders:
        lengths = tensors["audio_feature_lengths"]
        features |= {
            "input_audio_features": tensors["input_features"],
            "audio_feature_lengths": lengths,
            "feature_attention_mask": torch.ones(1, int(lengths[0]), dtype=torch.long),
        }
    batch = BatchFeature(features)
    return mm_input(
        prompt_token_ids=ids,
        mm_kwargs=MultiModalKwargsItems.from_hf_inputs(
            batch, create_qwen2_5_omni_thinker_field_factory(SPATIAL_MERGE_SIZE)(batch)
        ),
        mm_hashes={m: [f"{m}:{prompt.clip_hash}:{tower_version}"] for m in prompt.placeholders},
        mm_placeholders={
            m: [PlaceholderRange(offset=start, length=length)] for m, (start, length) in prompt.placeholders.items()
        },
        cache_salt=cache_salt,
    )
