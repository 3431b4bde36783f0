"""Rewards weighted and summed. A sum over fewer rewards is never made."""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence

from common.config.reward import PythonRewardConfig, RewardConfig, reward_name
from common.errors import ConfigError
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
    """The configured rewards.

    Raises:
        ConfigError: a reward of the user's cannot be imported.
    """
    rewards: dict[str, tuple[RewardFn, float]] = {}
    for reward in config.rewards:
        function = (
            load_function(reward.entrypoint) if isinstance(reward, PythonRewardConfig) else BUILT_IN[reward.type]
        )
        rewards[reward_name(reward)] = (function, reward.weight)
    return Rubric(rewards)


def load_function(entrypoint: str) -> RewardFn:
    """The function that `module:name` names, to be called with `completion` and `label` by name.

    Raises:
        ConfigError: there is no such module or function.
    """
    module, _, name = entrypoint.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"reward.rewards entrypoint must name a function, got {entrypoint!r}: {error}; the module must lie "
            "in the directory that the run was started from, or be installed"
        ) from error

    def called(completion: str, label: str) -> float:
        return function(completion=completion, label=label)

    return called
