"""What the fleet of engines costs: control plane, engine through the pool, publish, recovery.

    python -m tests.benchmarks.fleet [--check] [--minutes M] [--only PART ...]

Prints JSON. `control_plane` is the driver's CPU per group with engines that answer at once, at 1 to 256 engines.
`echo_actors` is the rate through eight Ray actors that answer at once. `pool_over_direct` is the rate of completion
tokens of one real engine through pool and actor over that of its `AsyncLLM` called in the actor's own process;
`stall_over_copy` is the time for which a publish pauses engines over that of a copy of the same bytes between two
warm arrays; `kill_to_ready_over_limit` is the time from the kill of an engine's core to READY over its limit;
`models_per_publish` counts the models that cross to a node with two engines. Pairs are alternated in one run.
`--check` exits 1 where a target is missed.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from deploy.wiring import start_ray
from tests.benchmarks.fleet import between_nodes, control_plane, generation, publishing, recovery
from tests.benchmarks.part import Part, boxed, parser_of

MINUTES = 25.0
TARGET_CPU_MS_PER_GROUP = 0.3
TARGET_LARGEST_OVER_SMALLEST = 2.0
"""Flat: of 1 and 256 engines. What is left is the memory of more requests in flight."""
TARGET_ECHO_GROUPS_PER_S = 400.0
PARTS: dict[str, Callable[[Part], Any]] = {
    "control_plane": control_plane.in_process,
    "echo_actors": control_plane.echo_actors,
    "generation": lambda part: {name: generation.measure(name, part) for name in generation.SIZES},
    "publish": publishing.measure,
    "recovery": recovery.measure,
    "between_nodes": between_nodes.measure,
}


def measure(names: list[str], part: Part) -> dict[str, Any]:
    """The parts of these names, in order."""
    result: dict[str, Any] = {"load_average": [os.getloadavg()[0]]}
    for name, work in PARTS.items():
        if name in names:
            if name not in ("control_plane", "between_nodes"):
                start_ray()
            result[name] = work(part)
            result["load_average"].append(os.getloadavg()[0])
    return result


def misses(result: dict[str, Any]) -> Iterator[str]:
    """The figures that miss their targets."""
    if found := result.get("control_plane"):
        yield from _above("CPU ms per group", found["cpu_ms_per_group_max"], TARGET_CPU_MS_PER_GROUP)
        ratio = found["largest_over_smallest"]
        yield from _above("CPU per group, largest over smallest", ratio, TARGET_LARGEST_OVER_SMALLEST)
    if found := result.get("echo_actors"):
        yield from _below("groups per second through echo actors", found["groups_per_s"], TARGET_ECHO_GROUPS_PER_S)
    for name, found in result.get("generation", {}).items():
        yield from _below(f"pool over direct, {name}", found["pool_over_direct"], found["target"])
    for name, found in result.get("publish", {}).items():
        yield from _above(f"stall over copy, {name}", found["stall_over_copy"], found["target"])
    if found := result.get("between_nodes"):
        yield from _above("models that cross to a node in a publish", found["models_per_publish"], found["target"])
    if found := result.get("recovery"):
        yield from _above("kill to READY over its limit", found["kill_to_ready_over_limit"], 1.0)


def _above(name: str, value: float, target: float) -> Iterator[str]:
    if value > target:
        yield f"{name}: {value:.3f} > {target}"


def _below(name: str, value: float, target: float) -> Iterator[str]:
    if value < target:
        yield f"{name}: {value:.3f} < {target}"


def main() -> int:
    """Measures, prints, and checks when asked to."""
    parser = parser_of(__doc__, minutes=MINUTES)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts (default: all)")
    arguments = parser.parse_args()
    with boxed("fleet", minutes=arguments.minutes) as part:
        result = measure(arguments.only, part)
    result["targets"] = {
        "cpu_ms_per_group_max": TARGET_CPU_MS_PER_GROUP,
        "largest_over_smallest": TARGET_LARGEST_OVER_SMALLEST,
        "groups_per_s": TARGET_ECHO_GROUPS_PER_S,
    }
    result["misses"] = list(misses(result))
    print(json.dumps(result, indent=1))
    return 1 if arguments.check and result["misses"] else 0


if __name__ == "__main__":
    sys.exit(main())
