"""Parameters of the policy, partitioned or whole: freezing, gathering, perturbing, restoring."""

import fnmatch
import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import blake3
import torch
from torch import Tensor, nn

from common.errors import ConfigError

MIN_PERTURBATION_RMS = 1e-2
"""What a tensor of zeros is taken to measure, so that a rehearsal moves it too."""


def freeze_parameters(module: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Stops training what the shell patterns match; returns the names.

    Raises:
        ConfigError: a pattern matches nothing.
    """
    names = [name for name, _ in module.named_parameters()]
    frozen: set[str] = set()
    for pattern in patterns:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            raise ConfigError(
                f"learner.freeze must match parameters, got {pattern!r} that matches none; "
                f"names look like {names[0]!r}"
            )
        frozen |= set(matched)
    if len(frozen) == len(names):
        raise ConfigError("learner.freeze must leave something to train, got every parameter; freeze less")
    for name, parameter in module.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return sorted(frozen)


@contextmanager
def gathered(parameters: Sequence[nn.Parameter], *, modify: bool = False) -> Generator[None]:
    """Makes partitioned parameters whole on every rank; with `modify`, rank 0's changes are kept."""
    if not any(hasattr(p, "ds_id") for p in parameters):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0 if modify else None):
        yield


def gather_bucket(parameters: dict[str, nn.Parameter], names: Sequence[str]) -> dict[str, Tensor]:
    """Full copies on the CPU of one bucket: a collective of all ranks, over when it returns."""
    chosen = [parameters[name] for name in names]
    with gathered(chosen):
        return {
            name: parameter.detach().to("cpu", copy=True).contiguous()
            for name, parameter in zip(names, chosen, strict=True)
        }


def perturbed(name: str, parameter: Tensor, *, scale: float, nonce: int) -> Tensor:
    """The tensor with Gaussian noise mixed in, as large as before: the same wherever it is computed.

    (w + n) / sqrt(1 + scale^2), n of `scale` times w's root mean square. Were the tensors to grow, so would logits
    and with them the noise of rounding, in which a stale tensor could hide.
    """
    seed = int.from_bytes(blake3.blake3(f"{name}:{nonce}".encode()).digest(length=7), "little")
    generator = torch.Generator().manual_seed(seed)
    rms = float(parameter.detach().double().square().mean().sqrt())
    size = scale * max(rms, MIN_PERTURBATION_RMS) if math.isfinite(rms) else scale
    noise = torch.randn(parameter.shape, generator=generator) * size
    mixed = (parameter.detach().float().cpu() + noise) / math.sqrt(1 + scale**2)
    return mixed.to(parameter.device, parameter.dtype)


def storage_of(parameter: nn.Parameter) -> Tensor:
    """The memory that holds this rank's share: the partition under ZeRO-3, else the whole."""
    share: Tensor = getattr(parameter, "ds_tensor", parameter)
    return share.data


def overwrite(parameter: nn.Parameter, share: Tensor) -> None:
    """Puts a copy of `storage_of` back, on every rank."""
    storage_of(parameter).copy_(share)
    partitioned = cast(Any, parameter)
    if hasattr(parameter, "ds_tensor") and parameter.data.numel() == partitioned.ds_numel:
        # DeepSpeed keeps small parameters gathered after use: that copy is old now
        partitioned.partition(has_been_updated=False)


def full_bytes(parameter: nn.Parameter) -> int:
    """Bytes of the whole tensor, partitioned or not."""
    return getattr(parameter, "ds_numel", parameter.numel()) * parameter.element_size()
