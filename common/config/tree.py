"""The structure of the configuration, read from its models.

A *section* is a field of one model. A *variant* is a field of several models, distinguished by `type`. Any other
field is a value.
"""

import types
import typing
from typing import Any

from pydantic import BaseModel

Model = type[BaseModel]


def is_section(annotation: Any) -> bool:
    """True if a field has exactly one model as its type."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def members(annotation: Any) -> tuple[Model, ...]:
    """The models of a section or a variant; none for a value."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return tuple(model for part in typing.get_args(annotation) for model in members(part))
    return (annotation,) if is_section(annotation) else ()


def item_of(annotation: Any) -> Any:
    """Type of the items of a list; None for another annotation."""
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is tuple else None


def choices(annotation: Any) -> tuple[str, ...]:
    """The values of a closed set; none where any value is allowed."""
    return tuple(map(str, typing.get_args(annotation))) if typing.get_origin(annotation) is typing.Literal else ()


def tag_of(model: Model) -> str | None:
    """The `type` of a variant's member; None for the model of a section."""
    field = model.model_fields.get("type")
    return next(iter(choices(field.annotation)), None) if field else None


def changeable_keys(model: Model, prefix: str = "") -> set[str]:
    """Dotted keys, of values and of sections, that a resumed run may change."""
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("changeable"):
            keys.add(f"{prefix}{name}")
        else:
            for member in members(field.annotation):
                keys |= changeable_keys(member, f"{prefix}{name}.")
    return keys
