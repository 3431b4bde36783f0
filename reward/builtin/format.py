"""Rewards for the form of a completion: strict, and as published."""

import re
from dataclasses import dataclass

from common.labels import has_form
from reward.builtin.parts.completion import TAG
from reward.request import RewardRequest

OPENING, CLOSING = "<think>", "</answer>"
_SEAM = re.compile(r"</think>\s*+<answer>")


@dataclass(frozen=True, kw_only=True, slots=True)
class FormatReward:
    """1.0 if the completion is one thought and one answer, and nothing else; otherwise 0.0.

    Formula: white space, `<think>`, text, `</think>`, white space, `<answer>`, text, `</answer>`, white space. Both
    texts must contain more than white space, and no tag.
    Range: 0 or 1.
    Source: R1-Omni (`grpo.py`, `format_reward`), which also accepts nested, repeated and empty tags.
    Caution: the question must ask for the tags, or the reward stays 0.
    """

    def __call__(self, request: RewardRequest) -> float:
        text = request.completion.strip()
        if not (text.startswith(OPENING) and text.endswith(CLOSING)):
            return 0.0
        seam = _SEAM.search(text)
        if seam is None:
            return 0.0
        thought, answer = text[len(OPENING) : seam.start()], text[seam.end() : -len(CLOSING)]
        is_whole = bool(thought.strip() and answer.strip()) and not (TAG.search(thought) or TAG.search(answer))
        return 1.0 if is_whole else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedFormatReward:
    """1.0 if `<think>.*?</think>\\s*<answer>.*?</answer>` matches the whole completion, else 0.0.

    Formula: `re.fullmatch` with DOTALL, exactly, but in linear time (`common.labels.has_form`, as in the
    evaluation): the text begins with `<think>`, ends with `</answer>`, and contains `</think>` and `<answer>` with
    only white space between them.
    Range: 0 or 1.
    Source: R1-Omni, `grpo.py`, `format_reward`.
    Caution: nested, repeated and empty tags pass; `format` refuses them.
    """

    def __call__(self, request: RewardRequest) -> float:
        return 1.0 if has_form(request.completion) else 0.0
