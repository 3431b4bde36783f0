"""What a publish sends, and in which buckets.

The unit is the engine's whole layer. Buckets hold whole layers, so a border never cuts one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishPlan:
    """Which tensors are published, in buckets of whole engine layers."""

    buckets: tuple[tuple[str, ...], ...]
    """Checkpoint names; the layers of one bucket are complete in it."""
    layers: tuple[tuple[str, ...], ...]
    """The tensors of each engine layer, in order."""
    segment_bytes: int
    """Bytes of the largest bucket, header included."""
    tower_names: tuple[str, ...]
    """Those of the tensors that feed the encoder cache."""
    closed_over: tuple[str, ...]
    """Tensors that do not train but share a layer with one that does."""

    @property
    def changes_towers(self) -> bool:
        """Whether a publish makes the encoder cache's entries stale."""
        return bool(self.tower_names)

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
        layers=tuple(tuple(name for name, _ in members) for members in published.values()),
        segment_bytes=max(sizes, default=0) + 4096,
        tower_names=tuple(n for ps in published.values() for n, _ in ps if n.startswith(tower_prefixes)),
        closed_over=tuple(n for ps in published.values() for n, p in ps if not p.requires_grad),
    )
