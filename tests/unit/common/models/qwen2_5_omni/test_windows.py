"""Attention of the towers, all windows of a length at once, against transformers' call for each window."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from common.models.qwen2_5_omni import windows
from common.models.qwen2_5_omni.policy import load_policy
from common.models.tokens import pack_tokens
from tests.gpu.subjects import TINY


def computed(model_path: str, dtype: torch.dtype, *, attention: str, **sizes: Any) -> dict[str, Tensor]:
    """Log-probabilities of two groups, and every gradient."""
    policy = load_policy(model_path, dtype=dtype).train()
    for tower in (policy.thinker.visual, policy.thinker.audio_tower):
        tower.config._attn_implementation = attention
    groups = replace(TINY, prompt_tokens=300, **sizes).groups()
    tokens = pack_tokens([g.prompt for g in groups], [g.token_ids for g in groups], pad_token_id=0)
    logprobs, _ = policy(tokens)
    logprobs.sum().backward()
    return {"logprobs": logprobs.detach()} | {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "sizes",
    [
        {"grid": (2, 4, 6), "mel_frames": 80},
        pytest.param({"grid": (2, 8, 12), "mel_frames": 330}, id="windows of several lengths"),
        pytest.param({"grid": (1, 4, 4), "mel_frames": 400}, id="windows of one length"),
    ],
)
def test_values_and_gradients_are_identical_to_those_of_single_calls(
    tiny: str, dtype: torch.dtype, sizes: dict[str, Any]
) -> None:
    at_once = computed(tiny, dtype, attention=windows.NAME, **sizes)
    single = computed(tiny, dtype, attention="sdpa", **sizes)
    assert len(single) > 100
    assert at_once.keys() == single.keys()
    assert all(torch.equal(at_once[name], value) for name, value in single.items())


def test_a_layer_makes_a_call_for_each_length_of_its_windows(tiny: str, monkeypatch: Any) -> None:
    calls: list[int] = []
    attend = windows.scaled_dot_product_attention

    def counted(query: Tensor, *rest: Tensor, **options: Any) -> Tensor:
        calls.append(len(query))
        return attend(query, *rest, **options)

    monkeypatch.setattr(windows, "scaled_dot_product_attention", counted)
    policy = load_policy(tiny, dtype=torch.float32).eval()
    group = replace(TINY, grid=(2, 8, 8), mel_frames=400, prompt_tokens=300).group(0)
    policy(pack_tokens([group.prompt], [group.token_ids], pad_token_id=0))
    # two layers of pictures, one in windows of 4 x 4 patches and one in frames; two of sound, in windows of 2 s
    assert calls == [8, 2, 2, 2]
