"""Peak memory of a run on this node: proportional set sizes of its processes, and shared memory."""

import threading
from typing import cast

import psutil


class MemorySampler:
    """Samples memory in a thread; `peak_bytes` is the PSS of the process trees plus the growth of /dev/shm."""

    def __init__(self, *, session: str = "", interval_s: float = 2.0) -> None:
        """`session` names the Ray session whose processes count; empty for all sessions on this machine."""
        self.peak_bytes = 0
        self._session = session
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._shm_before = _shm_bytes()
        self._thread = threading.Thread(target=self._run, name="memory-sampler", daemon=True)

    def __enter__(self) -> "MemorySampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self.sample()

    def sample(self) -> int:
        total = sum(_pss_bytes(pid) for pid in _run_processes(self._session))
        total += max(0, _shm_bytes() - self._shm_before)
        self.peak_bytes = max(self.peak_bytes, total)
        return total

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            self.sample()


def _run_processes(session: str) -> set[int]:
    """This process, its children, and the Ray session's processes on this node."""
    roots = [psutil.Process()]
    for process in psutil.process_iter(["name", "cmdline"]):
        arguments = cast(list[str], process.info["cmdline"] or [])
        if process.info["name"] in {"raylet", "gcs_server"} and any(session in a for a in arguments):
            roots.append(process)
    pids: set[int] = set()
    for root in roots:
        try:
            pids |= {root.pid, *(child.pid for child in root.children(recursive=True))}
        except psutil.NoSuchProcess:
            continue
    return pids


def _pss_bytes(pid: int) -> int:
    try:
        return psutil.Process(pid).memory_full_info().pss
    except psutil.Error:
        return 0  # ended since it was listed, or not readable


def _shm_bytes() -> int:
    return psutil.disk_usage("/dev/shm").used
