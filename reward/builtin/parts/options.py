"""Options of the built-in rewards, checked when a reward is made."""

import math
from collections.abc import Sequence

from common.errors import ConfigError


def check_number(
    option: str, value: object, *, low: float = -math.inf, high: float = math.inf, above: float | None = None
) -> None:
    """Refuses what is no finite number within `low` and `high`, or not above `above`.

    Raises:
        ConfigError: it is something else.
    """
    rule = f"> {above:g}" if above is not None else f">= {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
    if not isinstance(value, int | float) or isinstance(value, bool) or not _is_within(value, low, high, above):
        raise ConfigError(f"{option} must be a number {rule}, got {value!r}; mend it under the reward's options")


def _is_within(value: float, low: float, high: float, above: float | None) -> bool:
    return math.isfinite(value) and low <= value <= high and (above is None or value > above)


def check_count(option: str, value: object, *, low: int) -> None:
    """Refuses what is no whole number of at least `low`.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ConfigError(
            f"{option} must be a whole number >= {low}, got {value!r}; mend it under the reward's options"
        )


def check_choice(option: str, value: object, allowed: Sequence[str]) -> None:
    """Refuses what is none of the allowed names.

    Raises:
        ConfigError: it is something else.
    """
    if value not in allowed:
        raise ConfigError(f"{option} must be one of {', '.join(allowed)}, got {value!r}; choose one of them")


def check_flag(option: str, value: object) -> None:
    """Refuses what is neither true nor false.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{option} must be true or false, got {value!r}; write it without quotes")
