"""Children of a process that was killed end by themselves."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from common.runtime.parent_watch import WATCH_S

REPOSITORY = Path(__file__).parents[4]
WRITE = """
import sys
from pathlib import Path
from common.config.data import SyntheticDataConfig
from common.datasets.synthetic.corpus import write_synthetic_corpus

if __name__ == "__main__":
    write_synthetic_corpus(Path(sys.argv[1]), SyntheticDataConfig(type="synthetic"))
"""

CHILDREN = """
import multiprocessing, os, signal, sys, threading, time
from common.runtime.parent_watch import end_with_parent

def core(queue):
    end_with_parent()
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=wait, args=(queue,))
    worker.start()
    queue.put(os.getpid())
    worker.join()

def wait(queue):
    end_with_parent()
    queue.put(os.getpid())
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    pids = []

    def start():
        context.Process(target=core, args=(queue,)).start()
        pids.extend(queue.get() for _ in range(2))

    # as an asyncio actor of Ray: not in the main thread
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    print(*pids, flush=True)
    time.sleep(600)
"""


def wait_for(is_so: Callable[[], bool], *, seconds: float) -> bool:
    """Whether it came to be."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_who_writes_a_corpus_leaves_nobody_behind_when_it_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "write.py"
    script.write_text(WRITE)
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    writer = subprocess.Popen([sys.executable, str(script), str(tmp_path / "corpus")], env=env)
    try:
        assert wait_for(lambda: any((tmp_path / "corpus" / "clips").glob("*.mp4")), seconds=120)
        # two workers and multiprocessing's resource tracker
        children = psutil.Process(writer.pid).children(recursive=True)
        assert len(children) == 3
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    try:
        assert wait_for(lambda: not any(map(is_alive, children)), seconds=10)
    finally:
        for child in filter(is_alive, children):
            child.kill()


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", list[psutil.Process]]]:
    """A process, and the child and grandchild that it has started as vLLM does."""
    script = tmp_path / "children.py"
    script.write_text(CHILDREN)
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen([sys.executable, str(script)], env=env, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    yield parent, children
    for process in (parent, *filter(is_alive, children)):
        process.kill()
    parent.communicate()


def test_stopped_children_end_with_their_parent(
    tree: tuple["subprocess.Popen[str]", list[psutil.Process]],
) -> None:
    parent, children = tree
    for child in children:
        child.suspend()
    parent.kill()
    parent.wait()
    assert wait_for(lambda: not any(map(is_alive, children)), seconds=10)


def test_children_outlive_the_thread_that_has_started_them(
    tree: tuple["subprocess.Popen[str]", list[psutil.Process]],
) -> None:
    # the thread has ended; longer than the period of the watch
    time.sleep(2 * WATCH_S)
    assert all(map(is_alive, tree[1]))


def is_alive(process: psutil.Process) -> bool:
    """Runs, and is no zombie that nobody has reaped."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
