"""What this machine has, told without torch, Ray or a driver's library: for the plan that a dry run prints."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.placement import PlanLine

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What a plan can draw on."""

    num_cpus: int
    memory_bytes: int
    """Of the machine, or of the container where that is less."""
    num_gpus: int
    """NVIDIA devices."""

    def __str__(self) -> str:
        return f"{self.num_cpus} CPUs, {self.memory_bytes / 2**30:.1f} GiB of memory, {self.num_gpus} GPUs"


def this_machine() -> Machine:
    """Where the command runs."""
    devices = [name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)]
    return Machine(num_cpus=os.cpu_count() or 1, memory_bytes=_memory_bytes(), num_gpus=len(devices))


def shortages(plan: Sequence[PlanLine], machine: Machine) -> Iterator[str]:
    """A line for each resource that a plan asks more of than a machine has."""
    for kind, key, has in (("CPUs", "num_cpus", machine.num_cpus), ("GPUs", "num_gpus", machine.num_gpus)):
        asked = sum(line.count * getattr(line, key) for line in plan)
        if asked > has + 1e-9:
            yield (
                f"the plan asks for {asked:g} {kind} and this machine has {has}; start it where a node has them, "
                f"or lower *.{key} or counts"
            )


def _memory_bytes() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):
        return total  # no container, or one without a limit
