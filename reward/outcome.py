"""What became of asking a reward: a checked result, or a fault as data with the user's traceback."""

import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal, cast

from reward.request import RewardResult

FaultKind = Literal["error", "not-finite", "type", "length", "deadline", "died"]
MAX_DETAIL = 4000
"""Characters of a traceback that are kept, its end."""
OWN_FOLDER = str(Path(__file__).parent)


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardFault:
    """A reward that came to no value."""

    kind: FaultKind
    detail: str
    """The user's traceback where there is one."""


Outcome = RewardResult | RewardFault


def checked(value: object) -> Outcome:
    """What a reward answered for one completion.

    Args:
        value: a number, None where the reward does not apply, a `RewardResult`, or a mapping with `score` or
            `value`, whose other numbers are facts.
    """
    if isinstance(value, RewardResult):
        result = value
    elif isinstance(value, Mapping):
        result = _of_mapping(cast(Mapping[str, Any], value))
        if isinstance(result, RewardFault):
            return result
    else:
        result = RewardResult(value=cast(Any, value))
    return _checked(result, cast(object, value))


def _checked(result: RewardResult, given: object) -> Outcome:
    if result.value is None:
        return RewardResult(value=None, detail=str(result.detail))
    number = _number(result.value)
    if number is None:
        return RewardFault(
            kind="type",
            detail=f"a reward must be a number, a RewardResult or None, got {shown(given)}; return a float",
        )
    if not math.isfinite(number):
        return RewardFault(kind="not-finite", detail=f"a reward must be finite, got {number}")
    return RewardResult(value=number, detail=str(result.detail), facts=_facts(result.facts))


def checked_all(values: object, *, count: int) -> list[Outcome]:
    """What a reward answered for so many completions."""
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
        told = shown(cast(object, values))
        fault = RewardFault(kind="type", detail=f"a reward of a group must be a list, got {told}; one value each")
        return [fault] * count
    given = list(cast(Sequence[object], values))
    if len(given) != count:
        fault = RewardFault(
            kind="length", detail=f"a reward must give one value per completion, got {len(given)} for {count}"
        )
        return [fault] * count
    return [checked(value) for value in given]


def fault_of(error: BaseException) -> RewardFault:
    """What the user's code raised, without the frames that called it."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and _is_own(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    try:
        told = "".join(traceback.format_exception(type(error), error, frames))
    except Exception:  # noqa: BLE001 - an exception of the user's that cannot even be shown
        told = type(error).__name__
    return RewardFault(kind="error", detail=told.strip()[-MAX_DETAIL:])


def shown(value: object) -> str:
    """A value in a message: its type, and what it looks like where that can be told."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a value of the user's
        text = "?"
    return f"{type(value).__name__} {text[:80]}"


def _of_mapping(value: Mapping[str, Any]) -> RewardResult | RewardFault:
    keys = [key for key in ("score", "value") if key in value]
    if len(keys) != 1:
        return RewardFault(kind="type", detail=f"a reward's mapping must have one key score, got {shown(value)}")
    facts = {str(k): v for k, v in value.items() if k not in (*keys, "detail", "facts")}
    return RewardResult(
        value=value[keys[0]],
        detail=str(value.get("detail", "")),
        facts=facts | dict(cast(Mapping[str, float], value.get("facts") or {})),
    )


def _number(value: object) -> float | None:
    """None for what is none; numbers of numpy and torch are."""
    if not isinstance(value, Real):
        item = getattr(value, "item", None)
        if item is None:
            return None
        try:
            value = item()
        except (TypeError, ValueError, RuntimeError):
            return None
    try:
        return float(value) if isinstance(value, Real) else None
    except OverflowError:
        return math.inf


def _facts(facts: object) -> dict[str, float] | None:
    """Those that are finite numbers."""
    if not isinstance(facts, Mapping):
        return None
    numbers = {str(name): _number(value) for name, value in cast(Mapping[Any, object], facts).items()}
    return {name: n for name, n in numbers.items() if n is not None and math.isfinite(n)} or None


def _is_own(file: str) -> bool:
    return file.startswith(OWN_FOLDER) and "examples" not in file
