"""The paper's accuracy reward, as published, without its symbolic-mathematics detour."""

from dataclasses import dataclass

from reward.request import RewardRequest

OPENING, CLOSING = "<answer>", "</answer>"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedAccuracyReward:
    """1.0 if the answer equals the label exactly, else 0.0.

    Formula: the answer is the first match of `<answer>(.*?)</answer>` within one line, stripped; without one, the
    whole completion, stripped. The label is read in the same way. Case matters, and synonyms are wrong.
    Range: 0 or 1.
    Source: R1-Omni, `grpo.py`, `accuracy_reward`, without its first step `math_verify`, which compares numbers.
    Caution: "anger" is wrong for the label "angry"; `accuracy` reads both as one class.
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
