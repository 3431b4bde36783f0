"""Loads a YAML file and dotted overrides into the frozen tree, and dumps it; errors in one line."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from common.config.run import OmniConfig
from common.config.tree import Model, choices, is_section, item_of, members, tag_of
from common.config.values import parse_value
from common.errors import ConfigError

TEXTS: tuple[Any, ...] = (str, str | None)
"""Annotations of values that are taken as they are typed."""


def load_config(path: str | None, overrides: Sequence[str]) -> OmniConfig:
    """Reads a YAML file, or the defaults for None, and applies overrides `--a.b value` or `--a.b=value`.

    Raises:
        ConfigError: one line with key, rule and value.
    """
    tree = _read_yaml(path) if path else {}
    for key, value in _pairs(overrides):
        _set(tree, key, value)
    return _validated(_completed(OmniConfig, tree))


def checked(config: OmniConfig) -> OmniConfig:
    """Validates a tree again after `model_copy`, which checks nothing; raises `ConfigError`."""
    return _validated(config.model_dump())


def dump_config(config: OmniConfig) -> str:
    """The resolved tree as YAML that `load_config` reads again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


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
    return cast(dict[str, Any], tree)


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
        yield key, text if _takes_text(key) and text != "null" else parse_value(text)


def _takes_text(key: str) -> bool:
    models: tuple[Model, ...] = (OmniConfig,)
    *parents, leaf = key.split(".")
    for parent in parents:
        models = tuple(m for field in _fields(models, parent) for m in members(field.annotation))
    return any(field.annotation in TEXTS for field in _fields(models, leaf))


def _fields(models: Sequence[Model], name: str) -> list[FieldInfo]:
    return [model.model_fields[name] for model in models if name in model.model_fields]


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        if tree.get(parent) is None:
            tree[parent] = {}
        node = tree[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"--{key} must name a key of a section, got {parent!r} that is a value; see --help")
        tree = cast(dict[str, Any], node)
    tree[leaf] = value


def _completed(model: Model, tree: dict[str, Any]) -> dict[str, Any]:
    """Fills in an empty section, the `type` of the default, and brackets around one text."""
    completed = dict(tree)
    for name, value in tree.items():
        field = model.model_fields.get(name)
        if field is None:
            continue
        if is_section(field.annotation):
            section = cast(Model, field.annotation)
            if value is None or isinstance(value, dict):
                completed[name] = _completed(section, cast(dict[str, Any], value or {}))
        elif isinstance(value, dict) and members(field.annotation):
            tag = _default_type(field)
            completed[name] = {**({"type": tag} if tag else {}), **cast(dict[str, Any], value)}
        elif isinstance(value, str) and _lists_texts(field.annotation) and not value.startswith(("[", "{")):
            completed[name] = [value]
    return completed


def _default_type(field: FieldInfo) -> str | None:
    """The type of a variant whose `type` is left out."""
    known = members(field.annotation)
    extra: Any = field.json_schema_extra
    if isinstance(extra, dict) and "default_type" in extra:
        return str(cast(dict[str, Any], extra)["default_type"])
    chosen = [member for member in known if isinstance(field.default, member)] or known
    return tag_of(chosen[0]) if len(chosen) == 1 else None


def _lists_texts(annotation: Any) -> bool:
    item = item_of(annotation)
    return item is str or bool(choices(item))


def _validated(tree: dict[str, Any]) -> OmniConfig:
    try:
        return OmniConfig.model_validate(tree)
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        more = f" (and {len(others)} more)" if others else ""
        raise ConfigError(f"{_explained(first)}{more}") from error


def _located(loc: tuple[int | str, ...]) -> tuple[str, str | None, str | None]:
    """The key of an error, without the types of variants that pydantic's location contains.

    Returns:
        The dotted key; the type of its variant, if any; and another type that has such a key.
    """
    known: tuple[Model, ...] = (OmniConfig,)
    parts: list[str] = []
    owner: str | None = None
    rivals: list[Model] = []
    item: Any = None
    for part in loc:
        chosen = [member for member in known if len(known) > 1 and tag_of(member) == part]
        if chosen:
            owner, rivals, known = str(part), [m for m in known if m not in chosen], (chosen[0],)
            continue
        parts.append(str(part))
        fields = _fields(known, str(part))
        annotation = item if isinstance(part, int) else fields[0].annotation if fields else None
        known, item = members(annotation), item_of(annotation)
    other = next((tag_of(m) for m in rivals if parts and parts[-1] in m.model_fields), None)
    return ".".join(parts), owner, other


def _explained(error: ErrorDetails) -> str:
    key, owner, other = _located(error["loc"])
    got, context = error["input"], error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return error["msg"].removeprefix("Value error, ")
        case "extra_forbidden" if owner:
            remedy = f"type {other} has it" if other else "--help lists them all"
            return f"{key} must be a key of type {owner}, got {got!r}; {remedy}"
        case "extra_forbidden":
            return f"{key} must be a known key, got {got!r}; --help lists them all"
        case "missing":
            return f"{key} must be given, got nothing; see --help"
        case "union_tag_invalid":
            return f"{key}.type must be one of {context['expected_tags']}, got {context['tag']!r}; see --help"
        case "union_tag_not_found":
            return f"{key}.type must be given, got {got!r}; see --help"
        case _:
            return f"{key} must be valid: {error['msg'][0].lower()}{error['msg'][1:]}, got {got!r}; see --help"
