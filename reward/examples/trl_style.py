"""A reward as TRL's trainers call it, and R1-Omni's: a batch of conversations, columns by name.

- {type: python, name: words, entrypoint: "reward.examples.trl_style:answer_reward"}
"""

import re
from typing import Any

ANSWER = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)


def answer_reward(
    completions: list[list[dict[str, str]]], solution: list[str], **columns: Any
) -> list[float | None]:
    """1.0 if the answer equals the solution's, ignoring case; None without a solution."""
    rewards: list[float | None] = []
    for messages, right in zip(completions, solution, strict=True):
        expected, answer = ANSWER.search(right), ANSWER.search(messages[0]["content"])
        if expected is None or not expected[1]:
            rewards.append(None)
        else:
            rewards.append(float(answer is not None and answer[1].lower() == expected[1].lower()))
    return rewards
