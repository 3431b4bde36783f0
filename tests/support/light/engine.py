"""A light engine: the product's own actor over small processes instead of vLLM."""

import asyncio
import contextlib
import itertools
import os
import sys
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing.context import SpawnContext
from typing import Any

from common.errors import EngineError, EngineStartError
from common.runtime import provenance
from common.runtime.engine_processes import ENGINE_VARIABLE
from common.types import Completion, Failure, Generation, ProcessedPrompt, SamplingSpec, TensorReceipt, VersionSpan
from rollout.actor import EngineActor, control
from rollout.engine_stats import EngineStats
from tests.support.light.processes import BORN, CAUSE, SHAPE, LightSpec, note, run_core, signal_of


class LightActor(EngineActor):
    """An `EngineActor` whose engine is light."""

    def _run_start(self, *, version: int, **settings: Any) -> None:
        spec = LightSpec(incarnation=os.environ[ENGINE_VARIABLE].rpartition("/")[2], **settings)
        note(spec, "start", "actor")
        start: Future[Any] = self._start
        try:
            start.set_result(LightEngine(self._name, spec=spec, version=version))
        except EngineError as error:
            start.set_exception(error)

    async def _processes(self) -> dict[str, int]:
        engine: Any = self._engine
        return engine.processes()

    holdings = control("_engine.holdings")


class LightEngine:
    """`RolloutEngine` over the light processes."""

    def __init__(self, name: str, *, spec: LightSpec, version: int) -> None:
        self.name, self._incarnation = name, spec.incarnation
        self._version, self._num_steps, self._num_running = version, 0, 0
        born: Future[int] = Future()
        self._calls: dict[int, Future[Any]] = {BORN: born}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._cause = ""
        context = SpawnContext()
        self._pipe, theirs = context.Pipe()
        with _light_main():
            self._core = context.Process(target=run_core, args=(theirs, spec))
            self._core.start()
        theirs.close()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self._worker = born.result()
        except EngineError as error:
            raise self.start_error(error) from error

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                number, is_answer, value = self._pipe.recv()
                if number == CAUSE:
                    self._cause = value
                    continue
                self._num_steps += 1
                call = self._calls.pop(number)
                # a caller that was cancelled has left
                if call.set_running_or_notify_cancel():
                    call.set_result(value) if is_answer else call.set_exception(EngineError(value))
        self._cause = self._cause or f"the core was killed by {signal_of(self._core)}"
        with self._lock:
            for call in self._calls.values():
                if call.set_running_or_notify_cancel():
                    call.set_exception(EngineError(self._cause))

    def start_error(self, error: Exception) -> EngineStartError:
        """The error of a start that failed."""
        text = f"engine {self.name} could not start: {self._cause or error}"
        return EngineStartError(text, is_killed="killed by SIG" in text)

    async def _call(self, method: str, **arguments: Any) -> Any:
        if self._cause:
            raise EngineError(self._cause)
        number, call = next(self._numbers), Future[Any]()
        try:
            with self._lock:
                self._calls[number] = call
                self._pipe.send((number, method, arguments))
        except OSError as error:
            raise EngineError(self._cause or "the core has ended") from error
        return await asyncio.wrap_future(call)

    async def warm_up(self, prompts: Sequence[ProcessedPrompt], sampling: SamplingSpec) -> None:
        """A first answer."""
        await self._call("generate", prompt=[1], has_media=False, seed=0, group_size=1)

    async def generate(
        self, prompt: ProcessedPrompt, *, group_size: int, seed: int, deadline_s: float, **options: Any
    ) -> Generation | Failure:
        """A group; each log-probability is that of the weights as they are."""
        version, self._num_running = self._version, self._num_running + group_size
        try:
            completions = await self._call(
                "generate",
                prompt=list(prompt.prompt_token_ids),
                has_media=bool(prompt.placeholders),
                seed=seed,
                group_size=group_size,
            )
        finally:
            self._num_running -= group_size
        return Generation(
            completions=tuple(
                Completion(
                    token_ids=tuple(ids),
                    rollout_logprobs=tuple(logprobs),
                    text=self._incarnation,
                    finish_reason="stop",
                    version_spans=(VersionSpan(version=version, start=0, end=len(ids)),),
                )
                for ids, logprobs in completions
            ),
            submission_version=version,
            engine=self.name,
        )

    async def generate_together(
        self, prompts: Sequence[ProcessedPrompt], *, seeds: Sequence[int], **request: Any
    ) -> list[Generation | Failure]:
        """One group after the other."""
        return [await self.generate(p, seed=seed, **request) for p, seed in zip(prompts, seeds, strict=True)]

    async def pause(self) -> None:
        """Holds generations back."""
        await self._call("pause")

    async def resume(self) -> None:
        """Lets them go."""
        await self._call("resume")

    async def start_update(self) -> None:
        """Opens an update."""
        await self._call("start_update")

    async def receive(self, path: str, bucket: int) -> None:
        """Loads a bucket."""
        await self._call("receive", path=path, bucket=bucket)

    async def receive_perturbed(self, names: Sequence[str], *, scale: float, nonce: int) -> None:
        """Loads the checkpoint with noise."""
        await self._call("receive_perturbed", names=list(names), scale=scale, nonce=nonce)

    async def finish_update(self, *, version: int, weights_id: str, tower_id: str) -> list[TensorReceipt]:
        """The receipt of the worker."""
        receipts = await self._call("finish_update")
        self._version = version
        return [TensorReceipt(name=n, shape=SHAPE, dtype="float32", digest=digest) for n, digest in receipts]

    async def heartbeat(self) -> None:
        """The worker's answer."""
        await self._call("heartbeat")

    def stats(self) -> EngineStats:
        """Of this process alone."""
        return EngineStats(num_steps=self._num_steps, num_running=self._num_running)

    async def holdings(self) -> tuple[int, dict[str, float]]:
        """The version, and the worker's weights."""
        return self._version, await self._call("weights")

    async def call_workers(self, method: str, *arguments: Any) -> list[Any]:
        """The sources of the worker are those of this process."""
        return [provenance.sources()]

    def processes(self) -> dict[str, int]:
        """Process ids by name."""
        return {"actor": os.getpid(), "core": self._core.pid or 0, "worker-0": self._worker}

    def failure(self) -> str:
        """The cause of death of the core."""
        return self._cause

    def shutdown(self) -> None:
        """Ends the core, which ends its worker."""
        self._core.terminate()
        self._core.join()


@contextmanager
def _light_main() -> Generator[None]:
    """A block in which spawned processes do not import Ray's worker as their main module."""
    main = sys.modules["__main__"]
    path = main.__dict__.pop("__file__", None)
    try:
        yield
    finally:
        if path is not None:
            main.__file__ = path
