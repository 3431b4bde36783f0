"""Rewards weighted and summed. A sum over fewer rewards is never made."""

import importlib
import inspect
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import cast

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
        ConfigError: the module cannot be imported, or what it names cannot be called like this.
    """
    module, _, name = entrypoint.partition(":")
    function = getattr(_import(module, entrypoint), name, None)
    if not callable(function):
        what = "nothing of this name" if function is None else f"of type {type(function).__name__}"
        raise ConfigError(
            f"reward.rewards entrypoint must name a function, got {entrypoint!r}, {what}; mend the name, or define "
            f"`def {name}(completion, label)` in the module"
        )
    reason = _why_not_callable(function)
    if reason is not None:
        raise ConfigError(
            f"reward.rewards entrypoint must take completion= and label=, got {entrypoint!r}: {reason}; "
            f"define it as `def {name}(completion, label)`"
        )

    reward = cast(Callable[..., float], function)

    def called(completion: str, label: str) -> float:
        return reward(completion=completion, label=label)

    return called


def _import(module: str, entrypoint: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            remedy = "the module must lie in the directory that the run was started from, or be installed"
        else:
            remedy = "mend the module"
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"reward.rewards entrypoint must be importable, got {entrypoint!r}: {said}{_place_of(error)}; {remedy}"
        ) from error


def _place_of(error: BaseException) -> str:
    """Where in the user's module an import failed; empty where it never came to the module."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    # what imports a module stands before its own top level
    files = [frame.filename for frame in frames if frame.name == "<module>"]
    own = [frame for frame in frames if frame.filename in files[:1]]
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""


def _why_not_callable(function: Callable[..., object]) -> str | None:
    """What stands against calling a reward with two texts by name; None where nothing does."""
    if inspect.iscoroutinefunction(function):
        return "it is async"
    try:
        inspect.signature(function).bind(completion="", label="")
    except TypeError as error:
        return str(error)
    except ValueError:
        return None  # a built-in that does not tell its signature
    return None
