"""The tensors of a publish, in buckets of whole engine layers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # the driver reads plans without torch
    from learner.zero.weight_source import WeightSource


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishPlan:
    """The published tensors, by their names in the checkpoint."""

    buckets: tuple[tuple[str, ...], ...]
    """Each holds whole layers."""
    layers: tuple[tuple[str, ...], ...]
    """The tensors of each engine layer, in order."""
    segment_bytes: int
    """Bytes of the largest bucket, with its header."""
    tower_names: tuple[str, ...]
    """Tensors that feed the encoder cache."""
    closed_over: tuple[str, ...]
    """Frozen tensors that share a layer with a trained one."""

    @property
    def changes_towers(self) -> bool:
        """True if a publish makes the encoder cache's entries stale."""
        return bool(self.tower_names)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for bucket in self.buckets for name in bucket)


def plan_publish(
    source: "WeightSource",
    *,
    engine_layer: Callable[[str], str],
    tower_prefixes: tuple[str, ...],
    bucket_bytes: int,
) -> PublishPlan:
    """Packs every engine layer with a trained tensor into buckets; a layer larger than a bucket gets its own.

    `engine_layer` returns the engine's layer of a name; names of `tower_prefixes` feed the encoder cache.
    """
    layers: dict[str, list[str]] = {}
    for name in source.parameters:
        layers.setdefault(engine_layer(name), []).append(name)
    published = [names for names in layers.values() if any(map(source.moves, names))]
    buckets: list[list[str]] = []
    sizes: list[int] = []
    for names in published:
        # 64 bytes of alignment and about 200 of header per tensor
        size = sum(source.num_bytes(name) + 264 for name in names)
        if not buckets or sizes[-1] + size > bucket_bytes:
            buckets.append([])
            sizes.append(0)
        buckets[-1] += names
        sizes[-1] += size
    return PublishPlan(
        buckets=tuple(map(tuple, buckets)),
        layers=tuple(map(tuple, published)),
        segment_bytes=max(sizes, default=0) + 4096,
        tower_names=tuple(n for names in published for n in names if n.startswith(tower_prefixes)),
        closed_over=tuple(n for names in published for n in names if not source.moves(n)),
    )
