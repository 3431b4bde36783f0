"""Processes of rewards and their children: none outlives its owner, however that ended."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from common.config.reward import PythonRewardConfig, RewardConfig
from common.types import Failure
from reward.hosts.process_host import ProcessHost
from reward.outcome import RewardFault
from reward.plugins.plugin import PluginSpec
from reward.service import GroupReport, RewardService
from tests.support.builders import make_request

OWNER = """
import asyncio, sys
from common.config.reward import PythonRewardConfig, RewardConfig
from reward.service import RewardService
from tests.support.builders import make_request

async def main(path, label):
    entry = PythonRewardConfig(type="python", name="mine", entrypoint="tests.support.reward.user:parenting")
    service = RewardService(RewardConfig(rewards=(entry,)))
    await service.score_requests([make_request(path, label=label)])
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


def scored(name: str, label: str, *, text: str = "a", **settings: float) -> GroupReport:
    """One group of one completion; everything is closed afterwards."""

    async def ask() -> GroupReport:
        entry = PythonRewardConfig(
            **{
                "type": "python",
                "name": name,
                "entrypoint": f"tests.support.reward.user:{name}",
                **settings,
            }
        )
        service = RewardService(RewardConfig(rewards=(entry,)))
        try:
            return await service.score_requests([make_request(text, label=label)])
        finally:
            service.close()

    return asyncio.run(ask())


def child_named_in(path: Path) -> psutil.Process:
    """The child of the reward's process, once it has started it."""
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return psutil.Process(int(path.read_text()))


def require_gone(*processes: psutil.Process) -> None:
    """All of them have ended; who adopted them may not have noticed yet."""
    deadline = time.monotonic() + 30
    for process in processes:
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, process
            time.sleep(0.01)


@pytest.mark.parametrize("label", ["happy", "fear"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_children_of_reward_code_end_with_the_owner_of_its_process(
    tmp_path: Path, label: str, number: signal.Signals
) -> None:
    told = tmp_path / "pid"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(told), label])
    try:
        child = child_named_in(told)
        worker = child.parent()
        assert worker is not None
        assert "reward.hosts.worker" in worker.cmdline()
    finally:
        os.kill(owner.pid, number)
        owner.wait()
    require_gone(child, worker)


def test_children_of_reward_code_end_when_the_service_is_closed(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    assert not isinstance(scored("parenting", "happy", text=str(told)).scores, Failure)
    require_gone(child_named_in(told))


def test_children_of_reward_code_end_with_its_process_at_a_deadline(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    report = scored("parenting", "fear", text=str(told), deadline_s=1.0)
    assert isinstance(report.scores, Failure)
    assert "in stuck" in report.scores.detail
    require_gone(child_named_in(told))


def test_a_process_that_dies_just_after_its_deadline_failed_by_its_deadline() -> None:
    report = scored("late", "fear", deadline_s=1.0, max_retries=0)
    assert isinstance(report.scores, Failure)
    assert report.scores.reason == "late-deadline"
    assert report.scores.detail.startswith("1 s passed")


def test_a_process_that_is_stopped_from_outside_is_replaced_and_its_call_is_repeated(tmp_path: Path) -> None:
    # it stops itself the first time: for its owner it makes no difference
    report = scored("stopping", "happy", text=str(tmp_path / "first"), deadline_s=2.0, max_retries=0)
    assert isinstance(report.scores, list), report.scores
    assert [score.total for score in report.scores] == [1.0]
    pid = int((tmp_path / "first").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_process_that_left_a_fork_behind_has_died_all_the_same() -> None:
    report = scored("forking", "happy", deadline_s=60.0, max_retries=0)
    assert isinstance(report.scores, Failure)
    assert report.scores.reason == "forking-died"
    assert "exit code 3" in report.scores.detail


LEAVING = """
import asyncio, sys
from common.config.reward import PythonRewardConfig, RewardConfig
from reward.service import RewardService
from reward.hosts.process_host import ProcessHost
from tests.support.builders import make_request

entry = PythonRewardConfig(type="python", name="mine", entrypoint="tests.support.reward.user:parenting")
service = RewardService(RewardConfig(rewards=(entry,)))
loop = asyncio.new_event_loop()
loop.run_until_complete(service.score_requests([make_request(sys.argv[1])]))
print("leaves")
"""


def test_an_owner_that_leaves_without_closing_ends_with_all_that_it_started(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    done = subprocess.run(
        [sys.executable, "-c", LEAVING, str(told)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "leaves\n")
    require_gone(child_named_in(told))


def test_a_process_that_ends_after_its_answer_is_lost_with_that_answer() -> None:
    async def ask() -> bool:
        plugin = PluginSpec(name="hungry", entrypoint="tests.support.reward.user:hungry")
        host = ProcessHost(plugin, max_memory_bytes=2**30)
        await host.open()
        try:
            (outcome,) = await host.ask([make_request("a", label="fear")])
            assert isinstance(outcome, RewardFault)
            return host.is_lost
        finally:
            host.end()

    assert asyncio.run(ask())
