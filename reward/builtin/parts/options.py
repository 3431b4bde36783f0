"""Built-in rewards as pydantic dataclasses, whose annotations check the options."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from common.errors import ConfigError

T = TypeVar("T")
OPTIONS = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field, dataclasses.field))
def builtin_reward(name: str) -> Callable[[type[T]], type[T]]:
    """Makes a class a built-in reward: its fields are options, and a wrong one raises `ConfigError`."""

    def decorate(kind: type[T]) -> type[T]:
        reward: Any = dataclass(kind, frozen=True, kw_only=True, slots=True, config=OPTIONS)
        construct = reward.__init__

        @functools.wraps(construct)
        def construct_checked(self: T, /, **options: Any) -> None:
            try:
                construct(self, **options)
            except ValidationError as error:
                problem = _explained(error.errors(include_url=False)[0])
                raise ConfigError(f"{name}.{problem}; see `python -m reward.check --list`") from error

        reward.__init__ = construct_checked
        return reward

    return decorate


def _explained(error: ErrorDetails) -> str:
    # pydantic marks a wrong key of a mapping by a last part "[key]"
    option = ".".join(str(part) for part in error["loc"] if part != "[key]")
    match error["type"]:
        case "missing" | "missing_keyword_only_argument":
            return f"{option} must be given, got nothing"
        case "unexpected_keyword_argument":
            return f"{option} must be an option of the reward, got {error['input']!r}"
        case _:
            # "Input should be greater than or equal to 1"
            return f"{option} must {error['msg'].partition(' should ')[2]}, got {error['input']!r}"
