"""Frozen parameters."""

import fnmatch
from collections.abc import Collection, Sequence

from torch import nn

from common.errors import ConfigError


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
