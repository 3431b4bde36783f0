"""The engine input of each family."""

from collections.abc import Callable
from typing import Any

from common.models.registry import family_of

EngineInputFn = Callable[..., Any]
"""(prompt, *, cache_salt, tower_version) -> vLLM's rendered engine input."""


def engine_input_of(model_path: str) -> EngineInputFn:
    """The function of a checkpoint's family; raises `ModelError`."""
    name = family_of(model_path).name
    if name == "qwen2_5_omni":
        from rollout.models.qwen2_5_omni import engine_input

        return engine_input
    raise AssertionError(f"family {name} has no engine input")
