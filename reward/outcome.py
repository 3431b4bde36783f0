"""The outcome of a reward call: a checked result, or a failure as data with the user's traceback."""

import math
import traceback
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

from reward.request import RewardResult

FaultKind = Literal["error", "not-finite", "type", "length", "deadline", "died", "refused"]
MAX_DETAIL = 4000
"""Most characters of a traceback, whose end is kept, and of a result's detail, whose start is kept."""
MAX_FACTS, MAX_FACT_NAME = 256, 128
"""Most facts of a result, and most characters of a fact's name."""
OWN_FOLDER = str(Path(__file__).parent)


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardFault:
    """A call that returned no value."""

    kind: FaultKind
    detail: str
    """The user's traceback, if there is one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", text_of(self.detail)[-MAX_DETAIL:])


Outcome = RewardResult | RewardFault


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecomputedOutcomes:
    """Outcomes of one reward for a group, computed before the service sums them."""

    outcomes: tuple[Outcome, ...]
    """[completions]"""
    seconds: float


Precomputed = Mapping[str, PrecomputedOutcomes]
"""Outcomes by reward."""
NOTHING_PRECOMPUTED: Precomputed = MappingProxyType({})


def checked(value: object) -> Outcome:
    """Checks the return value of a reward for one completion.

    `value` is a number, None if the reward does not apply, a `RewardResult`, or a mapping with `score` or `value`,
    whose other numbers become facts.
    """
    try:
        if isinstance(value, RewardResult):
            return _checked(value.value, value.detail, value.facts, value)
        if isinstance(value, Mapping):
            return _of_mapping(cast(Mapping[object, object], value))
        return _checked(value, "", None, value)
    except Exception as error:  # noqa: BLE001 - reading the user's value may raise anything
        return fault_of(error)


def _checked(value: object, detail: object, facts: object, answer: object) -> Outcome:
    facts = {} if facts is None else facts
    if not isinstance(facts, Mapping):
        return RewardFault(kind="type", detail=f"a reward's facts must be a mapping, got {shown(facts)}; name them")
    named = {text_of(name): _number(fact) for name, fact in cast(Mapping[object, object], facts).items()}
    numbers = {name: n for name, n in named.items() if n is not None and math.isfinite(n)}
    if len(numbers) > MAX_FACTS or any(len(name) > MAX_FACT_NAME for name in numbers):
        return RewardFault(
            kind="type",
            detail=f"a reward must give <= {MAX_FACTS} facts with names of <= {MAX_FACT_NAME} characters, got more",
        )
    text = text_of(detail)
    if len(text) > MAX_DETAIL:
        text = f"{text[:MAX_DETAIL]}... and {len(text) - MAX_DETAIL} characters more"
    if value is None:
        return RewardResult(value=None, detail=text)
    number = _number(value)
    if number is None:
        return RewardFault(
            kind="type",
            detail=f"a reward must be a number, a RewardResult or None, got {shown(answer)}; return a float",
        )
    if not math.isfinite(number):
        return RewardFault(kind="not-finite", detail=f"a reward must be finite, got {number}")
    return RewardResult(value=number, detail=text, facts=numbers or None)


def checked_all(values: object, *, count: int) -> list[Outcome]:
    """Checks the return value of a reward for `count` completions."""
    try:
        # a set has no order, and an array without dimensions has no length
        is_list = hasattr(values, "__len__") and getattr(values, "shape", None) != ()
        if isinstance(values, str | bytes | Mapping | Set) or not is_list:
            detail = f"a reward of a group must be a list, got {shown(cast(object, values))}; return one value each"
            return [RewardFault(kind="type", detail=detail)] * count
        answers = list(cast(Iterable[object], values))
    except Exception as error:  # noqa: BLE001 - as of one value
        return [fault_of(error)] * count
    if len(answers) != count:
        detail = f"a reward must return one value per completion, got {len(answers)} for {count}"
        return [RewardFault(kind="length", detail=detail)] * count
    return [checked(value) for value in answers]


def fault_of(error: BaseException) -> RewardFault:
    """The failure of an exception in user code, without the frames that called it."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and _is_own(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, frames))
    except Exception:  # noqa: BLE001 - an exception of the user's that cannot even be shown
        text = type(error).__name__
    return RewardFault(kind="error", detail=text.strip())


def shown(value: object) -> str:
    """A value for a message: its type and, if possible, its repr."""
    return f"{type(value).__name__} {text_of(value, as_text=repr)[:80]}"


def text_of(value: object, *, as_text: Callable[[object], str] = str) -> str:
    """The text of a value, which can be encoded: half a surrogate pair is escaped."""
    try:
        text = as_text(value)
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


def _is_own(file: str) -> bool:
    return file.startswith(OWN_FOLDER) and "examples" not in file
