"""From a YAML file and dotted overrides to the frozen tree, and back; errors in one line."""

import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ValidationError

from common.config.run import OmniConfig
from common.errors import ConfigError


def load_config(path: str | None, overrides: Sequence[str]) -> OmniConfig:
    """Reads a configuration.

    Args:
        path: a YAML file; none for the defaults.
        overrides: `--a.b value` or `--a.b=value`, flattened; values are YAML.

    Raises:
        ConfigError: in one line, naming key, rule and value.
    """
    tree = _read_yaml(path) if path else {}
    for key, value in _pairs(overrides):
        _set(tree, key, value)
    try:
        return OmniConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from error


def dump_config(config: OmniConfig) -> str:
    """The resolved tree as YAML that `load_config` reads again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def describe_options() -> Iterator[tuple[str, str, str]]:
    """Every key with its default and its sentence."""
    yield from _describe(OmniConfig, "")


def _describe(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _describe(field.annotation, f"{key}.")
        else:
            default = field.default
            shown = default.model_dump(mode="json") if isinstance(default, BaseModel) else default
            if isinstance(shown, tuple):
                shown = [
                    v.model_dump(mode="json") if isinstance(v, BaseModel) else v
                    for v in cast(tuple[Any, ...], shown)
                ]
            yield key, f"{shown}", f"{field.description or ''}{_choices(field.annotation)}"


def _choices(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return f" One of: {', '.join(map(str, typing.get_args(annotation)))}."
    if typing.get_origin(annotation) is types.UnionType and all(
        isinstance(a, type) and issubclass(a, BaseModel) for a in typing.get_args(annotation)
    ):
        kinds = [typing.get_args(a.model_fields["type"].annotation)[0] for a in typing.get_args(annotation)]
        return f" Types: {', '.join(kinds)}."
    return ""


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"--config must be a readable file, got {path!r}; {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config must be YAML, got {path!r}; {' '.join(str(error).split())}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"--config must hold keys, got {type(tree).__name__} in {path!r}; see --help")
    # a section left empty keeps its defaults
    return {key: {} if value is None else value for key, value in cast(dict[str, Any], tree).items()}


def _pairs(overrides: Sequence[str]) -> Iterator[tuple[str, Any]]:
    rest = list(overrides)
    while rest:
        key = rest.pop(0)
        if not key.startswith("--") or "." not in key:
            raise ConfigError(f"an override must look like --learner.optimizer.lr 1e-6, got {key!r}; see --help")
        key, equals, text = key.removeprefix("--").partition("=")
        if not equals:
            if not rest:
                raise ConfigError(f"--{key} must be followed by a value, got nothing; see --help")
            text = rest.pop(0)
        yield key, text if _takes_text(key) and text != "null" else _value(text)


def _takes_text(key: str) -> bool:
    """Whether a key's value is a text, to be taken as it is typed."""
    model: Any = OmniConfig
    *parents, leaf = key.split(".")
    for parent in parents:
        field = model.model_fields.get(parent)
        model = field.annotation if field else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return False
    field = model.model_fields.get(leaf)
    return field is not None and field.annotation in (str, str | None)


def _value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        # YAML 1.1 reads 1e-6 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        node = tree.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--{key} must name a key of a section, got {parent!r} that is a value; see --help")
        tree = cast(dict[str, Any], node)
    tree[leaf] = value


def _one_line(error: ValidationError) -> str:
    first, *others = error.errors(include_url=False)
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"{key} must be a known key, got {first['input']!r}; --help lists them all"
    elif first["type"] not in {"value_error"}:
        message = f"{key} must be valid: {message[0].lower()}{message[1:]}, got {first['input']!r}"
    more = f" (and {len(others)} more)" if others else ""
    return f"{message}{more}"
