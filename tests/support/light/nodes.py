"""A light run on a Ray of two nodes, of which one is removed with the engine that it has."""

import asyncio
import time
from pathlib import Path
from typing import Any, cast

import ray
from ray.cluster_utils import Cluster

from tests.support.light.run import LightRun

WAIT_S = 60.0
SPOT = {"spot": 1.0}
"""The resource of the node that is removed."""


def lose_a_node(folder: Path) -> dict[str, Any]:
    """Removes a node while its engine generates; returns what became of the run. Needs a process of its own."""
    quick = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 1000}
    head = {"num_cpus": 2, "include_dashboard": False, "_system_config": quick}
    cluster: Any = cast(Any, Cluster)(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        return asyncio.run(_lose(cluster, folder))
    finally:
        ray.shutdown()
        cluster.shutdown()


async def _lose(cluster: Any, folder: Path) -> dict[str, Any]:
    # Ray starts nodes in the main thread only
    lost = cluster.add_node(num_cpus=1, resources=SPOT)
    async with LightRun(
        folder, options=lambda slot: {"resources": {"spot": 0.5}} if slot == "engine-0" else {}
    ) as run:
        await run.step()
        victim, mark = run.current("engine-0"), len(run.marks())
        node = next(e.node for e in reversed(run.transitions) if e.engine == victim)
        draws = [run.draw() for _ in range(8)]
        await run.until_phase(victim, "generate", after=mark)
        began_s = time.monotonic()
        await asyncio.to_thread(cluster.remove_node, lost, allow_graceful=False)
        await asyncio.gather(*draws)
        await run.until(lambda: run.reason(victim), f"{victim} must be condemned")
        condemned_s = time.monotonic() - began_s
        await run.step()
        cluster.add_node(num_cpus=1, resources=SPOT)
        await run.until_all_ready()
        answers = [answer for _ in range(3) for answer in await run.step()]
        await run.until(lambda: set(run.processes()) == set(run.ready()), "only READY engines have processes")
        return {
            "victim": victim,
            "node": node,
            "reason": run.reason(victim),
            "condemned_s": condemned_s,
            "ready_s": time.monotonic() - began_s,
            "ready": run.ready(),
            "engines": {cast(Any, answer).engine for answer in answers},
        }
