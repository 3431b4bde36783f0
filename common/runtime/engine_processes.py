"""Processes of one rollout engine on this machine, and the shared memory that they hold.

The actor of an engine and all processes of vLLM below it carry the environment variable `OMNI_RLVR_ENGINE` with a
token that no other engine has or had. A stopped process is found and killed like any other.
"""

import contextlib
import os
import re
import select
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import EngineError

ENGINE_VARIABLE = "OMNI_RLVR_ENGINE"
SHARED_MEMORY = Path("/dev/shm")
OF_AN_ENGINE = re.compile(
    r"^(psm_[0-9a-f]+|sem\.mp-\w+|VLLM_OBJECT_STORAGE_SHM_BUFFER\w*|vllm_[\w-]+\.mmap|\S+-cpushm\S*)$"
)
"""Names of the files that `multiprocessing` and vLLM make in shared memory. Ours are swept by their locks."""
PROC = Path("/proc")
TRACKER = b"multiprocessing.resource_tracker"
TRACKER_S = 3.0  # in which a resource tracker removes what the processes that it served left
POLL_S = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Reaped:
    """The outcome of `reap`."""

    pids: tuple[int, ...]
    """Processes that were killed."""
    files: tuple[Path, ...]
    """Files in shared memory that were removed."""


def processes_of(token: str) -> list[int]:
    """Processes of this user that carry the token, in ascending order; a zombie carries none."""
    _require_token(token)
    return [pid for pid in _pids() if _carries(pid, token)]


def held_segments(pids: Iterable[int]) -> list[Path]:
    """Files in shared memory that these processes map or hold open, in order; removed files have no name."""
    held = {identity for pid in pids for identity in _held_by(pid)}
    return sorted(path for path in _shared_files() if _identity(path) in held)


def reap(token: str, segments: Iterable[Path] = (), *, deadline_s: float = 10.0) -> Reaped:
    """Kills all processes that carry the token, and removes the files of `multiprocessing` and vLLM that they held.

    Args:
        segments: files that `held_segments` returned for this token earlier, for processes that may be gone by now.

    Raises:
        EngineError: processes are still there at the deadline; no file has been removed.
    """
    held, killed = set(segments), set[int]()
    deadline = time.monotonic() + deadline_s
    # again in each round: a process may have started, or mapped another file, since the last
    while pids := processes_of(token):
        held.update(held_segments(pids))
        trackers = [pid for pid in pids if _is_tracker(pid)]
        remaining = _kill([pid for pid in pids if pid not in trackers], token, deadline=deadline)
        _wait_for_end(trackers, deadline=min(deadline, time.monotonic() + TRACKER_S))
        remaining += _kill(trackers, token, deadline=deadline)
        killed.update(pids)
        if remaining or time.monotonic() > deadline:
            raise EngineError(
                f"processes of engine {token} must end within {deadline_s:g} s of SIGKILL, got "
                f"{remaining or pids} still there; one in state D waits for a device or a file system: see "
                "`ps -o pid,stat,wchan`"
            )
    return Reaped(pids=tuple(sorted(killed)), files=tuple(_remove_when_unheld(held, deadline=deadline)))


def _require_token(token: str) -> None:
    # an empty token is in no environment on purpose, and one with a separator would match a part
    if not token or "\0" in token:
        raise EngineError(f"the token of an engine must have characters and no NUL, got {token!r}")


def _pids() -> list[int]:
    own = os.getuid()
    pids: list[int] = []
    for entry in os.scandir(PROC):
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and entry.stat().st_uid == own:
                pids.append(int(entry.name))
    return sorted(pids)


def _carries(pid: int, token: str) -> bool:
    try:
        environment = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    return f"{ENGINE_VARIABLE}={token}".encode() in environment.split(b"\0")


def _kill(pids: Iterable[int], token: str, *, deadline: float) -> list[int]:
    """Sends SIGKILL to processes that carry the token; returns those that have not ended at the deadline."""
    with contextlib.ExitStack() as stack:
        descriptors: dict[int, int] = {}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                descriptor = os.pidfd_open(pid)
                stack.callback(os.close, descriptor)
                # a descriptor stands for one process; the number may have become another's before it was opened
                if _carries(pid, token):
                    descriptors[pid] = descriptor
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        return [pid for pid, descriptor in descriptors.items() if not _has_ended(descriptor, deadline)]


def _is_tracker(pid: int) -> bool:
    # `multiprocessing` notes an engine's files there. It ends by itself once all who use it have ended, and removes
    # what they left. It alone knows the files of processes that have ended before.
    try:
        return TRACKER in (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return False


def _wait_for_end(pids: Iterable[int], *, deadline: float) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                _has_ended(descriptor, deadline)
            finally:
                os.close(descriptor)


def _has_ended(descriptor: int, deadline: float) -> bool:
    # a zombie has ended, and released its memory and files; one in between has neither an environment nor an end
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _remove_when_unheld(paths: Iterable[Path], *, deadline: float) -> list[Path]:
    """Removes the files of an engine once no process holds them; those that another process holds stay."""
    # a process that was ending by itself has no environment any more and may hold its files for a moment
    candidates = {path: identity for path in paths if _is_an_engines(path) and (identity := _identity(path))}
    removed: list[Path] = []
    while candidates:
        held = {identity for pid in _pids() for identity in _held_by(pid)}
        for path in [path for path, identity in candidates.items() if identity not in held]:
            if _identity(path) == candidates.pop(path):
                path.unlink(missing_ok=True)
                removed.append(path)
        if time.monotonic() > deadline:
            break
        if candidates:
            time.sleep(POLL_S)
    return sorted(removed)


def _is_an_engines(path: Path) -> bool:
    return path.parent == SHARED_MEMORY and OF_AN_ENGINE.match(path.name) is not None


def _shared_files() -> Iterator[Path]:
    for folder, _, names in os.walk(SHARED_MEMORY):
        yield from (Path(folder) / name for name in names)


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file of this user that is no link; None otherwise."""
    with contextlib.suppress(OSError):
        status = path.lstat()
        if status.st_uid == os.getuid() and not path.is_symlink():
            return status.st_dev, status.st_ino
    return None


def _held_by(pid: int) -> set[tuple[int, int]]:
    """Device and inode of every file that a process maps or holds open."""
    held: set[tuple[int, int]] = set()
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / "maps").read_text().splitlines():
            # address, permissions, offset, device, inode, path
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and fields[5].startswith(f"{SHARED_MEMORY}/"):
                major, minor = (int(part, 16) for part in fields[3].split(":"))
                held.add((os.makedev(major, minor), int(fields[4])))
    with contextlib.suppress(OSError):
        for entry in os.scandir(PROC / str(pid) / "fd"):
            with contextlib.suppress(OSError):
                if os.readlink(entry.path).startswith(f"{SHARED_MEMORY}/"):
                    status = os.stat(entry.path)
                    held.add((status.st_dev, status.st_ino))
    return held
