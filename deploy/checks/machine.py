"""The resources of a machine, read without torch, Ray or a driver library, for the plan of a dry run."""

import contextlib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from common.errors import ConfigError

CLUSTER_KEYS = ("cpus", "gpus", "gpu_memory_gib", "memory_gib")
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
CPUS = Path("/sys/devices/system/cpu")
FREE = ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable")
"""Fields of `meminfo` that vLLM counts as free memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Resources that a plan can use."""

    num_cpus: int
    memory_bytes: int | None
    """The limit of the machine or of its container, the lower one; None if unknown."""
    num_gpus: int
    """NVIDIA devices."""
    gpu_memory_bytes: int | None = None
    """Memory of the smallest device; None if unknown."""

    @property
    def resources(self) -> dict[str, float]:
        """Resources by Ray's names."""
        return {"CPU": self.num_cpus, "GPU": self.num_gpus}

    def __str__(self) -> str:
        of_each = f" of {self.gpu_memory_bytes / 2**30:.0f} GiB" if self.gpu_memory_bytes and self.num_gpus else ""
        memory = "" if self.memory_bytes is None else f"{self.memory_bytes / 2**30:.1f} GiB of memory, "
        return f"{self.num_cpus} CPUs, {memory}{self.num_gpus} GPUs{of_each}"


def this_machine() -> Machine:
    devices = [name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)]
    return Machine(
        num_cpus=os.cpu_count() or 1,
        memory_bytes=_memory_bytes(),
        num_gpus=len(devices),
        gpu_memory_bytes=_gpu_memory_bytes() if devices else None,
    )


def parse_cluster(text: str) -> Machine:
    """The resources in `--cluster cpus=64,gpus=8`, summed over all nodes; raises `ConfigError`.

    `gpu_memory_gib` is per GPU, 80 by default; `memory_gib` is the sum over all hosts, unchecked by default.
    """
    resources: dict[str, float] = {}
    for part in text.split(","):
        key, _, value = part.strip().partition("=")
        if key not in CLUSTER_KEYS or not re.fullmatch(r"\d+(\.\d+)?", value):
            raise ConfigError(
                f"--cluster must look like cpus=64,gpus=8, got {part.strip()!r}; the keys are "
                f"{', '.join(CLUSTER_KEYS)}"
            )
        resources[key] = float(value)
    if "cpus" not in resources:
        raise ConfigError(f"--cluster must have a number of CPUs, got {text!r}; add cpus=64")
    return Machine(
        num_cpus=int(resources["cpus"]),
        memory_bytes=int(resources["memory_gib"] * 2**30) if "memory_gib" in resources else None,
        num_gpus=int(resources.get("gpus", 0)),
        gpu_memory_bytes=int(resources.get("gpu_memory_gib", 80.0) * 2**30),
    )


def _memory_bytes() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):
        return total  # no container, or one without a limit


def free_memory_bytes() -> int:
    """Free memory for engines on this machine's CPUs, at most the amount that vLLM's check at its start allows.

    vLLM looks at one memory node, that of the first CPU, and at the container's limit.
    """
    limits = [psutil.virtual_memory().available]
    for node in (CPUS / f"cpu{min(os.sched_getaffinity(0))}").glob("node*/meminfo"):
        kib = dict(re.findall(r"(\S+): +(\d+) kB", node.read_text()))
        limits.append(sum(int(kib[key]) for key in FREE) * 1024)
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        limits.append(int(CGROUP_LIMIT.read_text()) - int(CGROUP_LIMIT.with_name("memory.current").read_text()))
    return min(limits)


def _gpu_memory_bytes() -> int | None:
    """Memory of the smallest GPU, from nvidia-smi; None without it."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        return min(int(line) for line in output.split()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
