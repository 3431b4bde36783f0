"""The tool that breaks engines of a live run: one process, at a moment of a phase, and a wait for recovery."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.runtime.engine_processes import ENGINE_VARIABLE
from deploy.run_folder import hold_run_folder
from learner.records.event_log import EventLog
from tests.support.faults import main

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


class Processes:
    """Processes that carry the tokens of engines."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, engine: str) -> subprocess.Popen[bytes]:
        """One process of an engine."""
        process = subprocess.Popen(SLEEP, env={**os.environ, ENGINE_VARIABLE: f"lineage/{engine}"})
        self.started.append(process)
        return process


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Ended with the test, stopped or not."""
    processes = Processes()
    yield processes
    for process in processes.started:
        process.kill()
        process.wait()


def engine_line(events: EventLog, engine: str, state: str, pids: dict[str, int], *, reason: str = "") -> None:
    events.write(event="engine", engine=engine, state=state, version=1, reason=reason, node="n", pids=pids)


def tool(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.support.faults", "--run", str(folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_gone(process: "psutil.Process", events: EventLog, tool: "subprocess.Popen[str]") -> str:
    """Rollouts until the process is killed or stopped; returns which."""
    while tool.poll() is None:
        with events.phase("rollout"):
            for _ in range(10):
                time.sleep(0.01)
                if process.status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED}:
                    return process.status()
    raise AssertionError(tool.communicate())


@pytest.mark.parametrize(("how", "status"), [("kill", psutil.STATUS_ZOMBIE), ("stop", psutil.STATUS_STOPPED)])
def test_it_signals_the_process_of_the_target_and_reports_the_recovery(
    how: str, status: str, tmp_path: Path, processes: Processes
) -> None:
    actor, core = processes.start("engine-0.1"), processes.start("engine-0.1")
    events = EventLog(tmp_path / "events.jsonl")
    with hold_run_folder(tmp_path):
        engine_line(events, "engine-0.1", "ready", {"actor": actor.pid, "core": core.pid})
        running = tool(tmp_path, "--how", how, "--targets", "core", "--phases", "rollout")
        assert until_gone(psutil.Process(core.pid), events, running) == status
        assert psutil.Process(actor.pid).status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED}
        engine_line(events, "engine-0.1", "condemned", {}, reason="the core was lost")
        engine_line(events, "engine-0.2", "ready", {})
        time.sleep(0.05)
        assert running.poll() is None, "no completions were made yet"
        with events.phase("rollout"):
            pass
        out, complaint = running.communicate(timeout=30)
    assert running.returncode == 0, complaint
    fault: dict[str, Any] = json.loads(out)
    assert fault["pid"] == core.pid
    assert (fault["how"], fault["target"], fault["phase"]) == (how, "core", "rollout")
    assert (fault["engine"], fault["ready"], fault["reason"]) == ("engine-0.1", "engine-0.2", "the core was lost")
    assert 0 <= fault["condemned_s"] <= fault["ready_s"] <= fault["completions_s"]


def test_a_process_that_only_has_the_id_is_left_alone(tmp_path: Path, processes: Processes) -> None:
    other, core = processes.start("engine-7.1"), processes.start("engine-1.1")
    events = EventLog(tmp_path / "events.jsonl")
    with hold_run_folder(tmp_path):
        engine_line(events, "engine-0.1", "ready", {"core": other.pid})
        engine_line(events, "engine-1.1", "ready", {"core": core.pid})
        running = tool(tmp_path, "--how", "kill", "--targets", "core", "--phases", "rollout")
        until_gone(psutil.Process(core.pid), events, running)
    _, complaint = running.communicate(timeout=30)
    assert running.returncode == 1
    assert "the run ended before" in complaint
    assert other.poll() is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--run", "/nowhere"],
            "error: --run must be the folder of a run, got /nowhere; see run.root and run.name",
        ),
        (["--run", "."], "error: --run must be the folder of a live run, got .; start the run first"),
        (["--run", ".", "--how", "ask"], "error: --how must be one or more of kill,stop, got 'ask'; separate "),
        (["--run", ".", "--targets", ""], "error: --targets must be one or more of actor,core,worker, got ''; "),
        (["--run", ".", "--count", "0"], "error: --count must be >= 1, got 0; it is the number of faults"),
        (["--count", "1"], "error: the following arguments are required: --run; see --help"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith(complaint)
    assert text.count("\n") == 1
