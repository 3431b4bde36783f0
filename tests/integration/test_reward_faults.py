"""Rewards whose processes are killed, stopped, or lost with their node: every group is scored, once in the ledger.

The driver is a process of its own (`tests/support/reward/fault_driver.py`), on a cluster of loopback nodes. The
fault comes from this process, by pid, at a random moment while groups are scored.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from learner.ledger import check_ledger, read_ledger
from tests.e2e.cluster import REPOSITORY, Cluster
from tests.support.reward.fault_driver import Cell

NUM_GROUPS = 12
DEADLINE_S = 5.0
"""Of a call."""
SETTLE_S = 60.0
DRIVER = "tests.support.reward.fault_driver"
ENTRYPOINT = "tests.support.reward.user:measured"
REWARDS: dict[str, dict[str, Any]] = {
    "python": {"type": "python", "entrypoint": ENTRYPOINT, "max_spare_workers": 0},
    # too large for the service's node, as is the named actor
    "actor": {"type": "actor", "entrypoint": ENTRYPOINT, "num_cpus": 2},
    "named_actor": {"type": "named_actor", "actor": "team", "namespace": "rewards"},
}
# target -> reward and a part of the command line
TARGETS = {
    "service": ("python", "RewardActor"),
    "worker": ("python", "reward.hosts.worker"),
    "replica": ("actor", "PluginActor"),
    "named": ("named_actor", "TeamReward"),
    "named-by-hand": ("named_actor", "TeamReward"),
}


class Bench:
    """The cluster and the driver."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.start_driver()

    def start_driver(self) -> None:
        """Starts it, which joins the cluster."""
        self.driver = subprocess.Popen(
            [sys.executable, "-m", DRIVER],
            env={
                **self.cluster.env,
                "RAY_ADDRESS": f"127.0.0.1:{self.cluster.port}",
                "PYTHONPATH": str(REPOSITORY),
            },
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def end_driver(self) -> None:
        """Ends it, and with it its actors."""
        self.driver.kill()
        self.driver.communicate()

    @contextmanager
    def scoring(self, cell: Cell) -> Generator[None]:
        """One cell; after a failed one the driver is a new one."""
        try:
            self.tell(json.dumps(asdict(cell)))
            self.next("open")
            yield
            self.tell("")
            self.next("closed")
        except BaseException:
            self.end_driver()
            self.start_driver()
            raise

    def find(self, title: str) -> list[psutil.Process]:
        """Processes on the nodes, by a part of the command line."""
        return [process for node in self.cluster.nodes for process in tree(node.pid) if title in command(process)]

    def node_of(self, process: psutil.Process) -> subprocess.Popen[str]:
        """The node of a process."""
        return next(node for node in self.cluster.nodes if process in tree(node.pid))

    def remove(self, node: subprocess.Popen[str]) -> None:
        """Ends a node as a power cut does: all at once."""
        for process in [psutil.Process(node.pid), *tree(node.pid)]:
            send(process, signal.SIGKILL)
        node.wait()
        assert node.stdout is not None
        node.stdout.close()
        self.cluster.nodes.remove(node)

    def next(self, *events: str) -> dict[str, Any]:
        """The driver's next line of these kinds."""
        assert self.driver.stdout is not None
        for line in self.driver.stdout:
            if not line.startswith("{"):
                continue
            message = json.loads(line)
            assert message["event"] != "error", message
            if message["event"] in events:
                return message
        raise AssertionError(f"the driver ended with {self.driver.wait()}")

    def tell(self, line: str) -> None:
        """Writes a line to the driver."""
        assert self.driver.stdin is not None
        self.driver.stdin.write(f"{line}\n")
        self.driver.stdin.flush()


def tree(pid: int) -> list[psutil.Process]:
    """All processes below one."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def command(process: psutil.Process) -> str:
    """Empty for a process that has ended."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def send(process: psutil.Process, number: int) -> None:
    """A signal, also to a process that has just ended."""
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A head without CPUs and two nodes of 4: the service takes 3 of one, and another actor 2 of the other."""
    checks = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 5,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in checks.items():
            patch.setenv(f"RAY_{name}", str(value))
        cluster = Cluster(Path(sys.executable), tmp_path_factory.mktemp("cluster"), num_cpus=0)
        for _ in range(2):
            cluster.add_node(num_cpus=4)
    bench = Bench(cluster)
    try:
        # the connections that the driver keeps
        with bench.scoring(cell_of("python", tmp_path_factory.mktemp("first"))):
            bench.next("done")
        yield bench
    finally:
        bench.end_driver()
        cluster.end()


def cell_of(kind: str, folder: Path, *, group_deadline_s: float = 300.0, named_restarts: int = -1) -> Cell:
    """Groups that a reward of this kind scores."""
    return Cell(
        folder=str(folder),
        reward={**REWARDS[kind], "name": "measured", "deadline_s": DEADLINE_S},
        num_groups=NUM_GROUPS,
        group_deadline_s=group_deadline_s,
        named_restarts=named_restarts,
    )


def kill(bench: Bench, process: psutil.Process) -> None:
    """SIGKILL."""
    process.kill()


def stop(bench: Bench, process: psutil.Process) -> None:
    """SIGSTOP; the owner of a named actor finds it after a while."""
    process.suspend()
    if "TeamReward" in command(process):
        time.sleep(2 * DEADLINE_S)
        process.resume()


def remove(bench: Bench, process: psutil.Process) -> None:
    """SIGKILL to all processes of the node."""
    bench.cluster.add_node(num_cpus=4)
    bench.remove(bench.node_of(process))


def cells() -> Iterator[Any]:
    """All; those beyond 10 s run in `make test-all` only."""
    for target, fault in itertools.product(TARGETS, (kill, stop, remove)):
        if target == "named-by-hand" and fault is not kill:
            continue
        is_long = fault is not kill or target == "named-by-hand"
        yield pytest.param(
            target, fault, marks=[pytest.mark.long] if is_long else [], id=f"{target}-{fault.__name__}"
        )


@pytest.mark.parametrize(("target", "fault"), list(cells()))
def test_every_group_is_scored_and_counts_once(
    bench: Bench, target: str, fault: Callable[[Bench, psutil.Process], None], tmp_path: Path
) -> None:
    seed = int(os.environ.get("OMNI_RLVR_SEED", random.randrange(2**31)))
    print(f"OMNI_RLVR_SEED={seed}")
    moment = random.Random(seed)
    kind, title = TARGETS[target]
    before = footprint(bench)
    # a service that does not answer is found by the group's deadline, and everything else by the call's
    is_found_late = (target, fault) == ("service", stop)
    cell = cell_of(
        kind,
        tmp_path,
        group_deadline_s=10.0 if is_found_late else 300.0,
        named_restarts=0 if target == "named-by-hand" else -1,
    )
    with bench.scoring(cell):
        (process,) = bench.find(title)
        victims = {p.pid for p in [process, *process.children(recursive=True)]}
        num_before = moment.randrange(1, NUM_GROUPS // 2)
        while bench.next("scored")["count"] < num_before:
            pass
        time.sleep(moment.uniform(0, 0.2))
        fault(bench, process)
        num_after = 0
        while (message := bench.next("scored", "done"))["event"] != "done":
            num_after += 1
        assert num_after >= NUM_GROUPS // 4, "the fault must come while groups are scored"
        require_each_scored_once(tmp_path / "ledger.jsonl", message)
    require_settled(bench, before, gone=victims)


def require_each_scored_once(ledger: Path, message: dict[str, Any]) -> None:
    """In the ledger and in what would be trained, with the true values."""
    entries = read_ledger(ledger)
    scored = Counter(entry["draw"] for entry in entries if entry.get("event") == "scored")
    fates = Counter((entry["draw"], entry["fate"]) for entry in entries if "fate" in entry)
    failures = [entry for entry in entries if entry.get("fate") == "failed"]
    assert failures == []
    assert len(scored) == NUM_GROUPS
    assert set(scored.values()) == {1}
    assert fates == {(draw, "trained"): 1 for draw in scored}
    assert check_ledger(ledger).faults == ()
    assert message["totals"] == [[3.0, 4.0]] * NUM_GROUPS
    assert message["metrics"]["reward/measured/error_rate"] == 0.0
    assert message["metrics"]["reward/lost_rate"] == 0.0


def is_alive(pid: int) -> bool:
    """Not a zombie either."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def footprint(bench: Bench) -> dict[str, int]:
    """Processes of rewards anywhere, and the driver's descriptors."""
    titles = [title for _, title in TARGETS.values()]
    everywhere = list(map(command, psutil.process_iter()))
    counts = {title: sum(title in line for line in everywhere) for title in titles}
    guards = sum("kill -KILL 0" in line for line in everywhere)
    sockets = psutil.Process(bench.driver.pid).num_fds()
    return {**counts, "guards": guards, "descriptors": sockets}


def require_settled(bench: Bench, before: dict[str, int], *, gone: set[int]) -> None:
    """Waits until no more is left than before, and nothing of these processes."""
    deadline = time.monotonic() + SETTLE_S
    after = footprint(bench)
    while any(count > before[name] for name, count in after.items()) or any(map(is_alive, gone)):
        assert time.monotonic() < deadline, f"{before} before, {after} after; alive: {list(filter(is_alive, gone))}"
        time.sleep(0.1)
        after = footprint(bench)
