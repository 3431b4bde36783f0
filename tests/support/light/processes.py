"""The child processes of a light engine: a core, and the worker that it owns, as in vLLM.

The core passes calls to its worker, holds generations back while the engine is paused, and ends with its worker.
The worker has the weights, a few numbers. It answers one call after the other, heartbeats between them. Both map a
`psm_*` segment of /dev/shm. This module imports neither Ray nor numpy: spawned processes import it.

Files in the scene's folder direct the engines from outside: `phases.jsonl` gets a line when a process is born and
when a call begins; a file `<incarnation>.<order>` is an order for one engine, which its worker carries out once.
"""

import contextlib
import hashlib
import json
import mmap
import os
import signal
import struct
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import blake3

from common.runtime.parent_watch import end_with_parent

KILLER = 666
"""A token that kills the worker to which it is given."""
LENGTH = 3
"""Tokens of a completion."""
SEGMENT_BYTES = 2**20
NO_ROOM_BYTES = 2**50
"""More than any /dev/shm has: the kernel refuses it at once."""
SHAPE = (2, 2)
BORN, CAUSE = -1, -2
"""Numbers of messages that answer no call: the worker's process id, and a cause of death."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LightSpec:
    """The constants of an engine."""

    incarnation: str
    model_path: str
    """JSON: numbers by the names of weights."""
    folder: str
    pace_s: float
    """Seconds of each call."""


def to_float32(value: float) -> float:
    """The nearest float32."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def number_of(text: str) -> float:
    """In [0.5, 1.5), always the same."""
    return 0.5 + int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") / 2**32


def tokens_of(seed: int, index: int) -> list[int]:
    """The tokens of one completion: they tell its seed."""
    return [(31 * (seed + index) + t) % 50_000 for t in range(LENGTH)]


def logprobs_of(
    weights: dict[str, float], prompt: Sequence[int], has_media: bool, ids: Sequence[int]
) -> list[float]:
    """Every weight moves every token's log-probability by an amount of its own; a tower's only with media."""
    key = sum(prompt)
    used = {n: to_float32(v) for n, v in weights.items() if has_media or not n.startswith("tower")}
    return [-sum(v * number_of(f"{n}/{t}/{key}") for n, v in used.items()) for t in ids]


