"""Taxonomies, and what counts as an answer."""

import re
from collections.abc import Mapping

DFEW = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
R1_OMNI = (*DFEW, "contemptuous", "disappointed", "helpless", "anxious")
"""DFEW's seven and MAFW's four more, in the adjective forms of R1-Omni's evaluation script."""
TAXONOMIES: Mapping[str, tuple[str, ...] | None] = {"dfew": DFEW, "r1_omni": R1_OMNI, "open": None}
"""By the name a configuration gives; `open` takes any label."""
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def answer_of(completion: str) -> str:
    """What an evaluation compares: the first `<answer>`, or the whole text without one; stripped, lower case.

    More lenient than the paper's reward in case and line breaks, which say nothing about emotions.
    """
    match = _ANSWER.search(completion)
    return (match[1] if match else completion).strip().lower()
