"""The model families, and the functions that each provides for both planes."""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from common.errors import ModelError
from common.types import ProcessedPrompt

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """The functions that depend on one architecture."""

    name: str
    architectures: tuple[str, ...]
    """Allowed values of `architectures[0]` in `config.json`; the first is that of the released checkpoints."""
    process_prompt: Callable[..., ProcessedPrompt]
    encode_completion: Callable[..., tuple[int, ...]]
    encode_text: Callable[..., tuple[int, ...]]
    """Token ids of a text alone."""
    decode_completion: Callable[..., str]
    """Text of token ids, without special tokens."""
    load_policy: "Callable[..., nn.Module]"
    generate: Callable[..., tuple[int, ...]]
    """Greedy token ids of a policy, without an engine."""
    engine_layer: Callable[[str], str]
    """The engine's layer that contains a checkpoint tensor."""
    tower_prefixes: tuple[str, ...]
    """Prefixes of the parameters that feed the encoder cache."""


def _call(function: str, *args: Any, **kwargs: Any) -> Any:
    # imported at the first call: most families need torch
    module, _, name = function.rpartition(".")
    return getattr(importlib.import_module(f"common.models.{module}"), name)(*args, **kwargs)


def _families() -> dict[str, Family]:
    from common.models.qwen2_5_omni.fusion import TOWER_PREFIXES, engine_layer

    qwen2_5_omni = Family(
        name="qwen2_5_omni",
        architectures=("Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"),
        process_prompt=partial(_call, "qwen2_5_omni.processor.process_prompt"),
        encode_completion=partial(_call, "qwen2_5_omni.processor.encode_completion"),
        encode_text=partial(_call, "qwen2_5_omni.processor.encode_text"),
        decode_completion=partial(_call, "qwen2_5_omni.processor.decode_completion"),
        load_policy=partial(_call, "qwen2_5_omni.policy.load_policy"),
        generate=partial(_call, "qwen2_5_omni.generation.generate"),
        engine_layer=engine_layer,
        tower_prefixes=TOWER_PREFIXES,
    )
    return dict.fromkeys(qwen2_5_omni.architectures, qwen2_5_omni)


def family_of(model_path: str | Path) -> Family:
    """The family of a checkpoint folder, found without torch.

    Raises:
        ModelError: the folder is missing, has no weights, or has an unknown architecture.
    """
    folder = Path(model_path)
    config = folder / "config.json"
    if not folder.is_dir():
        raise ModelError(f"model.path must be a folder, got {str(folder)!r}; fetch the checkpoint there first")
    if not config.is_file():
        raise ModelError(f"model.path must hold a config.json, got {str(folder)!r}; set a checkpoint's folder")
    try:
        architectures = json.loads(config.read_text()).get("architectures") or ["none"]
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{config} must be a JSON object, got {error}; fetch the checkpoint again") from error
    known = _families()
    first: Any = cast("list[Any]", architectures)[0] if isinstance(architectures, list) else architectures
    if first not in known:
        raise ModelError(
            f"model.path must be one of {sorted(known)}, got {first!r} in {str(folder)!r}; "
            "choose a supported checkpoint"
        )
    if not any(f.stat().st_size > 0 for f in folder.glob("*.safetensors")):
        raise ModelError(
            f"model.path must hold *.safetensors weights, got none in {str(folder)!r}; fetch the checkpoint again"
        )
    return known[first]
