"""Ends a process when its parent has ended: nothing else ends the children of a killed process."""

import multiprocessing
import os
import threading
import time

WATCH_S = 1.0
NAME = "omni-rlvr-parent-watch"


def end_with_parent() -> None:
    """Watches the parent of a process that `multiprocessing` started, and ends with it; may be repeated."""
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == NAME for thread in threading.enumerate()):
        return

    def watch() -> None:
        while os.getppid() == parent.pid:
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, name=NAME, daemon=True).start()
