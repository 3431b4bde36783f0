"""The model families, behind one dict: what each brings to both planes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from common.errors import ModelError
from common.types import DecodedClip, ProcessedPrompt

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What is particular to one architecture."""

    name: str
    architectures: tuple[str, ...]
    """What `architectures[0]` of a `config.json` may say; the first is that of the released checkpoints."""
    process_prompt: Callable[..., ProcessedPrompt]
    encode_completion: Callable[..., tuple[int, ...]]
    encode_text: Callable[..., tuple[int, ...]]
    """Token ids of a text and nothing else."""
    decode_completion: Callable[..., str]
    """Text of token ids, special tokens left out."""
    load_policy: "Callable[..., nn.Module]"
    generate: Callable[..., tuple[int, ...]]
    """Greedy token ids of a policy, without an engine: for a clip or two."""
    engine_layer: Callable[[str], str]
    """The engine's layer that a checkpoint tensor ends up in."""
    tower_prefixes: tuple[str, ...]
    """Prefixes of the parameters that feed the encoder cache."""


def _process_qwen2_5_omni(clip: DecodedClip, question: str, **pinned: Any) -> ProcessedPrompt:
    from common.models.qwen2_5_omni.processor import process_prompt

    return process_prompt(clip, question, **pinned)


def _encode_qwen2_5_omni(text: str, *, model_path: str) -> tuple[int, ...]:
    from common.models.qwen2_5_omni.processor import encode_completion

    return encode_completion(text, model_path=model_path)


def _encode_text_qwen2_5_omni(text: str, *, model_path: str) -> tuple[int, ...]:
    from common.models.qwen2_5_omni.processor import encode_text

    return encode_text(text, model_path=model_path)


def _load_qwen2_5_omni(model_path: str, *, dtype: "torch.dtype") -> "nn.Module":
    from common.models.qwen2_5_omni.policy import load_policy

    return load_policy(model_path, dtype=dtype)


def _decode_qwen2_5_omni(token_ids: Sequence[int], *, model_path: str) -> str:
    from common.models.qwen2_5_omni.processor import decode_completion

    return decode_completion(token_ids, model_path=model_path)


def _generate_qwen2_5_omni(policy: Any, prompt: ProcessedPrompt, **pinned: Any) -> tuple[int, ...]:
    from common.models.qwen2_5_omni.generation import generate

    return generate(policy, prompt, **pinned)


def _families() -> dict[str, Family]:
    from common.models.qwen2_5_omni.fusion import TOWER_PREFIXES, engine_layer

    qwen2_5_omni = Family(
        name="qwen2_5_omni",
        architectures=("Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"),
        process_prompt=_process_qwen2_5_omni,
        encode_completion=_encode_qwen2_5_omni,
        encode_text=_encode_text_qwen2_5_omni,
        decode_completion=_decode_qwen2_5_omni,
        load_policy=_load_qwen2_5_omni,
        generate=_generate_qwen2_5_omni,
        engine_layer=engine_layer,
        tower_prefixes=TOWER_PREFIXES,
    )
    return dict.fromkeys(qwen2_5_omni.architectures, qwen2_5_omni)


def family_of(model_path: str | Path) -> Family:
    """The family of a checkpoint folder, checked in milliseconds without torch.

    Raises:
        ModelError: the folder is missing, has no weights, or is of no known architecture.
    """
    import json

    folder = Path(model_path)
    config = folder / "config.json"
    if not folder.is_dir():
        raise ModelError(f"model.path must be a folder, got {str(folder)!r}; fetch the checkpoint there first")
    if not config.is_file():
        raise ModelError(f"model.path must hold a config.json, got {str(folder)!r}; give a checkpoint's folder")
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
