"""Node agents on three of Ray's nodes on one machine, each with its own folder of shared memory."""

import asyncio
import os
import secrets
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from common.errors import EngineError
from common.node_agent_actor import COPY_GROUPS, NodeAgents, agent_options
from common.runtime.engine_processes import ENGINE_VARIABLE
from common.shared_memory import Segment
from tests.integration.conftest import Run
from tests.support.light.node_agents import CountedAgent, HoldingActor

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
DEADLINE_S = 30.0


class Nodes:
    """A cluster whose driver is on node 0, with agents."""

    def __init__(self, folder: Path) -> None:
        self.shm = [Path("/dev/shm") / f"omni-rlvr-nodes-{secrets.token_hex(4)}-{i}" for i in range(3)]
        for path in self.shm:
            path.mkdir()
        self.log = folder / "copies"
        environments = [{"OMNI_RLVR_SEGMENTS": str(path)} for path in self.shm]
        head = {"num_cpus": 1, "include_dashboard": False, "env_vars": environments[0]}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.raylets = [self.cluster.head_node]
        self.raylets += [self.cluster.add_node(num_cpus=1, env_vars=e) for e in environments[1:]]
        ray.init(address=self.cluster.address, log_to_driver=False)
        self.ids = [raylet.node_id for raylet in self.raylets]
        self.agents = self.new_agents(deadline_s=DEADLINE_S)

    def new_agents(self, *, deadline_s: float) -> NodeAgents:
        """Others than `agents`."""
        actor: Any = ray.remote(concurrency_groups=COPY_GROUPS)(CountedAgent)
        return NodeAgents(lambda node: actor.options(**agent_options(node)).remote(self.log), deadline_s=deadline_s)

    def segment(self, *values: float) -> Segment:
        """A segment of the ranks' node that holds one bucket and has room for more."""
        segment = Segment(self.shm[0] / f"omni-rlvr-learner-0-{secrets.token_hex(8)}", num_bytes=2**16)
        segment.write({"weight": torch.tensor(values)})
        return segment

    async def copy(self, segment: Segment, bucket: int, *, node: int = 1) -> Path:
        """The path on a node."""
        path = str(segment.path)
        return Path(await self.agents.local_path(path, bucket, node=self.ids[node], source_node=self.ids[0]))

    def copies(self) -> Counter[str]:
        """Since the last call."""
        lines = self.log.read_text().split() if self.log.exists() else []
        self.log.write_text("")
        return Counter(lines)

    async def agent_pid(self, node: int) -> int:
        """Of the agent that answers now."""
        return await self.agents._call(self.ids[node], "pid")  # pyright: ignore[reportPrivateUsage]

    async def close(self) -> None:
        """Ends all, and checks that nothing is left."""
        try:
            await self.agents.close()
            assert [path for folder in self.shm for path in folder.iterdir()] == []
        finally:
            ray.shutdown()
            self.cluster.shutdown()
            for path in self.shm:
                shutil.rmtree(path)


@pytest.fixture(scope="module")
def nodes(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """One cluster for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        before = set(os.listdir("/dev/shm"))
        made = Nodes(tmp_path_factory.mktemp("nodes"))
        patch.setattr("common.shared_memory.SEGMENT_FOLDER", made.shm[0])
        yield made
        run(made.close())
        assert not {name for name in set(os.listdir("/dev/shm")) - before if name.startswith("omni-rlvr-nodes")}


def values_of(path: Path) -> list[float]:
    """Of the one tensor of a segment."""
    return Segment(path).read()["weight"].tolist()


def is_running(pid: int) -> bool:
    """No zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until_gone(*pids: int) -> None:
    """Ends when these processes have."""
    async with asyncio.timeout(60):
        while any(map(is_running, pids)):  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.1)


def test_a_bucket_crosses_to_a_node_once_for_all_its_engines(run: Run, nodes: Nodes) -> None:
    async def work() -> None:
        nodes.agents.forget()
        segment = nodes.segment(1.0, 2.0)
        here = await nodes.copy(segment, 0, node=0)
        assert here == segment.path
        first, second, other = await asyncio.gather(
            nodes.copy(segment, 0), nodes.copy(segment, 0), nodes.copy(segment, 0, node=2)
        )
        assert first == second == await nodes.copy(segment, 0)
        assert (first.parent, other.parent) == (nodes.shm[1], nodes.shm[2])
        assert values_of(first) == values_of(other) == [1.0, 2.0]
        assert nodes.copies() == {"put": 1, "get": 2}
        segment.write({"weight": torch.tensor([3.0])})
        assert await nodes.copy(segment, 0) == first
        assert values_of(first) == [1.0, 2.0]
        nodes.agents.forget()
        assert values_of(await nodes.copy(segment, 0)) == [3.0]
        assert nodes.copies() == {"put": 1, "get": 1}
        segment.close(unlink=True)

    run(work())


def test_the_copies_of_two_buckets_do_not_share_memory(run: Run, nodes: Nodes) -> None:
    async def work() -> None:
        nodes.agents.forget()
        segments = [nodes.segment(float(bucket)) for bucket in range(3)]
        paths = [await nodes.copy(segment, bucket) for bucket, segment in enumerate(segments[:2])]
        assert [values_of(path) for path in paths] == [[0.0], [1.0]]
        assert await nodes.copy(segments[2], 2) == paths[0]
        assert [values_of(path) for path in paths] == [[2.0], [1.0]]
        # its segment holds bucket 2
        with pytest.raises(EngineError, match="must be one of the last two of a transfer, got bucket 0"):
            await nodes.copy(segments[0], 0)
        for segment in segments:
            segment.close(unlink=True)

    run(work())


