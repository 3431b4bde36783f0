"""The outcome of a reward call: a checked result, or a fault as data with the user's traceback."""

import math
import traceback
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Literal, cast

from reward.request import RewardResult

FaultKind = Literal["error", "not-finite", "type", "length", "deadline", "died", "refused"]
MAX_DETAIL = 4000
"""Characters of a traceback that are kept, its end; and of a result's detail, its start."""
MAX_FACTS, MAX_FACT_NAME = 256, 128
"""Figures beside a value, and characters of each one's name."""
OWN_FOLDER = str(Path(__file__).parent)


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardFault:
    """A reward that came to no value."""

    kind: FaultKind
    detail: str
    """The user's traceback where there is one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", text_of(self.detail)[-MAX_DETAIL:])


Outcome = RewardResult | RewardFault


def checked(value: object) -> Outcome:
    """Checks a reward's answer for one completion, of any type.

    Args:
        value: a number, None where the reward does not apply, a `RewardResult`, or a mapping with `score` or
            `value`, whose other numbers are facts.
    """
    try:
        if isinstance(value, RewardResult):
            return _checked(value.value, value.detail, value.facts, value)
        if isinstance(value, Mapping):
            return _of_mapping(cast(Mapping[object, object], value))
        return _checked(value, "", None, value)
    except Exception as error:  # noqa: BLE001 - a value of the user's may do anything when it is looked at
        return fault_of(error)


def _checked(value: object, detail: object, facts: object, given: object) -> Outcome:
    if facts is not None and not isinstance(facts, Mapping):
        return RewardFault(kind="type", detail=f"a reward's facts must be a mapping, got {shown(facts)}; name them")
    numbers = {} if facts is None else _facts(cast(Mapping[object, object], facts))
    if len(numbers) > MAX_FACTS or any(len(name) > MAX_FACT_NAME for name in numbers):
        return RewardFault(
            kind="type",
            detail=f"a reward must give <= {MAX_FACTS} facts with names of <= {MAX_FACT_NAME} characters, got more",
        )
    told = text_of(detail)
    if len(told) > MAX_DETAIL:
        told = f"{told[:MAX_DETAIL]}... and {len(told) - MAX_DETAIL} characters more"
    if value is None:
        return RewardResult(value=None, detail=told)
    number = _number(value)
    if number is None:
        return RewardFault(
            kind="type",
            detail=f"a reward must be a number, a RewardResult or None, got {shown(given)}; return a float",
        )
    if not math.isfinite(number):
        return RewardFault(kind="not-finite", detail=f"a reward must be finite, got {number}")
    return RewardResult(value=number, detail=told, facts=numbers or None)


def checked_all(values: object, *, count: int) -> list[Outcome]:
    """Checks a reward's answer for a number of completions, of any type."""
    try:
        # a set has no order, and an array without dimensions a length by name alone
        is_list = hasattr(values, "__len__") and getattr(values, "shape", None) != ()
        if isinstance(values, str | bytes | Mapping | Set) or not is_list:
            told = shown(cast(object, values))
            return [
                RewardFault(kind="type", detail=f"a reward of a group must be a list, got {told}; one value each")
            ] * count
        given = list(cast(Iterable[object], values))
    except Exception as error:  # noqa: BLE001 - as of one value
        return [fault_of(error)] * count
    if len(given) != count:
        fault = RewardFault(
            kind="length", detail=f"a reward must give one value per completion, got {len(given)} for {count}"
        )
        return [fault] * count
    return [checked(value) for value in given]


def fault_of(error: BaseException) -> RewardFault:
    """The fault of an exception in the user's code, without the frames that called it."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and _is_own(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    try:
        told = "".join(traceback.format_exception(type(error), error, frames))
    except Exception:  # noqa: BLE001 - an exception of the user's that cannot even be shown
        told = type(error).__name__
    return RewardFault(kind="error", detail=told.strip())


def shown(value: object) -> str:
    """A value in a message: its type, and its repr if it has one."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a value of the user's
        text = "?"
    return f"{type(value).__name__} {text[:80]}"


def text_of(value: object) -> str:
    """A text that can be encoded: half a surrogate pair is escaped."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - a value of the user's
        text = f"(a {type(value).__name__} that cannot be shown)"
    return text.encode(errors="backslashreplace").decode()


def _of_mapping(value: Mapping[object, object]) -> Outcome:
    keys = [key for key in ("score", "value") if key in value]
    if len(keys) != 1:
        return RewardFault(kind="type", detail=f"a reward's mapping must have one key score, got {shown(value)}")
    facts = value.get("facts")
    if facts is None or isinstance(facts, Mapping):
        others = {key: v for key, v in value.items() if key not in (*keys, "detail", "facts")}
        facts = others | dict(cast(Mapping[object, object], facts or {}))
    return _checked(value[keys[0]], value.get("detail", ""), facts, value)


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


def _facts(facts: Mapping[object, object]) -> dict[str, float]:
    """Those that are finite numbers."""
    numbers = {text_of(name): _number(value) for name, value in facts.items()}
    return {name: n for name, n in numbers.items() if n is not None and math.isfinite(n)}


def _is_own(file: str) -> bool:
    return file.startswith(OWN_FOLDER) and "examples" not in file
