"""Gradient checkpointing: a layer keeps its inputs and computes the rest again in the backward pass.

That of transformers drops the cache in train mode, and with it the prompt that completions attend to. Here one
checkpoint of a decoder layer contains prompts and completions. So each parameter gets its gradient once per
backward pass, as ZeRO's stages 2 and 3 require.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.utils.checkpoint
from torch import Tensor
from transformers import masking_utils
from transformers.cache_utils import DynamicCache


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """One pass of the decoder: the prompts, or the completions after them."""

    embeds: Tensor
    """[rows, length, hidden]"""
    attention_mask: Tensor
    """int64 [rows, earlier tokens + length]"""
    position_ids: Tensor
    """int64 [3, rows, length]"""


def recompute_towers(thinker: Any) -> None:
    """Makes every block of both towers recompute in the backward pass."""
    for block in (*thinker.visual.blocks, *thinker.audio_tower.layers):
        block.forward = _recomputed(block, block.forward)


def decode(model: Any, prompts: Stretch, rest: Stretch, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Final hidden states of D prompts and N completions, as from two calls of the decoder.

    `owner` is int64 [N], the prompt of each completion.
    """
    assert not model.has_sliding_layers, "Qwen2.5-Omni attends to everything"
    settings = [_settings(model, prompts, past=0), _settings(model, rest, past=prompts.embeds.shape[1])]
    hidden = (prompts.embeds, rest.embeds)
    for layer in model.layers:
        hidden = _checkpoint(_both(layer, settings, owner), *hidden)
    return model.norm(hidden[0]), model.norm(hidden[1])


def _both(layer: Any, settings: list[dict[str, Any]], owner: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    index = int(layer.self_attn.layer_idx)

    def inner(prompts: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        cache: Any = DynamicCache()
        prompts = layer(prompts, past_key_values=cache, **settings[0])
        known, rows = cache.layers[index], DynamicCache()
        rows.update(known.keys[owner], known.values[owner], index)
        return prompts, layer(rest, past_key_values=rows, **settings[1])

    return inner


def _settings(model: Any, stretch: Stretch, *, past: int) -> dict[str, Any]:
    cache = DynamicCache()
    if past:
        # only the length of the cache matters
        filler = stretch.embeds.new_empty(1, 1, past, 1)
        cache.update(filler, filler, 0)
    mask = cast(Any, masking_utils).create_causal_mask(
        config=model.config,
        inputs_embeds=stretch.embeds,
        attention_mask=stretch.attention_mask,
        past_key_values=cache,
        position_ids=None,
    )
    rotary = model.rotary_emb(stretch.embeds, stretch.position_ids)
    return {"attention_mask": mask, "position_embeddings": rotary, "position_ids": None, "use_cache": True}


def _recomputed(block: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(hidden: Tensor, **kwargs: Any) -> Any:
        def inner(hidden: Tensor) -> Any:
            return forward(hidden, **kwargs)

        is_wanted = block.training and torch.is_grad_enabled() and (hidden.requires_grad or _trains(block))
        return _checkpoint(inner, hidden) if is_wanted else inner(hidden)

    return wrapped


def _trains(block: Any) -> bool:
    return any(p.requires_grad for p in block.parameters())


def _checkpoint(inner: Callable[..., Any], *hidden: Tensor) -> Any:
    # reentrant: under ZeRO-3 the other kind finds released parameters. It sees gradients only through its inputs,
    # so one input must require them, which is not so after a frozen embedding
    if not any(t.requires_grad for t in hidden):
        hidden = (hidden[0].detach().requires_grad_(), *hidden[1:])
    return cast(Any, torch.utils.checkpoint).checkpoint(inner, *hidden, use_reentrant=True)
