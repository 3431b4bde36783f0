"""Processes of an engine are found and killed, stopped or not, and only what they alone held is removed."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest

import common.runtime.engine_processes as module
from common.errors import EngineError
from common.runtime.engine_processes import ENGINE_VARIABLE, held_segments, processes_of, reap
from common.shared_memory import Segment, segment_path

HOLDER = """
import mmap, os, subprocess, sys, time
kind, path = sys.argv[1:3]
descriptor = os.open(path, os.O_RDWR)
if kind == "maps":
    memory = mmap.mmap(descriptor, 0)
    # its own, and the one that the mapping keeps
    os.closerange(descriptor, 100)
child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL) if len(sys.argv) > 3 else None
print("ready", child.pid if child else 0, flush=True)
time.sleep(600)
"""


class Processes:
    """Processes that hold a file in shared memory; all are killed in the end."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []
        self.children: list[int] = []

    def start(self, kind: str, path: Path, *, token: str | None, has_child: bool = False) -> int:
        """A process that `maps` a file or has it `open`."""
        arguments = [sys.executable, "-S", "-c", HOLDER, kind, str(path), *(["child"] if has_child else [])]
        env = {k: v for k, v in os.environ.items() if k != ENGINE_VARIABLE}
        env |= {} if token is None else {ENGINE_VARIABLE: token}
        process = subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, text=True)
        self.started.append(process)
        assert process.stdout is not None
        word, child = process.stdout.readline().split()
        assert word == "ready"
        if has_child:
            self.children.append(int(child))
        return process.pid

    def end(self, pid: int) -> None:
        """Kills one of them, and waits for it."""
        process = next(p for p in self.started if p.pid == pid)
        process.kill()
        process.communicate()

    def end_all(self) -> None:
        """Those that a test has not ended."""
        for process in self.started:
            if process.returncode is None:
                self.end(process.pid)
        for pid in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def processes() -> Iterator[Processes]:
    """None yet."""
    made = Processes()
    yield made
    made.end_all()


@pytest.fixture
def token() -> str:
    """Of no other test."""
    return f"test-{secrets.token_hex(8)}-0.1"


@pytest.fixture
def psm() -> Iterator[Path]:
    """A file of `multiprocessing` that no process holds."""
    memory = SharedMemory(create=True, size=4096)
    path = Path("/dev/shm") / memory.name.lstrip("/")
    memory.close()
    # also tells the resource tracker, which would warn of it at the end
    yield path
    with contextlib.suppress(FileNotFoundError):
        memory.unlink()
    path.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """No zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_processes_of_a_token_are_found_with_their_children(
    processes: Processes, token: str, psm: Path
) -> None:
    parent = processes.start("maps", psm, token=token, has_child=True)
    # a longer token, and none
    strangers = [processes.start("maps", psm, token=f"{token}0"), processes.start("maps", psm, token=None)]
    os.kill(parent, signal.SIGSTOP)
    assert processes_of(token) == sorted([parent, *processes.children])
    assert not set(strangers) & set(processes_of(token))
    assert processes_of(token[:-1]) == []


def test_an_empty_token_is_refused() -> None:
    with pytest.raises(EngineError, match="token of an engine must have characters"):
        reap("")


@pytest.mark.parametrize("kind", ["maps", "open"])
def test_files_in_shared_memory_that_processes_hold_are_named(
    processes: Processes, token: str, psm: Path, kind: str
) -> None:
    segment = Segment(segment_path("test", 0), num_bytes=4096)
    holders = [processes.start(kind, psm, token=token), processes.start(kind, segment.path, token=token)]
    assert held_segments(holders) == sorted([psm, segment.path])
    assert held_segments(holders[:1]) == [psm]
    segment.close(unlink=True)
    # a file without a name is nothing to remove
    assert held_segments(holders) == [psm]


def test_stopped_processes_are_killed_and_their_file_is_removed(
    processes: Processes, token: str, psm: Path
) -> None:
    parent = processes.start("maps", psm, token=token, has_child=True)
    pids = [parent, *processes.children]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    reaped = reap(token)
    assert (reaped.pids, reaped.files) == (tuple(sorted(pids)), (psm,))
    assert not any(map(is_running, pids))
    assert not psm.exists()
    # its parent, this test, has not waited for it: a zombie is nothing left
    assert psutil.Process(parent).status() == psutil.STATUS_ZOMBIE
    again = reap(token, [psm])
    assert (again.pids, again.files) == ((), ())


@pytest.mark.parametrize("kind", ["maps", "open"])
def test_a_file_that_another_process_holds_is_never_removed(
    processes: Processes, token: str, psm: Path, kind: str
) -> None:
    processes.start("maps", psm, token=token)
    other = processes.start(kind, psm, token=f"{token}0")
    assert reap(token, deadline_s=0.5).files == ()
    assert psm.exists()
    assert is_running(other)
    processes.end(other)
    assert reap(token, [psm]).files == (psm,)


def test_files_of_processes_that_have_ended_are_removed_when_they_are_named(token: str, psm: Path) -> None:
    assert reap(token).files == ()
    assert psm.exists()
    assert reap(token, [psm]).files == (psm,)


def test_only_files_of_multiprocessing_and_vllm_are_removed(
    processes: Processes, token: str, tmp_path: Path
) -> None:
    segment = Segment(segment_path("test", 0), num_bytes=4096)
    notes = Path("/dev/shm") / f"notes-{secrets.token_hex(8)}"
    elsewhere = tmp_path / "psm_0123abcd"
    link = Path("/dev/shm") / f"psm_{secrets.token_hex(8)}"
    try:
        for path in (notes, elsewhere):
            path.write_bytes(bytes(4096))
        link.symlink_to(notes)
        for path in (segment.path, notes, elsewhere):
            processes.start("maps", path, token=token)
        reaped = reap(token, [segment.path, notes, elsewhere, link])
        assert (len(reaped.pids), reaped.files) == (3, ())
        assert all(path.exists() for path in (segment.path, notes, elsewhere, link))
    finally:
        segment.close(unlink=True)
        link.unlink()
        notes.unlink()


def test_a_process_that_starts_meanwhile_is_killed_too(
    processes: Processes, token: str, psm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[int] = []
    kill = module._kill  # pyright: ignore[reportPrivateUsage]

    def kill_late(pids: list[int], token: str, *, deadline: float) -> list[int]:
        if not late:
            late.append(processes.start("maps", psm, token=token))
        return kill(pids, token, deadline=deadline)

    monkeypatch.setattr(module, "_kill", kill_late)
    early = processes.start("open", psm, token=token)
    reaped = reap(token)
    assert set(reaped.pids) == {early, *late}
    assert not any(map(is_running, reaped.pids))
    assert reaped.files == (psm,)


def test_processes_that_stay_are_named_and_their_files_kept(
    processes: Processes, token: str, psm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = processes.start("maps", psm, token=token)
    monkeypatch.setattr(module.signal, "pidfd_send_signal", lambda descriptor, number: None)
    with pytest.raises(EngineError, match=rf"must end within 0.2 s of SIGKILL, got \[{pid}\] still there"):
        reap(token, deadline_s=0.2)
    assert psm.exists()


def test_a_number_that_became_another_process_is_not_killed(processes: Processes, token: str, psm: Path) -> None:
    other = processes.start("maps", psm, token=None)
    # as if the process of this number had ended after it was found
    assert module._kill([other], token, deadline=0.0) == []  # pyright: ignore[reportPrivateUsage]
    assert is_running(other)
