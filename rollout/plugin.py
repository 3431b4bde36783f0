"""What runs in every process that vLLM starts, through the entry-point group `vllm.general_plugins`."""

import multiprocessing
import os
import threading
import time

WATCH_S = 1.0


def register() -> None:
    """Makes the shared-memory receiver known and ties the process to its parent; harmless when repeated."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    from rollout.weights import BACKEND

    if BACKEND not in WeightTransferEngineFactory._registry:  # pyright: ignore[reportPrivateUsage]
        WeightTransferEngineFactory.register_engine(BACKEND, "rollout.weights", "SharedMemoryReceiver")
    _end_with_parent()


def _end_with_parent() -> None:
    """Ends a child of vLLM's when its parent is gone, however that went.

    vLLM's core notices the end of the actor above it in most cases, and not when that is killed together with the
    driver: it would then hold its memory for ever.
    """
    parent = multiprocessing.parent_process()
    name = "omni-rlvr-parent-watch"
    if parent is None or any(thread.name == name for thread in threading.enumerate()):
        return

    def watch() -> None:
        while os.getppid() == parent.pid:
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, name=name, daemon=True).start()
