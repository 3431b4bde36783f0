"""A penalty for repeated words."""

from typing import ClassVar

from pydantic import Field

from reward.builtin.parts.completion import TAG, words_of
from reward.builtin.parts.options import builtin_reward
from reward.request import RewardRequest


@builtin_reward("repetition")
class RepetitionPenalty:
    """-1.0 times the share of repeated n-grams.

    Formula: -(1 - distinct n-grams / n-grams), over words or Chinese characters; 0 below n words. Range: -1 to 0.
    Source: open-r1's repetition penalty, after Yeo et al. 2025 ("Demystifying Long Chain-of-Thought Reasoning").
    Caution: a small n penalises ordinary speech: "the man" returns in any description.
    """

    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)

    n: int = Field(default=4, ge=1)
    """Words of an n-gram."""

    def __call__(self, request: RewardRequest) -> float:
        words = words_of(TAG.sub(" ", request.completion))
        num = len(words) - self.n + 1
        if num < 1:
            return 0.0
        distinct = len(set(zip(*(words[i : i + num] for i in range(self.n)), strict=True)))
        return distinct / num - 1.0
