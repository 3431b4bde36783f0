"""The base class of all parts of the configuration."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """Base class: frozen, without unknown keys, with one sentence of documentation per field."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )


def changeable(default: Any, **rules: Any) -> Any:
    """A field that a resumed run may change, as it does not change the results."""
    return Field(default=default, json_schema_extra={"changeable": True}, **rules)
