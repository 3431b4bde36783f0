"""The prompt's text against the chat template that the tokenizer renders."""

from collections.abc import Collection
from typing import Any

import pytest

from common.config.questions import QUESTIONS, Stage
from common.models.qwen2_5_omni.processor import load_processor
from common.models.qwen2_5_omni.template import CHAT_TEMPLATE, SYSTEM, render_prompt
from common.types import Modality

MODALITIES: tuple[tuple[Modality, ...], ...] = ((), ("video",), ("audio",), ("video", "audio"))
QUESTION = "What do you see?\nAnswer {{ freely }}, in <answer> </answer>."


def conversation(modalities: Collection[Modality]) -> list[dict[str, Any]]:
    """Video and audio as items of their own, the question last."""
    items: list[dict[str, Any]] = [{"type": m, m: f"clip.{m}"} for m in modalities]
    return [{"role": "user", "content": [*items, {"type": "text", "text": QUESTION}]}]


@pytest.mark.parametrize("modalities", MODALITIES, ids=lambda m: "+".join(m) or "text")
def test_a_prompt_is_what_the_tokenizer_renders(tiny: str, modalities: tuple[Modality, ...]) -> None:
    tokenizer = load_processor(tiny).tokenizer
    for messages in (
        conversation(modalities),
        [{"role": "system", "content": SYSTEM}, *conversation(modalities)],
    ):
        rendered = tokenizer.apply_chat_template(
            messages, chat_template=CHAT_TEMPLATE, tokenize=False, add_generation_prompt=True
        )
        assert render_prompt(QUESTION, modalities=modalities) == rendered


@pytest.mark.parametrize("modalities", MODALITIES, ids=lambda m: "+".join(m) or "text")
def test_a_checkpoint_carries_the_template(tiny: str, modalities: tuple[Modality, ...]) -> None:
    rendered = load_processor(tiny).apply_chat_template(
        conversation(modalities), tokenize=False, add_generation_prompt=True
    )
    assert rendered == render_prompt(QUESTION, modalities=modalities)


def test_a_prompt_by_hand() -> None:
    assert render_prompt("Why?", modalities=("audio", "video")) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_bos|><|VIDEO|><|vision_eos|><|audio_bos|><|AUDIO|><|audio_eos|>Why?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("stage", "question"),
    [
        (
            "grpo",
            "As an emotional recognition expert; throughout the video, which emotion conveyed by the characters is "
            "the most obvious to you?\nOutput the thinking process in <think> </think> and final emotion in "
            "<answer> </answer> tags.",
        ),
        (
            "cold_start",
            "As an emotional recognition expert; throughout the video, which emotion conveyed by the characters is "
            "the most obvious to you? Output the thinking process in <think> </think> and final emotion in "
            "<answer> </answer> tags.",
        ),
        (
            "inference",
            "As an emotional recognition expert; throughout the video, which emotion conveyed by the characters is "
            "the most obvious to you?  Output the thinking process in <think> </think> and final emotion in "
            "<answer> </answer> tags.",
        ),
        (
            "evaluation",
            "As an emotional recognition expert, in the video, when the characters display their emotions, which "
            "predominant feeling is most clearly expressed?\n",
        ),
    ],
)
def test_each_stage_asks_the_published_question_without_stray_tokens(stage: Stage, question: str) -> None:
    assert render_prompt(QUESTIONS[stage], modalities=("video", "audio")) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_bos|><|VIDEO|><|vision_eos|><|audio_bos|><|AUDIO|><|audio_eos|>"
        f"{question}<|im_end|>\n<|im_start|>assistant\n"
    )
