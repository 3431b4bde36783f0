"""Floating-point operations of a step, counted from shapes; a multiplication with its addition counts as two.

A matrix of n numbers costs 2 n per token forward, 2 n for the gradient of what came in, and 2 n for its own
gradient where it trains. Attention costs 4 x width x tokens attended to, per token and layer, and twice that
backward. Norms, rotations and softmaxes are left out, as is whatever is computed again: this is what a step must
do, not what it does.
"""

from dataclasses import dataclass
from typing import Any

from tests.gpu.subjects import Subject

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations per second, by the vendor's data sheets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """Equal layers that tokens pass through."""

    matrix_numel: int
    """Numbers in the matrices of all layers."""
    attention: int
    """Layers times the width that attention works at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Tokens and contexts of one pass through a model."""

    tokens: int
    attended: int
    """Sum over tokens of the tokens that each attends to."""


def stacks_of(thinker: Any) -> dict[str, Stack]:
    """Of a transformers thinker."""
    text, vision, audio = thinker.config.text_config, thinker.config.vision_config, thinker.config.audio_config
    head = text.hidden_size // text.num_attention_heads
    return {
        "decoder": Stack(
            matrix_numel=_matrices(thinker.model.layers),
            attention=text.num_hidden_layers * head * text.num_attention_heads,
        ),
        "head": Stack(matrix_numel=_matrices(thinker.lm_head), attention=0),
        "vision": Stack(matrix_numel=_matrices(thinker.visual.blocks), attention=vision.depth * vision.hidden_size),
        "audio": Stack(
            matrix_numel=_matrices(thinker.audio_tower.layers), attention=audio.encoder_layers * audio.d_model
        ),
    }


def _matrices(module: Any) -> int:
    return sum(p.numel() for n, p in module.named_parameters() if p.ndim > 1 and "lora_" not in n)


def works_of(subject: Subject, *, is_shared: bool, has_media: bool) -> dict[str, Work]:
    """What one group costs, with its prompt once or with each completion; the towers' windows are 64 patches."""
    prompt, completion, rows = subject.prompt_tokens, subject.completion_tokens, subject.group_size
    # a prompt's tokens attend to half of it on average, a completion's to all of it and half of the completion
    own, behind = prompt * (prompt + 1) // 2, completion * prompt + completion * (completion + 1) // 2
    times = 1 if is_shared else rows
    patches = subject.grid[0] * subject.grid[1] * subject.grid[2] if has_media else 0
    frames = subject.mel_frames // 2 if has_media else 0
    return {
        "decoder": Work(tokens=times * prompt + rows * completion, attended=times * own + rows * behind),
        # logits of prompts are nobody's need, but the plain module makes them
        "head": Work(tokens=rows * completion if is_shared else rows * (prompt + completion), attended=0),
        "vision": Work(tokens=times * patches, attended=times * patches * 64),
        "audio": Work(tokens=times * frames, attended=times * frames * 100),
    }


def operations(stacks: dict[str, Stack], works: dict[str, Work], *, passes: dict[str, int]) -> dict[str, float]:
    """By part of the model.

    Args:
        stacks: of the model.
        works: of one group.
        passes: per part, what its matrices do: 1 forward, 2 with gradients of their inputs, 3 with their own.
    """
    return {
        part: 2.0 * stack.matrix_numel * works[part].tokens * passes[part]
        + 4.0 * stack.attention * works[part].attended * (1 if passes[part] == 1 else 3)
        for part, stack in stacks.items()
    }


def peak_of(device_name: str) -> float | None:
    """None where the device is not in the table."""
    return next((peak for name, peak in PEAK.items() if name in device_name), None)
