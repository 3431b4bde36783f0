"""The sending end of a publish: what is sent, in which buckets, gathered from the ranks.

The unit is the engine's whole layer. Buckets hold whole layers, so a border never cuts one.
"""

import fnmatch
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
    for name, parameter in module.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return sorted(frozen)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishPlan:
    """Which tensors are published, in buckets of whole engine layers."""

    buckets: tuple[tuple[str, ...], ...]
    """Checkpoint names; the layers of one bucket are complete in it."""
    layers: tuple[str, ...]
    """The engine layers, in order."""
    segment_bytes: int
    """Bytes of the largest bucket, header included."""
    changes_towers: bool
    """Whether a publish makes the encoder cache's entries stale."""
    closed_over: tuple[str, ...]
    """Tensors that do not train but share a layer with one that does."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for bucket in self.buckets for name in bucket)


def plan_publish(
    parameters: Iterable[tuple[str, Any]],
    *,
    engine_layer: Callable[[str], str],
    tower_prefixes: tuple[str, ...],
    bucket_bytes: int,
    num_bytes: Callable[[Any], int],
) -> PublishPlan:
    """Closes the trainable set under the engine's fusion and packs it into buckets.

    Args:
        parameters: names as in the checkpoint, with `requires_grad`.
        engine_layer: the engine's layer of a name.
        tower_prefixes: names whose change makes encoder-cache entries stale.
        bucket_bytes: wanted size; a layer that is larger gets a bucket of its own.
        num_bytes: full size of a parameter, partitioned or not.
    """
    layers: dict[str, list[tuple[str, Any]]] = {}
    for name, parameter in parameters:
        layers.setdefault(engine_layer(name), []).append((name, parameter))
    published = {k: ps for k, ps in layers.items() if any(p.requires_grad for _, p in ps)}
    buckets: list[list[str]] = []
    sizes: list[int] = []
    for members in published.values():
        # 64 bytes of alignment and about 200 of header per tensor
        size = sum(num_bytes(p) + 264 for _, p in members)
        if not buckets or sizes[-1] + size > bucket_bytes:
            buckets.append([])
            sizes.append(0)
        buckets[-1] += [name for name, _ in members]
        sizes[-1] += size
    return PublishPlan(
        buckets=tuple(tuple(b) for b in buckets),
        layers=tuple(published),
        segment_bytes=max(sizes, default=0) + 4096,
        changes_towers=any(n.startswith(tower_prefixes) for ps in published.values() for n, _ in ps),
        closed_over=tuple(n for ps in published.values() for n, p in ps if not p.requires_grad),
    )


@contextmanager
def gathered(parameters: Sequence[nn.Parameter], *, modify: bool = False) -> Iterator[None]:
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


def perturbation(name: str, parameter: Tensor, *, scale: float, nonce: int) -> Tensor:
    """Gaussian noise of `scale` times the tensor's root mean square, the same wherever it is computed."""
    seed = int.from_bytes(blake3.blake3(f"{name}:{nonce}".encode()).digest(length=7), "little")
    generator = torch.Generator().manual_seed(seed)
    rms = float(parameter.detach().double().square().mean().sqrt())
    size = scale * max(rms, MIN_PERTURBATION_RMS) if math.isfinite(rms) else scale
    noise = torch.randn(parameter.shape, generator=generator) * size
    return noise.to(parameter.device, parameter.dtype)


def storage_of(parameter: nn.Parameter) -> Tensor:
    """The memory that holds this rank's share: the partition under ZeRO-3, else the whole."""
    return parameter.ds_tensor.data if hasattr(parameter, "ds_tensor") else parameter.data


def overwrite(parameter: nn.Parameter, share: Tensor) -> None:
    """Puts a copy of `storage_of` back, on every rank."""
    storage_of(parameter).copy_(share)
    if hasattr(parameter, "ds_tensor") and parameter.data.numel() == parameter.ds_numel:
        # DeepSpeed keeps small parameters gathered after use: that copy is old now
        parameter.partition(has_been_updated=False)


def full_bytes(parameter: nn.Parameter) -> int:
    """Bytes of the whole tensor, partitioned or not."""
    return getattr(parameter, "ds_numel", parameter.numel()) * parameter.element_size()
