"""The paper's accuracy reward, as published, without its symbolic-mathematics detour."""

from dataclasses import dataclass

from reward.request import RewardRequest

OPENING, CLOSING = "<answer>", "</answer>"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedAccuracyReward:
    """1.0 when the answer equals the label to the letter, else 0.0.

    Formula: the answer is the first match of `<answer>(.*?)</answer>` within one line, stripped; without one, the
    whole completion, stripped. The label is read in the same way. Case counts, and no synonym does.
    Range: 0 or 1.
    Source: R1-Omni, `grpo.py`, `accuracy_reward`. It asks `math_verify` first, which was made for numbers and is
    left out.
    Caution: "anger" is wrong where the label is "angry"; `accuracy` reads both as one class.
    """

    def __call__(self, request: RewardRequest) -> float:
        return 1.0 if _answer(request.completion) == _answer(request.record.label) else 0.0


def _answer(text: str) -> str:
    # in linear time: an opening tag whose line does not close it is never scanned twice
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
