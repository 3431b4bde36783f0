"""Shared memory of a process of an engine that has ended before the engine is reaped."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

from common.runtime.engine_processes import ENGINE_VARIABLE, processes_of, reap

ACTOR = """
import json, os, sys, time
from multiprocessing import get_context
from multiprocessing.shared_memory import SharedMemory

def core(pipe):
    memory = SharedMemory(create=True, size=4096)
    pipe.send((os.getpid(), memory.name))
    time.sleep(600)

if __name__ == "__main__":
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=core, args=(theirs,), daemon=True).start()
    print(json.dumps(ours.recv()), flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def engine(folder: Path, token: str) -> Generator[tuple[int, Path]]:
    """An actor with a core; the core's process id, and the segment that it made."""
    (folder / "actor.py").write_text(ACTOR)
    env = {**os.environ, ENGINE_VARIABLE: token}
    with subprocess.Popen([sys.executable, folder / "actor.py"], env=env, stdout=subprocess.PIPE) as actor:
        assert actor.stdout
        pid, name = json.loads(actor.stdout.readline())
        try:
            yield pid, Path("/dev/shm") / name
        finally:
            actor.kill()


def test_what_a_process_that_was_killed_alone_has_left_is_removed(tmp_path: Path) -> None:
    token = f"{secrets.token_hex(4)}/engine-0.1"
    with engine(tmp_path, token) as (core, segment):
        os.kill(core, signal.SIGKILL)
        while core in processes_of(token):
            time.sleep(0.01)
        assert segment.exists()
        # only the actor and its resource tracker are left, which hold nothing
        assert len(processes_of(token)) == 2
        reap(token)
        assert not segment.exists()
        assert processes_of(token) == []


def test_a_stopped_resource_tracker_is_killed(tmp_path: Path) -> None:
    token = f"{secrets.token_hex(4)}/engine-0.1"
    with engine(tmp_path, token) as (_, segment):
        for pid in processes_of(token):
            os.kill(pid, signal.SIGSTOP)
        reap(token)
        # the core still held it
        assert not segment.exists()
        assert processes_of(token) == []