def note(spec: LightSpec, phase: str, process: str) -> None:
    """Appends a line to the scene's `phases.jsonl`."""
    line = {"engine": spec.incarnation, "phase": phase, "process": process, "pid": os.getpid(), "time": time.time()}
    with (Path(spec.folder) / "phases.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def has_order(spec: LightSpec, order: str) -> bool:
    """Takes an order for this engine; True once."""
    try:
        (Path(spec.folder) / f"{spec.incarnation}.{order}").unlink()
    except FileNotFoundError:
        return False
    return True


def run_core(pipe: Connection, spec: LightSpec) -> None:
    """The core's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    note(spec, "start", "core")
    try:
        segment = _segment(spec)
    except OSError as error:
        pipe.send((CAUSE, False, f"/dev/shm: {error.strerror}"))
        return
    note(spec, "segment", segment.name)
    context = SpawnContext()
    below, theirs = context.Pipe()
    worker = context.Process(target=run_worker, args=(theirs, spec, segment.name), daemon=True)
    worker.start()
    theirs.close()
    try:
        _forward(pipe, below, worker)
    finally:
        # as in vLLM: a core without its worker is of no use
        worker.kill()
        segment.close()
        segment.unlink()


def _segment(spec: LightSpec) -> SharedMemory:
    segment = SharedMemory(create=True, size=SEGMENT_BYTES)
    try:
        size = NO_ROOM_BYTES if has_order(spec, "full-shm") else SEGMENT_BYTES
        os.posix_fallocate(segment._fd, 0, size)  # pyright: ignore
    except OSError:
        segment.close()
        segment.unlink()
        raise
    return segment


def _forward(above: Connection, below: Connection, worker: BaseProcess) -> None:
    """Passes calls and answers on; returns when the worker has ended."""
    held: deque[Any] = deque()
    is_paused = False
    while worker.is_alive():
        # a worker that is killed breaks its pipe, which is readable first
        with contextlib.suppress(EOFError, ConnectionError):
            for pipe in wait([above, below, worker.sentinel]):
                if pipe is below:
                    above.send(below.recv())
                elif pipe is above:
                    call = above.recv()
                    is_paused = {"pause": True, "resume": False}.get(call[1], is_paused)
                    if call[1] == "generate" and is_paused:
                        held.append(call)
                        continue
                    below.send(call)
                    while held and not is_paused:
                        below.send(held.popleft())
    above.send((CAUSE, False, f"worker-0 was killed by {signal_of(worker)}"))


def signal_of(process: BaseProcess) -> str:
    """The name of the signal that ended a child, or its exit code."""
    process.join()
    code = process.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def run_worker(pipe: Connection, spec: LightSpec, segment: str) -> None:
    """The worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    note(spec, "start", "worker")
    worker = Worker(spec, SharedMemory(name=segment))
    time.sleep(spec.pace_s)
    pipe.send((BORN, True, os.getpid()))
    while True:
        number, method, arguments = pipe.recv()
        try:
            answer = (number, True, worker.call(method, arguments))
        except Exception as error:  # noqa: BLE001 - it belongs to the caller
            answer = (number, False, str(error))
        pipe.send(answer)


class Worker:
    """Weights, and the calls that use them."""

    def __init__(self, spec: LightSpec, memory: SharedMemory) -> None:
        self._spec, self._memory = spec, memory
        self._checkpoint: dict[str, float] = json.loads(Path(spec.model_path).read_text())
        self._weights = dict(self._checkpoint)
        self._received: list[tuple[str, str]] = []
        """Name and digest of each tensor of the open update."""
        self._mapped: dict[str, mmap.mmap] = {}

    def call(self, method: str, arguments: dict[str, Any]) -> Any:
        """One call; takes its pace."""
        if method == "heartbeat":
            return os.getpid()
        note(self._spec, method, "worker")
        if has_order(self._spec, f"hang-{method}"):
            time.sleep(3600)
        time.sleep(self._spec.pace_s)
        return getattr(self, method)(**arguments)

    def generate(self, prompt: list[int], has_media: bool, seed: int, group_size: int) -> list[Any]:
        """Tokens and log-probabilities of each completion."""
        if KILLER in prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        completions = [tokens_of(seed, index) for index in range(group_size)]
        return [(ids, logprobs_of(self._weights, prompt, has_media, ids)) for ids in completions]

    def pause(self) -> None:
        """The core holds generations back."""

    def resume(self) -> None:
        """The core lets them go."""

    def start_update(self) -> None:
        """Opens an update."""
        self._received.clear()

    def receive(self, path: str, bucket: int) -> None:
        """Loads the tensors of a segment, each of which is one number."""
        data = self._map(path)
        length = int.from_bytes(data[0:8], "little")
        for name, entry in json.loads(data[8 : 8 + length]).items():
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            tensor = data[first:last]
            if not has_order(self._spec, "drop-tensor"):
                self._weights[name] = struct.unpack_from("<f", tensor)[0]
                self._received.append((name, blake3.blake3(tensor).hexdigest(length=8)))

    def receive_perturbed(self, names: list[str], scale: float, nonce: int) -> None:
        """Loads the checkpoint's own tensors with noise."""
        for name in names:
            number = to_float32(self._checkpoint[name] * (1 + scale * number_of(f"{name}/{nonce}")))
            self._weights[name] = number
            tensor = struct.pack("<4f", *[number] * 4)
            self._received.append((name, blake3.blake3(tensor).hexdigest(length=8)))

    def _map(self, path: str) -> mmap.mmap:
        if path not in self._mapped:
            with Path(path).open("r+b") as file:
                self._mapped[path] = mmap.mmap(file.fileno(), 0)
        return self._mapped[path]

    def finish_update(self) -> list[tuple[str, str]]:
        """What was received; an order makes it a lie."""
        if has_order(self._spec, "wrong-receipt"):
            name, _ = self._received[0]
            return [(name, "0" * 16), *self._received[1:]]
        return list(self._received)

    def weights(self) -> dict[str, float]:
        """The numbers themselves."""
        return self._weights
