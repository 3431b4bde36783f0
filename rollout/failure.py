"""The cause of death of an engine, which vLLM logs only in the process that failed.

Each process of vLLM appends its cause of death to an in-memory file of the process that owns the engine.
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
"""vLLM's functions that log the error that ends a process."""
WRAPPED = re.compile(r"Worker failed with error '(.*)', please check the stack trace above")
"""The text with which vLLM's core reports a worker's error."""
KILLED = re.compile(r"\S+ was killed by SIG\w+")
"""The cause of death of a process that a signal ended."""
LONGEST = 800
"""Characters of a cause."""
EXIT_S = 5.0


class FailureFile:
    """Causes of death of the child processes, in order."""

    def __init__(self) -> None:
        # child processes inherit its path; the file is removed with this process
        self._file = os.memfd_create("engine-failures")
        os.environ[FAILURE_FILE] = f"/proc/{os.getpid()}/fd/{self._file}"

    def cause(self) -> str:
        """The first entry, else the exit of a child of this process; empty while all run."""
        lines = os.pread(self._file, 1 << 20, 0).decode().splitlines()
        return lines[0] if lines else _child_exit()


class _Recorder(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.funcName not in ENDINGS:
            return
        error = record.exc_info[1] if record.exc_info else None
        text = _child_exit() or (cause_of(error) if error else record.getMessage())
        with open(os.environ[FAILURE_FILE], "a") as file:
            file.write(f"{text}\n")


def record_failures() -> None:
    """Makes this vLLM process record its cause of death in the engine's file; may be repeated."""
    logger = logging.getLogger("vllm")
    if FAILURE_FILE in os.environ and not any(isinstance(handler, _Recorder) for handler in logger.handlers):
        logger.addHandler(_Recorder(logging.ERROR))


def cause_of(error: BaseException) -> str:
    """One line of an error's type and text, without vLLM's wrapping text."""
    text = f"{error}"
    if isinstance(error, ValidationError):
        text = error.errors()[0]["msg"].removeprefix("Value error, ")
    text = " ".join(text.split())
    wrapped = WRAPPED.search(text)
    return (wrapped[1] if wrapped else f"{type(error).__name__}: {text}".removesuffix(": "))[:LONGEST]


def is_kill(cause: str) -> bool:
    """True if a cause is a signal, as from the kernel when memory is short."""
    return KILLED.fullmatch(cause) is not None


def _child_exit() -> str:
    # the only list that keeps children that have ended
    children = cast(Any, multiprocessing.process)._dangling
    for child in list(children):
        with contextlib.suppress(ValueError, AssertionError):  # closed, or of another process
            if wait([child.sentinel], timeout=0):
                # it is ending, and its exit code follows
                child.join(EXIT_S)
            # by SIGTERM vLLM itself ends the remaining children
            if child.exitcode and child.exitcode != -signal.SIGTERM:
                return f"{child.name} {_ending(child.exitcode)}"
    return ""


def _ending(exit_code: int) -> str:
    if exit_code > 0:
        return f"exited with code {exit_code}"
    return f"was killed by {signal.Signals(-exit_code).name}"
