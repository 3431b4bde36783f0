"""The paper's accuracy reward, as published, without its symbolic-mathematics detour."""

import re

# not that of common.labels: as published, an answer that breaks its line is none
ANSWER = re.compile(r"<answer>(.*?)</answer>")


def accuracy_reward(completion: str, label: str) -> float:
    """1.0 when the answer equals the label to the letter, else 0.0.

    The answer is what stands in the first `<answer>` of one line, stripped; without one, the whole
    completion, stripped. The label is read in the same way. Case counts, and no synonym does
    (R1-Omni, `grpo.py`, `accuracy_reward`).
    """
    return 1.0 if _answer(completion) == _answer(label) else 0.0


def _answer(text: str) -> str:
    match = ANSWER.search(text)
    return match[1].strip() if match else text.strip()
