"""Checks of configured rewards before any is started."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, cast

from common.config.reward import BuiltinRewardConfig, HttpRewardConfig, RewardConfig, UserCodeConfig
from common.errors import ConfigError
from reward.builtin import BUILTIN
from reward.hosts.http_host import target_of
from reward.hosts.import_check import check_in_process
from reward.plugins.plugin import PluginSpec
from reward.request import RewardRequest


def needs_engines(entry: BuiltinRewardConfig) -> bool:
    return bool(getattr(BUILTIN.get(entry.builtin_name), "needs_engines", False))


def make_builtin(entry: BuiltinRewardConfig, *, has_engines: bool = False) -> Callable[[RewardRequest], object]:
    """Constructs a built-in reward with its options; `has_engines` if it can be bound to rollout engines.

    Raises:
        ConfigError: no built-in reward has this name, the options are wrong, or it needs engines.
    """
    name = entry.builtin_name
    reward = BUILTIN.get(name)
    if reward is None:
        close = get_close_matches(name, BUILTIN, n=1)
        remedy = f"did you mean {close[0]}?" if close else "name one of them in `builtin`"
        raise ConfigError(
            f"reward.rewards {entry.name} must be a built-in reward, one of {', '.join(sorted(BUILTIN))}, got "
            f"{name!r}; {remedy}"
        )
    if needs_engines(entry) and not has_engines:
        raise ConfigError(
            f"reward.rewards {entry.name} must have rollout engines, got none: {name} is scored within a run only; "
            "leave it out here"
        )
    try:
        return cast(Callable[[RewardRequest], object], cast(Any, reward)(**entry.options))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"reward.rewards {entry.name}.options must be those of {name}, got {' '.join(str(error).split())}; see "
            "`python -m reward.check --list`"
        ) from error


def check_rewards(config: RewardConfig, *, has_engines: bool = False) -> None:
    """Checks names, options, imports, parameters and tokens of rewards before any of them starts.

    Raises:
        ConfigError: a reward cannot be used.
    """
    for entry in config.rewards:
        if isinstance(entry, BuiltinRewardConfig):
            make_builtin(entry, has_engines=has_engines)
        elif isinstance(entry, HttpRewardConfig):
            target_of(entry)
    _check_gates(config)
    check_in_process([PluginSpec.of(entry) for entry in config.rewards if isinstance(entry, UserCodeConfig)])


def _check_gates(config: RewardConfig) -> None:
    # a penalty is 0 at its best, so a gate on it would be closed there
    penalties = {
        entry.name
        for entry in config.rewards
        if isinstance(entry, BuiltinRewardConfig)
        and getattr(BUILTIN[entry.builtin_name], "range", (0.0, 1.0))[1] <= 0
    }
    for entry in config.rewards:
        for gate in sorted(entry.gates & penalties):
            raise ConfigError(
                f"reward.rewards {entry.name}.requires and .caps must name rewards that are 0 at their worst, got "
                f"{gate!r}, a penalty, which is 0 at its best; name another"
            )
