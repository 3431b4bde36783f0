"""Rewards weighted and summed. A sum over fewer rewards is never made."""

import math
from collections.abc import Callable, Mapping, Sequence

from common.config.reward import RewardConfig
from common.types import Completion, Failure, Record, Score
from reward.accuracy import accuracy_reward
from reward.format import format_reward

RewardFn = Callable[[str, str], float]
"""(completion's text, label) -> reward."""
BUILT_IN: Mapping[str, RewardFn] = {"accuracy": accuracy_reward, "format": format_reward}


class Rubric:
    """Named rewards with weights."""

    def __init__(self, rewards: Mapping[str, tuple[RewardFn, float]]) -> None:
        self._rewards = dict(rewards)

    def score(self, record: Record, completions: Sequence[Completion]) -> list[Score] | Failure:
        """Scores every completion, or fails as a whole: one reward that fails on one completion fails all.

        Returns:
            One score per completion, its breakdown unweighted; or a failure naming the reward.
        """
        scores: list[Score] = []
        for completion in completions:
            breakdown: dict[str, float] = {}
            for name, (reward, _) in self._rewards.items():
                try:
                    value = float(reward(completion.text, record.label))
                except Exception as error:  # noqa: BLE001 - a user's code: its failure is data
                    return Failure(
                        stage="reward", reason=f"{name}-error", detail=f"{type(error).__name__}: {error}"
                    )
                if value != value or value in (float("inf"), float("-inf")):
                    return Failure(
                        stage="reward", reason=f"{name}-not-finite", detail=f"reward {name} returned {value}"
                    )
                breakdown[name] = value
            total = sum(weight * breakdown[name] for name, (_, weight) in self._rewards.items())
            if not math.isfinite(total):
                return Failure(stage="reward", reason="sum-not-finite", detail=f"the weighted sum is {total}")
            scores.append(Score(total=total, breakdown=breakdown))
        return scores


def build_rubric(config: RewardConfig) -> Rubric:
    """The configured rewards."""
    return Rubric({r.type: (BUILT_IN[r.type], r.weight) for r in config.rewards})
