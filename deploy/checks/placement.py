"""The placement plan: what every actor takes, against what the cluster has."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.config.reward import ActorRewardConfig
from common.config.run import OmniConfig
from common.errors import ClusterError

KINDS = {"CPU": "num_cpus", "GPU": "num_gpus"}
"""Ray's names, and ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanLine:
    """One kind of actor."""

    actor: str
    count: int
    num_cpus: float
    """Ray CPUs of each."""
    num_gpus: float
    """Ray GPUs of each."""
    num_threads: int
    """OpenMP threads of each, apart from Ray's accounting."""


def placement_plan(config: OmniConfig) -> list[PlanLine]:
    rollout, learner = config.rollout, config.learner
    return [
        PlanLine(
            actor="rollout engine",
            count=rollout.num_engines,
            num_cpus=rollout.num_cpus,
            num_gpus=rollout.num_gpus,
            num_threads=rollout.num_threads,
        ),
        PlanLine(
            actor="learner rank",
            count=learner.num_ranks,
            num_cpus=learner.num_cpus,
            num_gpus=learner.num_gpus,
            num_threads=learner.num_threads,
        ),
        PlanLine(actor="reward service", count=1, num_cpus=config.reward.num_cpus, num_gpus=0, num_threads=1),
        *(
            PlanLine(
                actor=f"reward {reward.name}",
                count=reward.replicas,
                num_cpus=reward.num_cpus,
                num_gpus=reward.num_gpus,
                num_threads=1,
            )
            for reward in config.reward.rewards
            if isinstance(reward, ActorRewardConfig)
        ),
        # at least one decoding task must find room beside the actors
        PlanLine(actor="media task", count=1, num_cpus=config.data.num_cpus, num_gpus=0, num_threads=1),
    ]


def require_room(plan: list[PlanLine], resources: Mapping[str, float]) -> None:
    """Raises `ClusterError` if a plan needs more than the node has: its actors would wait forever."""
    for kind, key in KINDS.items():
        needed = sum(line.count * getattr(line, key) for line in plan)
        has = resources.get(kind, 0.0)
        if needed > has + 1e-9:
            parts = ", ".join(f"{line.count} x {line.actor} {getattr(line, key)}" for line in plan)
            raise ClusterError(
                f"the plan must fit this node's {has:g} {kind}s, got {needed:g} ({parts}); lower *.{key} or counts"
            )


def place_engines(plan: list[PlanLine], *, own: str, nodes: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The node of each engine: the job's own while it has room beside ranks, rewards and media tasks, then others.

    `plan` lists engines first; `nodes` has `CPU` and `GPU` by node id. Raises `ClusterError` if they do not fit.
    """
    engine, *rest = plan
    if len(nodes) == 1:
        require_room(plan, nodes[own])
        return [own] * engine.count
    require_room(rest, nodes[own])
    left = {node: {kind: has.get(kind, 0.0) for kind in KINDS} for node, has in nodes.items()}
    for kind, key in KINDS.items():
        left[own][kind] -= sum(line.count * getattr(line, key) for line in rest)
    needed = {kind: getattr(engine, key) for kind, key in KINDS.items()}
    chosen: list[str] = []
    for _ in range(engine.count):
        fitting = (n for n in (own, *nodes) if all(needed[k] <= left[n][k] + 1e-9 for k in KINDS))
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
