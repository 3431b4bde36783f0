"""Bytes that a publish moves to a second node with two engines."""

import asyncio
import logging
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from common.config.data import DataConfig
from common.config.learner import LearnerConfig, PublishConfig
from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint
from common.models.registry import family_of
from common.node_agent_actor import COPY_GROUPS, NodeAgent, NodeAgents, agent_options
from common.prompts.probe_clips import probe_prompts
from learner.publishing.publisher import Publisher
from rollout.actor import CONCURRENCY_GROUPS, EngineActor, EngineClient
from tests.benchmarks.part import Part
from tests.support.engines import ENGINE, ENGINE_ENV, SAMPLING, start_ranks, stop_ranks
from tests.support.fakes import FakeFleet

NUM_ENGINES, NUM_PUBLISHES = 2, 3
PUBLISH = PublishConfig(bucket_bytes=2**20, rehearsal=False)
"""Several buckets of the tiny model."""
TARGET = 1.05
"""Models per publish: one, and headers and alignment of the tensors."""


class CountingAgent(NodeAgent):
    """Writes the size of every bucket that it gets from another node into a file."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self._log = log

    @ray.method(concurrency_group="copies")
    def get_bucket(self, reference: list[Any], *args: Any) -> Any:
        copy = super().get_bucket(reference, *args)
        with self._log.open("a") as file:
            # the object lies in this node's store by now
            file.write(f"{len(ray.get(reference[0]))}\n")
        return copy


@contextmanager
def two_nodes() -> Generator[None]:
    """A head for driver and ranks, and a node for engines, each with a folder of shared memory."""
    folders = [Path("/dev/shm") / f"omni-rlvr-nodes-{secrets.token_hex(4)}-{i}" for i in range(2)]
    for folder in folders:
        folder.mkdir()
    environments = [{"OMNI_RLVR_SEGMENTS": str(folder)} for folder in folders]
    head = {"num_cpus": 2, "include_dashboard": False, "env_vars": environments[0]}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=0, resources={"engines": NUM_ENGINES}, env_vars=environments[1])
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def start_engines(model: str, agents: NodeAgents) -> list[EngineClient]:
    """On the second node."""
    actor: Any = ray.remote(concurrency_groups=CONCURRENCY_GROUPS)(EngineActor)
    options = {"num_cpus": 0, "resources": {"engines": 1}, "runtime_env": {"env_vars": ENGINE_ENV}}
    here = ray.get_runtime_context().get_node_id()
    return [
        EngineClient(
            actor.options(**options).remote(name=name, model_path=model, config=ENGINE, dtype="float32"),
            name=name,
            sampling=SAMPLING,
            agents=agents,
            ranks_node=here,
        )
        for name in (f"engine-{i}" for i in range(NUM_ENGINES))
    ]


def sizes_in(log: Path) -> list[int]:
    """Bytes of each copy."""
    return [int(line) for line in log.read_text().split()]


async def publishes(model: str, log: Path, part: Part) -> dict[str, Any]:
    """Bytes by the agents' count, over those of the model."""
    actor: Any = ray.remote(concurrency_groups=COPY_GROUPS)(CountingAgent)
    agents = NodeAgents(lambda node: actor.options(**agent_options(node)).remote(log))
    engines = start_engines(model, agents)
    ranks, info = start_ranks(model, config=LearnerConfig(beta=0.0, publish=PUBLISH))
    probes = probe_prompts(family_of(model), model_path=model, data=DataConfig())
    with part.measurement("start of two engines on the second node"):
        await asyncio.gather(*(engine.warm_up(probes[:1]) for engine in engines))
    publisher = Publisher(
        senders=ranks,
        fleet=FakeFleet(engines, are_verified=True),
        plan=info["plan"],
        segments=info["segments"],
        probes=probes,
        sampling=SAMPLING,
        config=PUBLISH,
        answer_deadline_s=ENGINE.answer_deadline_s,
        dtype="float32",
    )
    await publisher.start()
    num_before, num_bytes = len(sizes_in(log)), 0
    with part.measurement(f"{NUM_PUBLISHES} publishes"):
        for _ in range(NUM_PUBLISHES):
            num_bytes += (await publisher.publish()).num_bytes
    sizes = sizes_in(log)[num_before:]
    for engine in engines:
        await engine.handle.shutdown.remote()
    await agents.close()
    stop_ranks(ranks)
    return {
        "num_engines": NUM_ENGINES,
        "num_buckets": len(info["plan"].buckets),
        "num_copies": len(sizes),
        "models_per_publish": sum(sizes) / num_bytes,
        "target": TARGET,
    }


def measure(part: Part) -> dict[str, Any]:
    """A cluster of its own."""
    ray.shutdown()
    model = str(build_tiny_checkpoint(part.folder / "between-nodes"))
    with two_nodes():
        return asyncio.run(publishes(model, part.folder / "copies", part))
