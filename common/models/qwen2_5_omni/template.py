"""The prompt of Qwen2.5-Omni: ChatML, video and audio as separate items, the question last.

Its text equals that of the released chat template, character for character.
"""

from collections.abc import Collection

from common.types import Modality

SYSTEM = "You are a helpful assistant."
VIDEO_ITEM = "<|vision_bos|><|VIDEO|><|vision_eos|>"
AUDIO_ITEM = "<|audio_bos|><|AUDIO|><|audio_eos|>"
SPECIAL_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
"""The tokenizer's extra special tokens, by the names that the processor uses."""
CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n" + SYSTEM + "<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] in ('video', 'video_url') %}" + VIDEO_ITEM + ""
    "{% elif part['type'] in ('audio', 'audio_url', 'input_audio') %}" + AUDIO_ITEM + ""
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The template of checkpoints that this project builds; released checkpoints keep theirs."""


def render_prompt(question: str, *, modalities: Collection[Modality]) -> str:
    """The text of a prompt, one placeholder token per clip and modality, up to the assistant's turn."""
    items = (VIDEO_ITEM if "video" in modalities else "") + (AUDIO_ITEM if "audio" in modalities else "")
    return (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
        f"<|im_start|>user\n{items}{question}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