def test_a_copy_that_was_overtaken_does_not_overwrite_a_later_one(run: Run, nodes: Nodes) -> None:
    async def work() -> None:
        nodes.agents.forget()
        old, new = nodes.segment(1.0), nodes.segment(2.0)
        call = nodes.agents._call  # pyright: ignore[reportPrivateUsage]
        put = await call(nodes.ids[0], "put_bucket", str(old.path))
        turn = nodes.agents._newest  # pyright: ignore[reportPrivateUsage]
        nodes.agents.forget()
        path = await nodes.copy(new, 0)
        with pytest.raises(EngineError, match="of the last two of a transfer"):
            await call(nodes.ids[1], "get_bucket", *put, turn, DEADLINE_S)
        assert values_of(path) == [2.0]
        for segment in (old, new):
            segment.close(unlink=True)

    run(work())


def test_a_segment_of_another_node_is_refused(run: Run, nodes: Nodes) -> None:
    async def work() -> None:
        nodes.agents.forget()
        segment = nodes.segment(1.0)
        nodes.copies()
        with pytest.raises(EngineError, match=rf"put_bucket: segment {segment.path} must lie in {nodes.shm[2]}"):
            await nodes.agents.local_path(str(segment.path), 0, node=nodes.ids[1], source_node=nodes.ids[2])
        assert nodes.copies() == {}
        # a failure is not kept
        assert values_of(await nodes.copy(segment, 0)) == [1.0]
        segment.close(unlink=True)

    run(work())


def test_killed_agents_are_made_again_and_a_lost_bucket_is_put_again(run: Run, nodes: Nodes) -> None:
    async def work() -> None:
        nodes.agents.forget()
        segment = nodes.segment(1.0)
        first = await nodes.copy(segment, 0)
        nodes.copies()
        pids = [await nodes.agent_pid(node) for node in (0, 1)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        # the agent of the source owned the object
        assert values_of(await nodes.copy(segment, 0, node=2)) == [1.0]
        assert nodes.copies() == {"lost": 1, "put": 1, "get": 1}
        nodes.agents.forget()
        again = await nodes.copy(segment, 0)
        assert values_of(again) == [1.0]
        assert again != first
        # by the new agent: the killed one held its lock no longer
        assert not first.exists()
        assert not set(pids) & {await nodes.agent_pid(node) for node in (0, 1)}
        segment.close(unlink=True)

    run(work())


def test_a_stopped_agent_is_an_error_after_the_deadline_and_is_replaced(run: Run, nodes: Nodes) -> None:
    async def work() -> None:
        agents = nodes.new_agents(deadline_s=8.0)
        call = agents._call  # pyright: ignore[reportPrivateUsage]
        stopped = await call(nodes.ids[1], "pid")
        os.kill(stopped, signal.SIGSTOP)
        with pytest.raises(EngineError, match="processes must end within 8 s, and did not"):
            await agents.processes("nobody", node=nodes.ids[1])
        assert await agents.processes("nobody", node=nodes.ids[1]) == []
        assert await call(nodes.ids[1], "pid") != stopped
        await until_gone(stopped)
        await agents.close()

    run(work())


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "dead"])
def test_all_processes_of_an_engine_are_killed_and_nothing_of_it_is_left(
    run: Run, nodes: Nodes, stopped: bool
) -> None:
    async def work() -> None:
        tokens = [f"run-{secrets.token_hex(4)}-engine-{i}.1" for i in range(2)]
        affinity = NodeAffinitySchedulingStrategy(nodes.ids[1], soft=False)
        actor: Any = ray.remote(HoldingActor)
        engine, other = (
            actor.options(
                num_cpus=0.1,
                scheduling_strategy=affinity,
                runtime_env={"env_vars": {ENGINE_VARIABLE: token}},
            ).remote()
            for token in tokens
        )
        (pids, path), (others, kept) = await asyncio.gather(engine.state.remote(), other.state.remote())
        try:
            found = set(await nodes.agents.processes(tokens[0], node=nodes.ids[1]))
            # and the resource tracker of multiprocessing
            assert found > set(pids)
            assert len(found) == len(pids) + 1
            assert await nodes.agents.held(tokens[0], node=nodes.ids[1]) == [path]
            for pid in found:
                os.kill(pid, signal.SIGSTOP)
            if not stopped:
                # what `held` has returned is remembered; stopped first, for otherwise
                # the resource tracker would remove the file
                for pid in found:
                    os.kill(pid, signal.SIGKILL)
                await until_gone(*found)
            reaped = await nodes.agents.reap(tokens[0], node=nodes.ids[1])
            assert set(reaped.pids) == (found if stopped else set())
            assert reaped.files == (path,)
            assert not path.exists()
            assert not any(map(is_running, found))
            with pytest.raises(RayActorError):
                await engine.state.remote()
            assert await other.state.remote() == (others, kept)
            assert kept.exists()
        finally:
            for token in tokens:
                await nodes.agents.reap(token, node=nodes.ids[1])

    run(work())


def test_a_node_that_is_gone_is_an_error(run: Run, nodes: Nodes) -> None:
    async def work() -> None:
        await nodes.agent_pid(2)
        nodes.cluster.remove_node(nodes.raylets[2], allow_graceful=False)

        # until it notices, the process of the agent answers
        async def ask() -> None:
            async with asyncio.timeout(60):
                while True:
                    await nodes.agents.processes("nobody", node=nodes.ids[2])

        with pytest.raises(EngineError, match=f"node {nodes.ids[2][:8]}"):
            await ask()
        for path in nodes.shm[2].iterdir():
            path.unlink()

    run(work())
