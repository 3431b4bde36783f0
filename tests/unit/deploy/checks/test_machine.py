"""The resources of a machine."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import deploy.checks.machine
from deploy.checks.machine import free_memory_bytes, this_machine


def test_a_machine_is_told_by_what_the_kernel_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy.checks.machine, "CGROUP_LIMIT", tmp_path / "none")
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    devices = ["null", "nvidia0", "nvidia1", "nvidia12", "nvidiactl", "nvidia-uvm", "nvidia-caps"]
    monkeypatch.setattr("os.listdir", lambda folder: devices)
    whole = this_machine()
    assert (whole.num_cpus, whole.num_gpus) == (3, 3)
    (tmp_path / "limit").write_text(f"{2**29}\n")
    monkeypatch.setattr(deploy.checks.machine, "CGROUP_LIMIT", tmp_path / "limit")
    assert f"{this_machine()}" == "3 CPUs, 0.5 GiB of memory, 3 GPUs"
    (tmp_path / "limit").write_text("max\n")
    assert this_machine() == whole
    assert whole.memory_bytes > 2**29


def test_free_memory_is_the_least_of_what_vllm_looks_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, cpus = tmp_path / "memory.max", tmp_path / "cpus"
    monkeypatch.setattr(deploy.checks.machine, "CGROUP_LIMIT", limit)
    monkeypatch.setattr(deploy.checks.machine, "CPUS", cpus)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {5, 2})
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=9 * 2**30))
    assert free_memory_bytes() == 9 * 2**30
    for cpu, free_kib in ((2, 2**20), (5, 1)):
        node = cpus / f"cpu{cpu}" / f"node{cpu}"
        node.mkdir(parents=True)
        values = {"MemTotal": 2**25, "MemFree": free_kib, "Active(anon)": 7, "Active(file)": 2**20}
        values |= {"Inactive(file)": 2**20, "SReclaimable": 2**20}
        (node / "meminfo").write_text(
            "".join(f"Node {cpu} {key}: {value:>14} kB\n" for key, value in values.items())
        )
    # the first CPU's node
    assert free_memory_bytes() == 4 * 2**30
    limit.write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{2**30}\n")
    assert free_memory_bytes() == 4 * 2**30
    limit.write_text(f"{3 * 2**30}\n")
    assert free_memory_bytes() == 2 * 2**30


def test_free_memory_of_this_machine_is_part_of_it() -> None:
    assert 0 < free_memory_bytes() < psutil.virtual_memory().total
