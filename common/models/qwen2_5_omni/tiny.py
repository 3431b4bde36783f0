"""A random Qwen2.5-Omni of under two million parameters: the real architecture, sized for a test."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from common.models.qwen2_5_omni.template import CHAT_TEMPLATE, CHAT_TOKENS, SPECIAL_TOKENS

if TYPE_CHECKING:
    import torch


def build_tiny_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    tied: bool = False,
    hidden_size: int = 128,
    num_layers: int = 2,
    vocab_size: int = 500,
    corpus: tuple[str, ...] = (),
) -> Path:
    """Writes a thinker-only checkpoint that transformers and vLLM both load; returns its folder.

    Args:
        tied: `lm_head` shares the embedding's matrix.
        hidden_size: a multiple of 64; heads have 32 dimensions, the minimum of vLLM's CPU attention.
        num_layers: decoder layers; the towers have two each.
        vocab_size: size of the byte-level BPE with special tokens, without padding to a multiple.
        corpus: more text to train the tokenizer.
    """
    import torch
    from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(vocab_size, corpus)
    _write_processor(folder, tokenizer)
    config = _config(tokenizer, tied=tied, hidden_size=hidden_size, num_layers=num_layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2_5OmniThinkerForConditionalGeneration(config.thinker_config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                _initialize(name, parameter)
    tensors = {f"thinker.{n}": t.contiguous() for n, t in model.state_dict().items()}
    if tied:
        del tensors["thinker.lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": config.eos_token_id, "pad_token_id": config.pad_token_id}, indent=2) + "\n"
    )
    return folder


def _initialize(name: str, parameter: "torch.Tensor") -> None:
    # with the usual 0.02, signals would fade in narrow layers
    import torch

    if parameter.ndim == 1:
        # without random values, stale biases (all 0) and norms (all 1) would be invisible
        start = torch.zeros_like(parameter) if name.endswith("bias") else torch.ones_like(parameter)
        parameter.copy_(start + torch.randn_like(parameter) * (0.02 if name.endswith("bias") else 0.05))
    elif "embed_tokens" in name:
        parameter.normal_(0.0, 0.5)
    elif "lm_head" in name:
        parameter.normal_(0.0, 0.02)
    else:
        parameter.normal_(0.0, parameter[0].numel() ** -0.5)


def _config(tokenizer: Any, *, tied: bool, hidden_size: int, num_layers: int) -> Any:
    from transformers import Qwen2_5OmniConfig

    def token_id(token: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(token))

    eos, pad = token_id("<|im_end|>"), token_id("<|endoftext|>")
    config = cast(Any, Qwen2_5OmniConfig)(
        thinker_config={
            "audio_config": {
                "num_mel_bins": 128,
                "d_model": 64,
                "encoder_layers": 2,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 128,
                "output_dim": hidden_size,
                "n_window": 100,
                "max_source_positions": 1500,
            },
            "vision_config": _vision_config(hidden_size),
            "text_config": {
                "vocab_size": len(tokenizer),
                "hidden_size": hidden_size,
                "intermediate_size": 2 * hidden_size,
                "num_hidden_layers": num_layers,
                "num_attention_heads": hidden_size // 32,
                "num_key_value_heads": hidden_size // 64,
                "max_position_embeddings": 4096,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1_000_000.0,
                    "mrope_section": [4, 6, 6],
                },
                "tie_word_embeddings": tied,
            },
            "audio_token_index": token_id(SPECIAL_TOKENS["audio_token"]),
            "image_token_index": token_id(SPECIAL_TOKENS["image_token"]),
            "video_token_index": token_id(SPECIAL_TOKENS["video_token"]),
            "audio_start_token_id": token_id(SPECIAL_TOKENS["audio_bos_token"]),
            "audio_end_token_id": token_id(SPECIAL_TOKENS["audio_eos_token"]),
            "vision_start_token_id": token_id(SPECIAL_TOKENS["vision_bos_token"]),
            "vision_end_token_id": token_id(SPECIAL_TOKENS["vision_eos_token"]),
            "position_id_per_seconds": 25,
            "pad_token_id": pad,
            "tie_word_embeddings": tied,
        },
        enable_audio_output=False,
        tie_word_embeddings=tied,
        architectures=["Qwen2_5OmniForConditionalGeneration"],
    )
    config.eos_token_id = eos
    config.pad_token_id = pad
    return config


def _vision_config(hidden_size: int) -> dict[str, Any]:
    return {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 56,
        "fullatt_block_indexes": [1],
        "out_hidden_size": hidden_size,
        "tokens_per_second": 25,
    }


def _tokenizer(vocab_size: int, corpus: tuple[str, ...]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]

    special = [*CHAT_TOKENS, *SPECIAL_TOKENS.values()]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # every prompt contains the seed text: its merges come first
    bpe.train_from_iterator([*_SEED_TEXT * 50, *corpus], trainer)
    return cast(Any, Qwen2TokenizerFast)(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        bos_token=None,
        extra_special_tokens=dict(SPECIAL_TOKENS),
        model_max_length=4096,
    )


def _write_processor(folder: Path, tokenizer: Any) -> None:
    from transformers import (
        Qwen2_5OmniProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        WhisperFeatureExtractor,
    )

    size = {"shortest_edge": 28 * 28, "longest_edge": 224 * 224}
    processor = Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, patch_size=14),
        video_processor=Qwen2VLVideoProcessor(size=size, patch_size=14),
        feature_extractor=WhisperFeatureExtractor(feature_size=128, chunk_length=10, n_fft=400, hop_length=160),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(folder)


_SEED_TEXT = (
    "You are a helpful assistant. system user assistant",
    "As an emotional recognition expert; throughout the video, which emotion conveyed by the characters "
    "is the most obvious to you?",
    "Output the thinking process in <think> </think> and final emotion in <answer> </answer> tags.",
)
