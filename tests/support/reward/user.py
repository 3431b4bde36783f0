"""Rewards as a user might write them: slow, stuck, deadly. What they do, they do for the label `fear` alone."""

import asyncio
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from reward.request import RewardRequest, RewardResult


def good(completion: str, label: str) -> float:
    """The length."""
    return float(len(completion))


def measured(completion: str, label: str) -> float:
    """The length, after a while."""
    time.sleep(0.1)
    return float(len(completion))


def whole_record(request: RewardRequest) -> RewardResult:
    """Tells all that it sees."""
    return RewardResult(value=1.0, detail=repr(request.record))


def sleeping(completion: str, label: str) -> float:
    """Never comes back."""
    if label == "fear":
        time.sleep(600)
    return 1.0


def hanging(completion: str, label: str) -> float:
    """Never comes back, whatever the label."""
    time.sleep(600)
    return 1.0


def stuck(completion: str, label: str) -> float:
    """Holds the interpreter: nothing else runs in its process."""
    if label == "fear":
        re.match(r"(a+)+$", "a" * 64 + "b")
    return 1.0


def deadly(completion: str, label: str) -> float:
    """Ends its process."""
    if label == "fear":
        os._exit(3)
    return 1.0


def crashing(completion: str, label: str) -> float:
    """Reads from address 0."""
    if label == "fear":
        ctypes.string_at(0)
    return 1.0


def leaving(completion: str, label: str) -> float:
    """Asks to end its process."""
    if label == "fear":
        sys.exit(3)
    return 1.0


def hungry(completion: str, label: str) -> float:
    """Takes three GiB, and touches none of it."""
    if label == "fear":
        return float(len(bytearray(3 * 2**30)))
    return 1.0


def failing(completion: str, label: str) -> float:
    """Raises."""
    if label == "fear":
        raise ValueError("no fear")
    return 1.0


def surrogate(request: RewardRequest) -> RewardResult:
    """Tells halves of surrogate pairs wherever it can tell something; raises one for `fear`."""
    if request.label == "fear":
        raise ValueError("a \udc80 half")
    return RewardResult(value=1.0, detail="a \udc80 half", facts={"a \udc80 half": 1.0})


def inapplicable(completion: str, label: str) -> float | None:
    """Has no opinion."""
    return None if label == "fear" else 1.0


def printing(completion: str, label: str) -> float:
    """Prints, its children too."""
    print("a line on the screen", flush=True)
    subprocess.run([sys.executable, "-c", "print('a line of a child')"], check=True)
    return 1.0


def telling(completion: str, label: str) -> float:
    """Writes its process's id into the file that the completion names, and the first time takes long from there."""
    path = Path(completion)
    is_first = not path.exists()
    path.write_text(str(os.getpid()))
    time.sleep(600 if is_first else 0)
    return 1.0


def parenting(completion: str, label: str) -> float:
    """Starts a child that ignores SIGTERM, and writes its process id into the file that the completion names.

    For `fear` it then holds the interpreter.
    """
    child = subprocess.Popen(["/bin/sh", "-c", "trap '' TERM; sleep 600"])
    Path(completion).write_text(str(child.pid))
    return stuck(completion, label)


def late(completion: str, label: str) -> float:
    """Ends its process just after a deadline of one second."""
    if label == "fear":
        time.sleep(1.06)
        os._exit(3)
    return 1.0


def forking(completion: str, label: str) -> float:
    """Leaves a fork of its process behind, and ends."""
    if os.fork() == 0:
        time.sleep(600)
    os._exit(3)


def flaky(completion: str, label: str) -> float:
    """Raises until the file that the completion names holds two lines."""
    path = Path(completion)
    lines = path.read_text().splitlines() if path.exists() else []
    path.write_text("".join(f"{line}\n" for line in [*lines, f"{time.monotonic()}"]))
    if len(lines) < 2:
        raise ConnectionError("not yet")
    return 1.0


def process_id(completion: str, label: str) -> float:
    """Of the process that it runs in."""
    return float(os.getpid())


def suicidal(completion: str, label: str) -> float:
    """Is killed where the file that the completion names is not there; makes it before."""
    path = Path(completion)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def stopping(completion: str, label: str) -> float:
    """Is stopped where the file that the completion names is not there; writes its process's id into it before."""
    path = Path(completion)
    if not path.exists():
        path.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
    return 1.0


async def patient(request: RewardRequest) -> float:
    """Async: never comes back."""
    await asyncio.sleep(600 if request.label == "fear" else 0.05)
    return float(os.getpid())


async def mourning(request: RewardRequest) -> float:
    """Async: never comes back; makes the file that the completion names when it is given up."""
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        Path(request.completion).touch()  # noqa: ASYNC240
        raise
    return 1.0


async def async_leaving(request: RewardRequest) -> float:
    """Async: asks to end its process while others are in it."""
    await asyncio.sleep(0.2)
    if request.label == "fear":
        sys.exit(3)
    return 1.0


async def async_deadly(request: RewardRequest) -> float:
    """Async: ends its process while others are in it."""
    await asyncio.sleep(0.2)
    if request.label == "fear":
        os._exit(3)
    return 1.0


async def blocking(request: RewardRequest) -> float:
    """Async by name alone: holds its event loop."""
    if request.label == "fear":
        time.sleep(600)  # noqa: ASYNC251
    return 1.0


def averaged(requests: list[RewardRequest]) -> list[float]:
    """Of a group: each length over the mean; too few values for `fear`."""
    lengths = [len(request.completion) for request in requests]
    mean = sum(lengths) / len(lengths)
    return [length / mean for length in lengths][requests[0].label == "fear" :]


class Weighing:
    """A class with state: counts how often it was asked."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor, self.num_asked = factor, 0

    def __call__(self, completion: str, label: str) -> float:
        """The factor times the count."""
        self.num_asked += 1
        return self.factor * self.num_asked


class Unwilling:
    """Cannot be made."""

    def __init__(self) -> None:
        raise FileNotFoundError("no weights")

    def __call__(self, completion: str, label: str) -> float:
        """Never called."""
        return 0.0


def parental(completion: str, label: str) -> float:
    """Starts a process that does not end, and writes its id and its own into the file that the completion names."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    part = Path(f"{completion}.part")
    part.write_text(f"{os.getpid()} {child.pid}")
    part.rename(completion)
    time.sleep(600 if label == "fear" else 1)
    return 1.0
