"""Taxonomies, the form of an answer, and what counts as one."""

import re
from collections.abc import Mapping

DFEW = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
R1_OMNI = (*DFEW, "contemptuous", "disappointed", "helpless", "anxious")
"""DFEW's seven and MAFW's four more, in the adjective forms of R1-Omni's evaluation script."""
TAXONOMIES: Mapping[str, tuple[str, ...] | None] = {"dfew": DFEW, "r1_omni": R1_OMNI, "open": None}
"""By the name a configuration gives; `open` takes any label."""
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
"""The paper's form of a whole answer."""


def has_form(completion: str) -> bool:
    """Whether the whole completion is one `<think>` block and one `<answer>` block.

    Lenient where the published expression is: repeated, nested and empty tags pass (R1-Omni, `grpo.py`,
    `format_reward`).
    """
    return FORMAT.fullmatch(completion) is not None


def answered(text: str) -> str:
    """The first `<answer>`, or the whole text without one; stripped."""
    match = ANSWER.search(text)
    return (match[1] if match else text).strip()


def answer_of(completion: str) -> str:
    """What an evaluation compares: what was answered, in lower case.

    More lenient than the paper's reward in case and line breaks, which say nothing about emotions.
    """
    return answered(completion).lower()
