"""Rewards for the form of a completion: strict, and as published."""

import re

from common.labels import has_form
from reward.builtin.parts.completion import TAG
from reward.builtin.parts.options import builtin_reward
from reward.request import RewardRequest

OPENING, CLOSING = "<think>", "</answer>"
_SEAM = re.compile(r"</think>\s*+<answer>")


@builtin_reward("format")
class FormatReward:
    """1.0 if the completion is one thought and one answer, and nothing else; otherwise 0.0.

    Formula: `<think>`, text, `</think>`, `<answer>`, text, `</answer>`, with white space around and between. Each
    text must hold more than white space, and no tag of any name. Range: 0 or 1.
    Source: R1-Omni (`grpo.py`, `format_reward`), which also accepts nested, repeated and empty tags.
    Caution: name the tags in the question, or the reward stays at 0.
    """

    def __call__(self, request: RewardRequest) -> float:
        text = request.completion.strip()
        is_enclosed = text.startswith(OPENING) and text.endswith(CLOSING)
        if not is_enclosed or (seam := _SEAM.search(text)) is None:
            return 0.0
        parts = text[len(OPENING) : seam.start()], text[seam.end() : -len(CLOSING)]
        return 1.0 if all(part.strip() and not TAG.search(part) for part in parts) else 0.0


@builtin_reward("format_r1omni")
class PublishedFormatReward:
    r"""1.0 if `<think>.*?</think>\s*<answer>.*?</answer>` matches the whole completion, else 0.0.

    Formula: `re.fullmatch` with DOTALL, in linear time (`common.labels.has_form`). Range: 0 or 1.
    Source: R1-Omni, `grpo.py`, `format_reward`.
    Caution: nested, repeated and empty tags pass; `format` closes these holes.
    """

    def __call__(self, request: RewardRequest) -> float:
        return 1.0 if has_form(request.completion) else 0.0
