"""Faults in the engines of a live run, from another process.

python -m tests.support.faults --run runs/demo --seed 1 --count 5
python -m tests.support.faults --run runs/demo --seed 2 --count 3 --how stop --targets core,worker --phases publish

Each fault waits for a random moment within a random phase of the run, sends SIGKILL or SIGSTOP to one process of a
READY engine, and then waits until the engine's slot is READY again and the run has made further completions. The
phases and the process ids are read from `events.jsonl`. A JSON line per fault tells what was done and how many
seconds later the engine was condemned, its slot READY, and the next completions made.

Exit code 0: all faults were done. 1: the run ended before, or did not recover. 2: a mistake in the arguments.
"""

import argparse
import contextlib
import fcntl
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from common.errors import OmniError, UserError
from common.runtime.command import CommandParser, command
from common.runtime.engine_processes import ENGINE_VARIABLE

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
TARGETS = ("actor", "core", "worker")
PHASES = ("rollout", "learn", "publish")
"""Those of every GRPO run."""
MAKES_COMPLETIONS = ("rollout", "generate")
POLL_S = 0.01
UNKNOWN_S = 1.0
"""Length of a phase that has not ended yet."""
CLOCK_S = 1.0
"""Seconds by which a process may seem to be younger than the line that names it."""


class RecoveryError(OmniError):
    """The run ended, or an engine did not come back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault and its consequences; seconds count from the signal."""

    fault: int
    how: str
    target: str
    engine: str
    pid: int
    phase: str
    moment_s: float
    """Since the phase began."""
    condemned_s: float
    reason: str
    ready: str
    """The incarnation that took the engine's place."""
    ready_s: float
    completions_s: float


@dataclass(kw_only=True, slots=True)
class Engine:
    """An incarnation, as the run described it last."""

    state: str = ""
    since_s: float = 0.0
    reason: str = ""
    processes: dict[str, psutil.Process] = field(default_factory=dict[str, psutil.Process])
    """By name; only those of this machine."""


