"""Frozen parameters, and the noise that a rehearsal mixes into parameters."""

import fnmatch
import math
from collections.abc import Collection, Sequence

import blake3
import torch
from torch import Tensor, nn

from common.errors import ConfigError

MIN_PERTURBATION_RMS = 1e-2
"""The least root mean square, by which a rehearsal moves tensors of zeros too."""


def names_matching(patterns: Sequence[str], names: Collection[str], *, rule: str) -> set[str]:
    """The names that shell patterns match; raises `ConfigError` for a pattern without a match."""
    matched: set[str] = set()
    for pattern in patterns:
        matches = fnmatch.filter(names, pattern)
        if not matches:
            example = next(iter(names))
            raise ConfigError(f"{rule}, got {pattern!r} that matches none; names look like {example!r}")
        matched |= set(matches)
    return matched


def freeze_parameters(module: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Freezes the parameters that the shell patterns match, and returns their names."""
    names = [name for name, _ in module.named_parameters()]
    frozen = names_matching(patterns, names, rule="learner.freeze must match parameters")
    if len(frozen) == len(names):
        raise ConfigError("learner.freeze must leave something to train, got every parameter; freeze less")
    for name, parameter in module.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return sorted(frozen)


def perturbed(name: str, parameter: Tensor, *, scale: float, nonce: int) -> Tensor:
    """(w + n) / sqrt(1 + scale^2), n Gaussian of `scale` times w's root mean square; the same on every rank."""
    # of unchanged size: larger logits would have larger rounding errors, which could hide a stale tensor
    seed = int.from_bytes(blake3.blake3(f"{name}:{nonce}".encode()).digest(length=7), "little")
    generator = torch.Generator().manual_seed(seed)
    rms = float(parameter.detach().double().square().mean().sqrt())
    size = scale * max(rms, MIN_PERTURBATION_RMS) if math.isfinite(rms) else scale
    noise = torch.randn(parameter.shape, generator=generator) * size
    mixed = (parameter.detach().float().cpu() + noise) / math.sqrt(1 + scale**2)
    return mixed.to(parameter.device, parameter.dtype)
