"""The paper's format reward, as published."""

import re

FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)


def format_reward(completion: str, label: str) -> float:
    """1.0 when the whole completion is one `<think>` block and one `<answer>` block, else 0.0.

    Lenient where the published expression is: repeated, nested and empty tags pass (R1-Omni, `grpo.py`,
    `format_reward`).
    """
    return 1.0 if FORMAT.fullmatch(completion) else 0.0
