"""Built-in rewards as pydantic dataclasses, whose annotations check the options."""

import dataclasses
import functools
from collections.abc import Callable
from types import UnionType
from typing import Any, Literal, TypeVar, dataclass_transform, get_args, get_origin

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from common.errors import ConfigError

T = TypeVar("T")
OPTIONS = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
NOUNS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
SIGNS = {"ge": ">=", "gt": ">", "le": "<="}


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field, dataclasses.field))
def builtin_reward(name: str) -> Callable[[type[T]], type[T]]:
    """Makes a class a built-in reward: its fields are options, and a wrong one raises `ConfigError`."""

    def decorate(kind: type[T]) -> type[T]:
        reward: Any = dataclass(kind, frozen=True, kw_only=True, slots=True, config=OPTIONS)
        construct = reward.__init__

        @functools.wraps(construct)
        def construct_checked(self: T, **options: Any) -> None:
            try:
                construct(self, **options)
            except ValidationError as error:
                problem = _explained(error.errors(include_url=False)[0], reward.__pydantic_fields__)
                raise ConfigError(f"{name}.{problem}; see `python -m reward.check --list`") from error

        reward.__init__ = construct_checked
        return reward

    return decorate


def _explained(error: ErrorDetails, fields: dict[str, FieldInfo]) -> str:
    option, value = ".".join(map(str, error["loc"])), error["input"]
    match error["type"]:
        case "missing" | "missing_keyword_only_argument":
            return f"{option} must be given, got nothing"
        case "unexpected_keyword_argument":
            return f"{option} must be an option of the reward, got {value!r}"
        case _:
            field = fields[str(error["loc"][0])]
            return f"{option} must be {_rule(field, is_item=len(error['loc']) > 1)}, got {value!r}"


def _rule(field: FieldInfo, *, is_item: bool) -> str:
    # an item is a value of a mapping
    kind: Any = get_args(field.annotation)[1] if is_item else field.annotation
    options: tuple[Any, ...] = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, options))}"
    if get_origin(kind) is UnionType:
        kind = options[0]
    rule = NOUNS.get(kind, "a mapping with entries")
    metadata = [] if is_item else field.metadata
    bounds = {name: getattr(item, name) for item in metadata for name in SIGNS if hasattr(item, name)}
    if bounds.keys() == {"ge", "le"}:
        return f"{rule} in [{bounds['ge']:g}, {bounds['le']:g}]"
    return " ".join([rule, *(f"{SIGNS[name]} {bound:g}" for name, bound in bounds.items())])
