"""What only a GPU can show, in order of worth, within a time box; figures go to files as soon as they are there.

    python -m tests.gpu.check --out DIR [--only NAME ...] [--minutes 8] [--device cuda|cpu]

Each section is a process of its own: one that fails or passes its time says why in its file, and the next one
runs. On a CPU every section runs with tiny sizes, as a rehearsal. Needs no Ray and no vLLM. Exits 1 where a section
failed.
"""

import argparse
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SHM = Path("/dev/shm")
MODEL_BYTES = 24 * 2**30
"""Room that the released shape and what is published of it need in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A section before it runs."""

    module: str
    function: str
    minutes: float
    """Its time box."""
    arguments: tuple[str, ...] = ()


def _variant(name: str, minutes: float) -> Plan:
    return Plan(module="step", function="variant", minutes=minutes, arguments=(name,))


SECTIONS = {
    "agreement": Plan(module="agreement", function="agreement", minutes=1.0),
    "step": _variant("shipped", 2.0),
    "against-plain": Plan(module="baseline", function="against_plain", minutes=2.5),
    "publish": Plan(module="moving", function="publish", minutes=1.0),
    "stall": Plan(module="moving", function="stall", minutes=1.5),
    "logits": Plan(module="logits", function="logits", minutes=0.5),
    "step-full": _variant("full", 1.5),
    "step-no-checkpointing": _variant("no-checkpointing", 1.5),
    "step-full-zero2": _variant("full-zero2", 1.5),
    "step-full-zero2-offload": _variant("full-zero2-offload", 2.5),
}


def build(folder: Path, device: str) -> None:
    """Both models; on a CPU both are the tiny one."""
    from tests.gpu import subjects

    subjects.build_tiny(folder / "tiny")
    if device == "cuda":
        subjects.build_released(folder / "released", device=device)
    else:
        (folder / "released").symlink_to("tiny")


def run(name: str, folder: Path, out: Path, device: str) -> None:
    """One section, in this process."""
    import importlib

    from tests.gpu.section import Section

    plan = SECTIONS[name]
    work: Callable[..., None] = getattr(importlib.import_module(f"tests.gpu.{plan.module}"), plan.function)
    section = Section(name=name, device=device, model_path=folder / "released", tiny_path=folder / "tiny", out=out)
    work(section, *plan.arguments)


class Child:
    """A process that imports what it needs at once, and starts when told; then nobody waits for imports."""

    def __init__(self, work: Callable[[], None], device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_child, args=(theirs, work, device), daemon=True)
        self._process.start()
        theirs.close()

    def finish(self, timeout_s: float) -> str | None:
        """Starts it and waits; returns why it failed, or None."""
        self._ours.send("go")
        try:
            has_ended = self._ours.poll(timeout_s)
            found = self._ours.recv() if has_ended else f"passed its {timeout_s:.0f} s"
        except EOFError:
            self._process.join(10)
            found = f"ended with exit code {self._process.exitcode}"
        self.end()
        return found or None

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def _child(pipe: Connection, work: Callable[[], None], device: str) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": device}
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import tests.gpu.step  # noqa: F401 - what takes seconds to import

    pipe.recv()
    try:
        work()
    except Exception as error:  # noqa: BLE001 - told, whatever it is
        traceback.print_exc()
        pipe.send(f"{type(error).__name__}: {error}"[:2000])
    else:
        pipe.send("")


def check(names: list[str], *, out: Path, minutes: float, device: str) -> dict[str, str]:
    """Runs sections in their order; returns why some failed."""
    end_s = time.monotonic() + 60 * minutes
    has_room = device == "cpu" or os.statvfs(SHM).f_bavail * os.statvfs(SHM).f_frsize > MODEL_BYTES
    failed: dict[str, str] = {}
    with TemporaryDirectory(dir=SHM if has_room else None, prefix="gpu-check-") as scratch:
        folder = Path(scratch)
        works: dict[str, tuple[Callable[[], None], float]] = {"models": (partial(build, folder, device), 2.0)}
        works |= {n: (partial(run, n, folder, out, device), SECTIONS[n].minutes) for n in names}
        queue = list(works)
        children = {queue[0]: Child(works[queue[0]][0], device)}
        for index, name in enumerate(queue):
            if index + 1 < len(queue):
                children[queue[index + 1]] = Child(works[queue[index + 1]][0], device)
            left_s = end_s - time.monotonic()
            start_s = time.monotonic()
            if left_s < 5:
                why: str | None = f"not run: the {minutes:g} minutes were over"
                children[name].end()
            else:
                why = children[name].finish(min(60 * works[name][1], left_s))
            print(f"{name}: {why or 'done'} ({time.monotonic() - start_s:.1f} s)", file=sys.stderr, flush=True)
            if why and name == "models":
                for child in children.values():
                    child.end()
                failed = dict.fromkeys(names, f"not run, for want of models: {why}")
                for missed in names:
                    note_failure(out, missed, failed[missed])
                break
            if why:
                failed[name] = why
                note_failure(out, name, why)
    return failed


def note_failure(out: Path, name: str, why: str) -> None:
    """Beside the figures that a section has saved until then, if it has."""
    import json

    from tests.gpu.section import write_groups

    path = out / f"gpu-{name}.json"
    groups: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    command = f"python -m tests.gpu.check --only {name}"
    groups["failed"] = {"conditions": f"failed: {why}", "command": command, "figures": {}}
    write_groups(out, name, groups)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu-NAME.json")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), metavar="NAME")
    parser.add_argument("--minutes", type=float, default=8.0, help="of all sections (default: 8)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    arguments = parser.parse_args()
    for name in arguments.only:
        (arguments.out / f"gpu-{name}.json").unlink(missing_ok=True)
    failed = check(
        [name for name in SECTIONS if name in arguments.only],
        out=arguments.out,
        minutes=arguments.minutes,
        device=arguments.device,
    )
    print(f"{len(arguments.only) - len(failed)} of {len(arguments.only)} sections done; figures in {arguments.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
