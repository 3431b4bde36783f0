"""The questions that R1-Omni's published code asks, one for all clips, by the stage that asks them."""

from collections.abc import Mapping
from typing import Literal

Stage = Literal["grpo", "cold_start", "inference", "evaluation"]

_EXPERT = (
    "As an emotional recognition expert; throughout the video, which emotion conveyed by the characters is "
    "the most obvious to you?"
)
_TAGS = "Output the thinking process in <think> </think> and final emotion in <answer> </answer> tags."
QUESTIONS: Mapping[Stage, str] = {
    "grpo": f"{_EXPERT}\n{_TAGS}",
    "cold_start": f"{_EXPERT} {_TAGS}",
    "inference": f"{_EXPERT}  {_TAGS}",
    "evaluation": (
        "As an emotional recognition expert, in the video, when the characters display their emotions, which "
        "predominant feeling is most clearly expressed?\n"
    ),
}
"""`grpo` and its template: `grpo.py`; `cold_start`: the records of the README; `inference`: the README's default
instruction, with two spaces; `evaluation`: the scripts for DFEW and MAFW, which ask for no thinking and no tags
and leave the list of classes empty (`eval_mafw_dfew.py`).
"""
QUESTION = QUESTIONS["grpo"]
"""Asked unless a configuration says otherwise."""
