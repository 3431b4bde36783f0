"""Checkpoints of released sizes without their bytes: real headers over files that are all hole."""

import json
import math
from pathlib import Path
from typing import Any, cast

SIZES: dict[str, dict[str, int]] = {
    "3b": {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2}
    | {"intermediate_size": 11008, "vocab_size": 151936},
    "7b": {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
    | {"intermediate_size": 18944, "vocab_size": 152064},
}
"""Of the decoders of Qwen2.5-Omni, as their `config.json` says."""


def released_config(size: str) -> dict[str, Any]:
    """The thinker's part of a released `config.json`; what it leaves out is transformers' default."""
    text = SIZES[size]
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]}
    return {
        "text_config": {**text, "rope_parameters": rope, "tie_word_embeddings": False},
        "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
        | {"out_hidden_size": text["hidden_size"]},
        "audio_config": {"output_dim": text["hidden_size"]},
        "tie_word_embeddings": False,
    }


def write_sparse_checkpoint(folder: Path, size: str) -> int:
    """A folder that looks like the released one to whoever reads headers only; numbers in the thinker."""
    import torch
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    thinker = released_config(size)
    with torch.device("meta"):
        model = Qwen2_5OmniThinkerForConditionalGeneration(cast(Any, Qwen2_5OmniThinkerConfig)(**thinker))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, parameter in model.named_parameters():
        start, end = end, end + 2 * parameter.numel()
        header[f"thinker.{name}"] = {"dtype": "BF16", "shape": list(parameter.shape), "data_offsets": [start, end]}
    # what the learner does not load
    header["talker.model.norm.weight"] = {"dtype": "BF16", "shape": [10**9], "data_offsets": [end, end + 2 * 10**9]}
    folder.mkdir(parents=True)
    encoded = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + end + 2 * 10**9)
    config = {"architectures": ["Qwen2_5OmniModel"], "thinker_config": thinker}
    (folder / "config.json").write_text(json.dumps(config))
    return sum(math.prod(p.shape) for p in model.parameters())
