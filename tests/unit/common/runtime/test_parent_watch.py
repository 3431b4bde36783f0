"""Children of a process that was killed end by themselves."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[4]
WRITE = """
import sys
from pathlib import Path
from common.config.data import SyntheticDataConfig
from common.datasets.synthetic.corpus import write_synthetic_corpus

if __name__ == "__main__":
    write_synthetic_corpus(Path(sys.argv[1]), SyntheticDataConfig(type="synthetic"))
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


def is_alive(process: psutil.Process) -> bool:
    """Runs, and is no zombie that nobody has reaped."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
