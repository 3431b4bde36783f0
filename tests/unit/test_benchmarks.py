"""The time box and the lines of a part of `make bench`."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
HANGING = """
import subprocess, sys, time
from tests.benchmarks.part import boxed

with boxed("demo", minutes={minutes}) as part:
    with part.measurement("quick"):
        pass
    with part.measurement("endless"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(child.pid, part.folder, flush=True)
        {work}
print("result")
"""


def run(*, minutes: float, work: str) -> subprocess.CompletedProcess[str]:
    """A part with a child that would outlive it."""
    command = [sys.executable, "-c", HANGING.format(minutes=minutes, work=work)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("work", ["time.sleep(600)", "import threading; threading.Event().wait()"])
def test_a_part_that_passes_its_box_ends_with_a_line_and_all_that_it_started(work: str) -> None:
    done = run(minutes=0.02, work=work)
    pid, folder = done.stdout.split()
    assert done.returncode == 1
    assert "FAILED: passed its 0.02 minutes in 'endless'" in done.stderr.splitlines()[-1]
    assert not psutil.pid_exists(int(pid))
    assert not Path(folder).exists()


def test_a_part_within_its_box_says_the_seconds_of_each_measurement_and_nothing_on_stdout() -> None:
    done = run(minutes=1, work="child.kill(); child.wait()")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1:] == ["result"]
    texts = [line.partition(" s  ")[2] for line in done.stderr.splitlines()]
    assert texts[0] == "begins, at most 1 minutes"
    assert [text.partition(":")[0] for text in texts[1:]] == ["quick", "endless", "done"]
