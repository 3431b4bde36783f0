"""The accuracy reward of the paper as published, without `math_verify`."""

from reward.builtin.parts.options import builtin_reward
from reward.request import RewardRequest

OPENING, CLOSING = "<answer>", "</answer>"


@builtin_reward("accuracy_r1omni")
class PublishedAccuracyReward:
    """1.0 if the answer equals the label to the letter, else 0.0.

    Formula: 1[answer = label], each the first `<answer>(.*?)</answer>` in one line, or all text. Range: 0 or 1.
    Source: R1-Omni, `grpo.py`, `accuracy_reward`, without `math_verify`, which is for numbers.
    Caution: "anger" is wrong for the label "angry"; `accuracy` reads both as one class.
    """

    def __call__(self, request: RewardRequest) -> float:
        return 1.0 if _answer(request.completion) == _answer(request.record.label) else 0.0


def _answer(text: str) -> str:
    # linear time: an opening tag whose line does not close it is never scanned twice
    start = text.find(OPENING)
    while start >= 0:
        start += len(OPENING)
        end_of_line = text.find("\n", start)
        if end_of_line < 0:
            end_of_line = len(text)
        end = text.find(CLOSING, start, end_of_line)
        if end >= 0:
            return text[start:end].strip()
        start = text.find(OPENING, end_of_line)
    return text.strip()
