"""Ranks and engines that start from one checkpoint mix the same noise into it."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from common.models.noise import perturbed
from common.models.registry import family_of
from common.shared_memory import receipt_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_with_noise_is_the_policy_with_noise_to_the_bit(tiny: str, dtype: torch.dtype) -> None:
    files = [safe_open(path, framework="pt") for path in Path(tiny).glob("*.safetensors")]
    stored = {name: file for file in files for name in file.keys()}  # noqa: SIM118 - no mapping
    parameters = dict(family_of(tiny).load_policy(tiny, dtype=dtype).named_parameters())
    assert len(parameters) > 100
    for name, parameter in parameters.items():
        of_ranks = perturbed(name, parameter, scale=3.0, nonce=7)
        of_engine = perturbed(name, stored[name].get_tensor(name).to(dtype), scale=3.0, nonce=7)
        assert receipt_of(name, of_ranks) == receipt_of(name, of_engine)
        assert not torch.equal(of_ranks, parameter)


@pytest.mark.parametrize("other", [{"name": "v"}, {"nonce": 2}])
def test_every_tensor_and_every_nonce_has_its_own_noise(other: dict[str, int]) -> None:
    settings = {"name": "w", "nonce": 1}
    weights = torch.ones(64)
    first, second = (perturbed(parameter=weights, scale=3.0, **s) for s in (settings, settings | other))  # pyright: ignore[reportArgumentType]
    assert not torch.isclose(first, second).any()


def test_the_noise_does_not_depend_on_the_defaults_of_torch() -> None:
    weights = torch.ones(64)
    before = perturbed("w", weights, scale=3.0, nonce=1)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(perturbed("w", weights, scale=3.0, nonce=1), before)
    finally:
        torch.set_default_dtype(torch.float32)
