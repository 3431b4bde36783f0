"""Values as they are typed on the command line."""

import json
from collections.abc import Mapping
from typing import Any, cast

import yaml
from pydantic import BaseModel


def parse_value(text: str) -> Any:
    """The value of a text: YAML, and numbers such as 1e-6, which YAML 1.1 reads as text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str) and value == text.strip():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def format_value(value: Any) -> str:
    """A value in one line, which `parse_value` reads back."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Mapping):
        pairs = cast(Mapping[Any, Any], value).items()
        return f"{{{', '.join(f'{format_value(k)}: {format_value(v)}' for k, v in pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(format_value, cast(list[Any], value)))}]"
    if isinstance(value, str):
        is_plain = value and not set(value) & set(",[]{}:#\n\"'") and parse_value(value) == value
        return value if is_plain else json.dumps(value, ensure_ascii=False)
    return f"{value}"
