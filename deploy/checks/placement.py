"""The placement plan: the resources of all actors, compared with those of the cluster."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from common.config.reward import ActorRewardConfig
from common.config.run import OmniConfig
from common.errors import ClusterError

KINDS = {"CPU": "num_cpus", "GPU": "num_gpus"}
"""Resources by Ray's names, with the keys of the configuration."""
AMOUNTS = {"num_cpus", "num_gpus", "num_threads"}
"""Keys of the resources of one actor."""
MARGIN = 1e-9
"""Rounding error of sums of fractions of a CPU or GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanLine:
    """One kind of actor."""

    actor: str
    count: int
    num_cpus: float
    """Ray CPUs of each."""
    num_gpus: float = 0
    """Ray GPUs of each."""
    num_threads: int = 1
    """OpenMP threads of each, apart from Ray's accounting."""


def placement_plan(config: OmniConfig) -> list[PlanLine]:
    rewards = [reward for reward in config.reward.rewards if isinstance(reward, ActorRewardConfig)]
    return [
        _line("rollout engine", config.rollout.num_engines, config.rollout),
        _line("learner rank", config.learner.num_ranks, config.learner),
        _line("reward service", 1, config.reward),
        *(_line(f"reward {reward.name}", reward.replicas, reward) for reward in rewards),
        # at least one decoding task must find room beside the actors
        _line("media task", 1, config.data),
    ]


def _line(actor: str, count: int, settings: BaseModel) -> PlanLine:
    return PlanLine(actor=actor, count=count, **settings.model_dump(include=AMOUNTS))


def shortages(plan: Sequence[PlanLine], resources: Mapping[str, float], *, place: str) -> Iterator[str]:
    """A line for each of Ray's resources of which a plan needs more than the place has."""
    for kind, key in KINDS.items():
        needed, has = sum(line.count * getattr(line, key) for line in plan), resources.get(kind, 0.0)
        if needed > has + MARGIN:
            parts = ", ".join(f"{line.count} x {line.actor} {getattr(line, key)}" for line in plan)
            yield (
                f"the plan must fit {place}'s {has:g} {kind}s, got {needed:g} ({parts}); lower *.{key} or counts"
            )


def require_room(plan: Sequence[PlanLine], resources: Mapping[str, float]) -> None:
    """Raises `ClusterError` if a plan needs more than the node has: its actors would wait forever."""
    for shortage in shortages(plan, resources, place="this node"):
        raise ClusterError(shortage)


def place_engines(plan: list[PlanLine], *, driver: str, nodes: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The node of each engine: the driver's while it has room beside ranks, rewards and media tasks, then others.

    `plan` lists engines first; `nodes` has `CPU` and `GPU` by node id. Raises `ClusterError` if they do not fit.
    """
    engine, *rest = plan
    if len(nodes) == 1:
        require_room(plan, nodes[driver])
        return [driver] * engine.count
    require_room(rest, nodes[driver])
    left = {node: {kind: has.get(kind, 0.0) for kind in KINDS} for node, has in nodes.items()}
    for kind, key in KINDS.items():
        left[driver][kind] -= sum(line.count * getattr(line, key) for line in rest)
    needed = {kind: getattr(engine, key) for kind, key in KINDS.items()}
    chosen: list[str] = []
    for _ in range(engine.count):
        fitting = (n for n in (driver, *nodes) if all(needed[k] <= left[n][k] + MARGIN for k in KINDS))
        node = next(fitting, None)
        if node is None:
            raise ClusterError(
                f"{engine.count} engines of {engine.num_cpus:g} CPUs and {engine.num_gpus:g} GPUs must fit the "
                f"{len(nodes)} nodes beside the ranks, got room for {len(chosen)}; lower rollout.num_engines, or "
                "add nodes"
            )
        chosen.append(node)
        for kind in KINDS:
            left[node][kind] -= needed[kind]
    return chosen


def format_plan(plan: list[PlanLine]) -> str:
    rows = [("actor", "count", "CPUs", "GPUs", "threads")]
    rows += [(p.actor, str(p.count), f"{p.num_cpus:g}", f"{p.num_gpus:g}", str(p.num_threads)) for p in plan]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
