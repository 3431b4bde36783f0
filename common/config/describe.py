"""Every key of the configuration with its default and its sentence, for `--help`."""

import functools
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from common.config.load import load_config
from common.config.run import OmniConfig
from common.config.tree import Model, choices, is_section, item_of, members, tag_of
from common.config.values import format_value

WIDTH = 110


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    key: str
    """Dotted."""
    default: str
    """The default as typed on the command line; empty for a required key."""
    text: str
    member: str | None = None
    """The `type` that it belongs to, where it is not of every run."""
    is_item: bool = False
    """True for a member of the list before it, which is not a key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    name: str
    text: str
    options: tuple[Option, ...]


def describe_options() -> Iterator[Section]:
    """The tree, section by section; raises `ConfigError` if the environment allows no default, such as a relative
    $OMNI_RLVR_RUNS.
    """
    defaults = load_config(None, [])
    for name, field in OmniConfig.model_fields.items():
        (model,) = members(field.annotation)
        options = tuple(_section(model, getattr(defaults, name), f"{name}."))
        yield Section(name=name, text=_first_line(model), options=options)


def _section(model: Model, values: BaseModel, prefix: str) -> Iterator[Option]:
    for name, field in model.model_fields.items():
        key, value = f"{prefix}{name}", getattr(values, name)
        if is_section(field.annotation):
            yield from _section(members(field.annotation)[0], value, f"{key}.")
        elif members(field.annotation):
            yield from _variant(field, value, key)
        else:
            yield Option(key=key, default=format_value(value), text=_sentence(field))
            for member in members(item_of(field.annotation)):
                yield _item(member, key)


def _variant(field: FieldInfo, value: BaseModel | None, key: str) -> Iterator[Option]:
    tags = {tag_of(member): member for member in members(field.annotation)}
    chosen = tag_of(type(value)) if value is not None else None
    if value is None:
        yield Option(key=key, default="null", text=_sentence(field))
    yield Option(
        key=f"{key}.type",
        default=chosen or (next(iter(tags)) or "" if len(tags) == 1 else ""),
        text=f"{'Chooses its form.' if value is None else _sentence(field)} One of: {' | '.join(map(str, tags))}.",
    )
    for tag, member in tags.items():
        for name, part in sorted(member.model_fields.items(), key=functools.partial(_ancestry, member)):
            if name != "type":
                default = getattr(value, name) if value is not None and tag == chosen else part.default
                shown = "" if part.is_required() else format_value(default)
                yield Option(key=f"{key}.{name}", default=shown, text=_sentence(part), member=tag)


def _ancestry(member: Model, field: tuple[str, FieldInfo]) -> int:
    # a model's own fields come before inherited ones
    return next(i for i, model in enumerate(member.__mro__) if field[0] in vars(model).get("__annotations__", {}))


def _item(member: Model, key: str) -> Option:
    parts = {name: field for name, field in member.model_fields.items() if name != "type"}
    typed = [f"type: {tag_of(member)}"]
    typed += [f"{name}: {_placeholder(name, field)}" for name, field in parts.items()]
    descriptions = (f"{name}: {_sentence(field)}" for name, field in parts.items())
    return Option(
        key=key,
        default=f"{{{', '.join(typed)}}}",
        text="\n".join((_first_line(member), *descriptions)),
        member=tag_of(member),
        is_item=True,
    )


def _placeholder(name: str, field: FieldInfo) -> str:
    return name.upper() if field.is_required() else format_value(field.default)


def _sentence(field: FieldInfo) -> str:
    """The sentence of a field, with its values if they are few."""
    several = choices(item_of(field.annotation))
    allowed = choices(field.annotation) or several
    options = f" {'Any of' if several else 'One of'}: {' | '.join(allowed)}." if allowed else ""
    return f"{field.description or ''}{options}"


def _first_line(model: Model) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def format_options(sections: Iterable[Section]) -> str:
    """The options as text: a heading per section, a key with its default per line, its sentence below."""
    lines: list[str] = []
    for section in sections:
        lines += ["", f"{section.name}: {section.text}"]
        for option in section.options:
            lines += [*_headed(option), *_wrapped(option.text, indent=10 if option.is_item else 6)]
    return "\n".join(lines)


def _headed(option: Option) -> Iterator[str]:
    indent = 6 if option.is_item else 2
    head = option.default if option.is_item else _head(option)
    yield from textwrap.wrap(
        head,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 4),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _head(option: Option) -> str:
    notes = [f"type {option.member}"] if option.member else []
    notes += [] if option.default else ["must be given"]
    note = f" ({', '.join(notes)})" if notes else ""
    return f"--{option.key} {option.default}".rstrip() + note


def _wrapped(text: str, *, indent: int) -> Iterator[str]:
    for line in text.splitlines():
        yield from textwrap.wrap(line, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent)