class RunEvents:
    """The state of a run, from its `events.jsonl`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / "events.jsonl"
        self._num_bytes = 0
        self.engines: dict[str, Engine] = {}
        self.began_s: dict[str, float] = {}
        """Of the phases that are open."""
        self.lengths_s: dict[str, list[float]] = {}
        self.spans_s: list[tuple[str, float, float]] = []
        """Phases that have ended, with their begin and end."""

    def require_live(self) -> None:
        """Raises `UserError` unless a run holds the folder."""
        if not self._folder.is_dir():
            raise UserError(f"--run must be the folder of a run, got {self._folder}; see run.root and run.name")
        if not self.is_live():
            raise UserError(f"--run must be the folder of a live run, got {self._folder}; start the run first")

    def is_live(self) -> bool:
        """True while a process holds the run's lock."""
        try:
            with (self._folder / ".lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def read(self) -> None:
        """Takes in the lines that were written since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            if self._num_bytes > os.fstat(file.fileno()).st_size:
                raise RecoveryError(f"{self._path} must grow, and was replaced; another attempt has begun")
            file.seek(self._num_bytes)
            whole = file.read().rpartition(b"\n")[0]
        self._num_bytes += len(whole) + bool(whole)
        for line in whole.splitlines():
            self._note(json.loads(line))

    def _note(self, line: dict[str, Any]) -> None:
        if line["event"] == "begin":
            self.began_s[line["phase"]] = line["time"]
        elif line["event"] == "end":
            began_s = self.began_s.pop(line["phase"], line["time"])
            self.lengths_s.setdefault(line["phase"], []).append(line["time"] - began_s)
            self.spans_s.append((line["phase"], began_s, line["time"]))
        elif line["event"] == "engine":
            engine = self.engines.setdefault(line["engine"], Engine())
            engine.state, engine.since_s, engine.reason = line["state"], line["time"], line["reason"]
            if line["pids"] and not engine.processes:
                engine.processes = _processes(line["engine"], line["pids"], before_s=line["time"])

    def in_state(self, state: str) -> list[str]:
        """Incarnations in a state."""
        return [name for name, engine in self.engines.items() if engine.state == state]

    def successor(self, name: str) -> str | None:
        """The READY incarnation that has taken the place of another."""
        slot, _, number = name.rpartition(".")
        ready = (other.rpartition(".") for other in self.in_state("ready"))
        return next((f"{s}.{n}" for s, _, n in ready if s == slot and int(n) > int(number)), None)

    def completions_s(self, since_s: float) -> float | None:
        """The end of the first phase that made completions and began after a time."""
        return next(
            (end for phase, begin, end in self.spans_s if phase in MAKES_COMPLETIONS and begin > since_s), None
        )


def _processes(engine: str, pids: dict[str, int], *, before_s: float) -> dict[str, psutil.Process]:
    """An engine's processes; those that are gone or of another machine are left out.

    An id may be another process's by now, here or there. All of an engine carry its token.
    """
    processes: dict[str, psutil.Process] = {}
    for name, pid in pids.items():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            is_engine = process.environ().get(ENGINE_VARIABLE, "").endswith(f"/{engine}")
            if is_engine and process.create_time() <= before_s + CLOCK_S:
                processes[name] = process
    return processes


class Saboteur:
    """Breaks the engines of one run, one after the other."""

    def __init__(
        self,
        events: RunEvents,
        *,
        seed: int,
        how: Sequence[str],
        targets: Sequence[str],
        phases: Sequence[str],
        deadline_s: float,
    ) -> None:
        self._events, self._random, self._deadline_s = events, random.Random(seed), deadline_s
        self._how, self._targets, self._phases = how, targets, phases

    def strike(self, number: int) -> Fault:
        """One fault, up to the next completions after it."""
        how, target = self._random.choice(self._how), self._random.choice(self._targets)
        phase, share = self._random.choice(self._phases), self._random.random()
        name, pid, struck_s, began_s = self._break(SIGNALS[how], target, phase, share)
        condemned = self._until(
            lambda: self._condemned(name), f"{name} must be condemned after {how} of its {target}"
        )
        successor = self._until(lambda: self._events.successor(name), f"the slot of {name} must be READY again")
        ready_s = self._events.engines[successor].since_s
        completions_s = self._until(
            lambda: self._events.completions_s(ready_s), f"the run must go on after {successor} is READY"
        )
        return Fault(
            fault=number,
            how=how,
            target=target,
            engine=name,
            pid=pid,
            phase=phase,
            moment_s=round(struck_s - began_s, 3),
            condemned_s=round(condemned.since_s - struck_s, 3),
            reason=condemned.reason,
            ready=successor,
            ready_s=round(ready_s - struck_s, 3),
            completions_s=round(completions_s - struck_s, 3),
        )

    def _condemned(self, name: str) -> Engine | None:
        engine = self._events.engines[name]
        return engine if engine.reason else None

    def _break(self, signum: int, target: str, phase: str, share: float) -> tuple[str, int, float, float]:
        """Waits for a phase and the moment in it; tries again where the phase or the engine ends before.

        Returns the incarnation, the process id, the time, and the time at which the phase began.
        """
        before_s = 0.0
        while True:
            began_s = self._until(lambda after=before_s: self._begun(phase, after_s=after), f"{phase} must begin")
            before_s = began_s
            length_s = median(self._events.lengths_s.get(phase, [UNKNOWN_S]))
            time.sleep(max(0.0, began_s + share * length_s - time.time()))
            self._events.read()
            victims = self._victims(target)
            if self._events.began_s.get(phase) == began_s and victims:
                name, process = self._random.choice(victims)
                if _send(process, signum):
                    return name, process.pid, time.time(), began_s

    def _begun(self, phase: str, *, after_s: float) -> float | None:
        began_s = self._events.began_s.get(phase)
        return began_s if began_s is not None and began_s > after_s else None

    def _victims(self, target: str) -> list[tuple[str, psutil.Process]]:
        """Processes of READY engines, with their incarnations."""
        return [
            (name, process)
            for name in sorted(self._events.in_state("ready"))
            for of, process in sorted(self._events.engines[name].processes.items())
            if of == target or of.startswith(f"{target}-")
        ]

    def _until(self, holds: Any, rule: str) -> Any:
        """The first true answer of a function of the events."""
        end_s = time.monotonic() + self._deadline_s
        while True:
            is_live = self._events.is_live()
            self._events.read()
            if answer := holds():
                return answer
            if not is_live:
                raise RecoveryError(f"{rule}, and the run ended before")
            if time.monotonic() > end_s:
                raise RecoveryError(f"{rule} within {self._deadline_s:g} s, and did not")
            time.sleep(POLL_S)


def _send(process: psutil.Process, signum: int) -> bool:
    """Signals this very process; False if it has ended, whoever has its id now."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        # the handle is of one process for good: what is checked now is what gets the signal
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        signal.pidfd_send_signal(handle, signum)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
    finally:
        os.close(handle)
    return True


def _names(option: str, text: str, allowed: Sequence[str] | None = None) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = [name for name in names if allowed is not None and name not in allowed]
    if wrong or not names:
        rule = f"one or more of {','.join(allowed)}" if allowed else "one or more names"
        raise UserError(f"{option} must be {rule}, got {','.join(wrong) or text!r}; separate them by commas")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m tests.support.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the folder of a live run")
    parser.add_argument("--seed", type=int, default=0, help="of phases, moments, targets and engines")
    parser.add_argument("--count", type=int, default=1, help="number of faults")
    parser.add_argument("--how", default="kill,stop", help="kill (SIGKILL), stop (SIGSTOP)")
    parser.add_argument("--targets", default=",".join(TARGETS), help="the processes: actor, core, worker")
    parser.add_argument("--phases", default=",".join(PHASES), help="phases of events.jsonl")
    parser.add_argument("--deadline", type=float, default=900.0, help="seconds of each wait for the run")
    return parser


@command
def main(arguments: Sequence[str]) -> int:
    """The command; a line on stdout for each fault."""
    options = _parser().parse_args(arguments)
    if options.count < 1:
        raise UserError(f"--count must be >= 1, got {options.count}; it is the number of faults")
    events = RunEvents(options.run)
    saboteur = Saboteur(
        events,
        seed=options.seed,
        how=_names("--how", options.how, tuple(SIGNALS)),
        targets=_names("--targets", options.targets, TARGETS),
        phases=_names("--phases", options.phases),
        deadline_s=options.deadline,
    )
    events.require_live()
    events.read()
    for number in range(1, options.count + 1):
        sys.stdout.write(json.dumps(asdict(saboteur.strike(number))) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
