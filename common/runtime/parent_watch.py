"""Ends a process when its parent has ended: nothing else ends the children of a killed process."""

import contextlib
import fcntl
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time

WATCH_S = 1.0
NAME = "omni-rlvr-parent-watch"


def end_with_parent() -> None:
    """Ends this process, stopped or not, with the parent whose `multiprocessing` started it; may be repeated."""
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == NAME for thread in threading.enumerate()):
        return

    def watch() -> None:
        while os.getppid() == parent.pid:
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, name=NAME, daemon=True).start()
    # a system without such signals leaves the thread, which a stopped process does not run
    with contextlib.suppress(OSError):
        _kill_at_hangup(parent.sentinel)
    if multiprocessing.connection.wait([parent.sentinel], timeout=0):
        os._exit(1)


def _kill_at_hangup(pipe: int) -> None:
    """Makes the kernel send SIGKILL to this process when the writing end of the pipe closes.

    Not PR_SET_PDEATHSIG: that signal comes when the *thread* ends which started this process, and an asyncio actor
    of Ray starts vLLM's core in a thread of its event loop. Only the parent holds the writing end of the sentinel.
    """
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
