"""Peak memory."""

import os

import pytest

import common.runtime.peak_memory
from common.runtime.peak_memory import MemorySampler


def test_memory_that_is_taken_is_seen_and_the_peak_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    # other people's Ray and shared memory on this machine come and go
    monkeypatch.setattr(common.runtime.peak_memory, "_run_processes", lambda _: {os.getpid()})
    monkeypatch.setattr(common.runtime.peak_memory, "_shm_bytes", lambda: 0)
    with MemorySampler(interval_s=60.0) as memory:
        before = memory.sample()
        taken = bytearray(os.urandom(1024)) * (64 * 1024)
        during = memory.sample()
        assert len(taken) == 2**26
        del taken
    assert before > 2**24
    assert during - before > 2**25
    assert memory.peak_bytes >= during


def test_a_process_that_is_gone_weighs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common.runtime.peak_memory, "_run_processes", lambda _: {2**30})
    monkeypatch.setattr(common.runtime.peak_memory, "_shm_bytes", lambda: 0)
    assert MemorySampler().sample() == 0


def test_this_process_is_counted() -> None:
    assert os.getpid() in common.runtime.peak_memory._run_processes("")  # pyright: ignore[reportPrivateUsage]
