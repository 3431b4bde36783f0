"""The cause of death of an engine, which vLLM logs only in the process that failed.

Each process of vLLM appends its end to a file, in memory, of the process that owns the engine.
"""

import contextlib
import logging
import multiprocessing.process
import os
import re
import signal
from multiprocessing.connection import wait
from typing import Any, cast

from pydantic import ValidationError

FAILURE_FILE = "OMNI_RLVR_FAILURE_FILE"
ENDINGS = frozenset({"worker_main", "run_engine_core", "monitor_workers"})
"""vLLM's functions that log what ends a process."""
WRAPPED = re.compile(r"Worker failed with error '(.*)', please check the stack trace above")
"""vLLM's error in its core for one in a worker."""
LONGEST = 800
"""Characters of a cause."""
EXIT_S = 5.0


class FailureFile:
    """Causes of death of the child processes, in order."""

    def __init__(self) -> None:
        """Processes that start from now on know the file."""
        # in memory, and gone with this process
        self._file = os.memfd_create("engine-failures")
        os.environ[FAILURE_FILE] = f"/proc/{os.getpid()}/fd/{self._file}"

    def cause(self) -> str:
        """The first recorded cause, else the exit of a child process; empty if there is none."""
        lines = os.pread(self._file, 1 << 20, 0).decode().splitlines()
        return lines[0] if lines else _ended_child()


class _Recorder(logging.Handler):
    """Appends the end of this vLLM process to the engine's file."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.funcName not in ENDINGS:
            return
        error = record.exc_info[1] if record.exc_info else None
        text = _ended_child() or (cause_of(error) if error else record.getMessage())
        with open(os.environ[FAILURE_FILE], "a") as file:
            file.write(f"{text}\n")


def record_failures() -> None:
    """Makes this process record its end for the engine above it; may be repeated."""
    logger = logging.getLogger("vllm")
    if FAILURE_FILE in os.environ and not any(isinstance(handler, _Recorder) for handler in logger.handlers):
        logger.addHandler(_Recorder(logging.ERROR))


def cause_of(error: BaseException) -> str:
    """An error as one line: its type and its text, without what vLLM wraps around it."""
    text = f"{error}"
    if isinstance(error, ValidationError):
        text = error.errors()[0]["msg"].removeprefix("Value error, ")
    text = " ".join(text.split())
    wrapped = WRAPPED.search(text)
    return (wrapped[1] if wrapped else f"{type(error).__name__}: {text}".removesuffix(": "))[:LONGEST]


def _ended_child() -> str:
    """The exit of a child process, which vLLM's errors omit."""
    # the only list that keeps children which have ended
    children = cast(Any, multiprocessing.process)._dangling
    for child in list(children):
        with contextlib.suppress(ValueError, AssertionError):  # closed, or of another process
            if wait([child.sentinel], timeout=0):
                # it ends: its code is there in a moment
                child.join(EXIT_S)
            # vLLM itself ends by SIGTERM whatever is left
            if child.exitcode and child.exitcode != -signal.SIGTERM:
                return f"{child.name} {_ending(child.exitcode)}"
    return ""


def _ending(exit_code: int) -> str:
    if exit_code > 0:
        return f"exited with code {exit_code}"
    return f"was killed by {signal.Signals(-exit_code).name}"
