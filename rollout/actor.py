"""A rollout engine as a Ray actor: a shell around `RolloutEngine`, and its handle in the driver."""

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from common.config.rollout import RolloutConfig
from common.errors import EngineError, ReceiveError, last_line
from common.runtime import provenance
from common.shared_memory import Segment, segment_path
from common.types import (
    EngineStatus,
    Failure,
    Generation,
    MediaRef,
    ProcessedPrompt,
    SamplingSpec,
    TensorReceipt,
)

if TYPE_CHECKING:
    from rollout.engine import RolloutEngine

logger = logging.getLogger(__name__)


class EngineActor:
    """Lives in a process of its own; vLLM starts more below it."""

    def __init__(self, *, name: str, model_path: str, config: RolloutConfig, **settings: Any) -> None:
        from rollout.engine import RolloutEngine

        self._copies: dict[int, Segment] = {}
        self._started: RolloutEngine | EngineError
        try:
            self._started = RolloutEngine(name=name, model_path=model_path, config=config, **settings)
        except EngineError as error:
            # kept for who calls: of a constructor's error Ray hands on a traceback's text alone
            logger.exception("engine %s could not start", name)
            self._started = EngineError(f"{error}{_output()}")

    @property
    def _engine(self) -> "RolloutEngine":
        """The engine.

        Raises:
            EngineError: it could not start.
        """
        if isinstance(self._started, EngineError):
            raise self._started
        return self._started

    async def place(self) -> tuple[str, str]:
        """The node it runs on, and for errors where its output goes."""
        return ray.get_runtime_context().get_node_id(), _output()

    async def failure(self) -> str:
        """What ended one of vLLM's processes; empty where they run."""
        return self._engine.failure()

    async def warm_up(self, prompts: list[ProcessedPrompt], sampling: SamplingSpec) -> None:
        """Makes the engine ready."""
        await self._engine.warm_up(prompts, sampling)

    async def generate(self, media: Any, **request: Any) -> Generation | Failure:
        """Samples a group; `media` is a processed prompt or a list that holds a reference to one."""
        (prompt,) = await _fetched([media], deadline_s=request["deadline_s"])
        return prompt if isinstance(prompt, Failure) else await self._engine.generate(prompt, **request)

    async def generate_together(
        self, media: list[Any], *, seeds: list[int], **request: Any
    ) -> list[Generation | Failure]:
        """Samples groups in lockstep; each of `media` as in `generate`."""
        prompts = await _fetched(media, deadline_s=request["deadline_s"])
        there = [i for i, prompt in enumerate(prompts) if not isinstance(prompt, Failure)]
        answers = await self._engine.generate_together(
            [cast(ProcessedPrompt, prompts[i]) for i in there], seeds=[seeds[i] for i in there], **request
        )
        found = dict(zip(there, answers, strict=True))
        return [found[i] if i in found else cast(Failure, prompt) for i, prompt in enumerate(prompts)]

    async def score(self, media: Any, **request: Any) -> float | Failure:
        """The log-probability of tokens behind a prompt; `media` as in `generate`."""
        (prompt,) = await _fetched([media], deadline_s=request["deadline_s"])
        return prompt if isinstance(prompt, Failure) else await self._engine.score(prompt, **request)

    async def sources(self) -> dict[str, dict[str, str]]:
        """What this process and each of vLLM's workers below it run, by name."""
        workers = await self._engine.call_workers("sources")
        name = self._engine.name
        return {name: provenance.sources()} | {f"{name}, worker {i}": w for i, w in enumerate(workers)}

    async def pause(self) -> None:
        """Freezes requests."""
        await self._engine.pause()

    async def resume(self) -> None:
        """Lets requests run on."""
        await self._engine.resume()

    async def start_update(self) -> None:
        """Opens a weight update."""
        await self._engine.start_update()

    async def receive(self, path: str, bucket: int) -> None:
        """Loads one bucket."""
        try:
            await self._engine.receive(path, bucket)
        except Exception as error:  # vLLM's RPC raises plain ones
            raise ReceiveError(self._engine.failure() or last_line(error)) from None

    async def receive_copy(self, data: np.ndarray, bucket: int) -> None:
        """Loads one bucket from the bytes of a segment of another node, through one of this node's own."""
        slot = bucket % 2
        if slot not in self._copies or self._copies[slot].num_bytes < len(data):
            self._close_copy(slot)
            self._copies[slot] = Segment(segment_path("engine", slot), num_bytes=len(data))
        await asyncio.to_thread(self._copies[slot].fill, data)
        await self.receive(str(self._copies[slot].path), bucket)

    def _close_copy(self, slot: int) -> None:
        segment = self._copies.pop(slot, None)
        if segment is not None:
            segment.close(unlink=True)

    async def finish_update(self, **identity: Any) -> list[TensorReceipt]:
        """Closes the update and answers the receipt."""
        try:
            return await self._engine.finish_update(**identity)
        except Exception as error:  # vLLM's RPC raises plain ones
            raise ReceiveError(self._engine.failure() or last_line(error)) from None

    async def status(self) -> EngineStatus:
        """Name, version, load."""
        return await self._engine.status()

    def shutdown(self) -> None:
        """Ends vLLM's processes."""
        self._engine.shutdown()
        for slot in list(self._copies):
            self._close_copy(slot)


def _output() -> str:
    """Where this process and vLLM's below it write to."""
    path = Path(os.readlink("/proc/self/fd/2"))
    place = f"{path.with_suffix('.*')}" if path.is_file() else "Ray's logs"
    return f"; its output is in {place} on node {ray.util.get_node_ip_address()}"


async def _fetched(media: list[Any], *, deadline_s: float) -> list[ProcessedPrompt | Failure]:
    """Prompts whose references, each in a list of its own, are resolved in this process."""

    async def fetch(one: Any) -> ProcessedPrompt | Failure:
        try:
            async with asyncio.timeout(deadline_s):
                return await cast(list[Any], one)[0] if isinstance(one, list) else one
        except TimeoutError:
            return Failure(stage="rollout", reason="deadline", detail=f"the clip took more than {deadline_s:.0f} s")

    return list(await asyncio.gather(*(fetch(one) for one in media)))


def _by_reference(prompt: ProcessedPrompt | MediaRef) -> Any:
    """Inside a list, or Ray would resolve it before the actor's method runs, holding up others."""
    return prompt if isinstance(prompt, ProcessedPrompt) else [prompt]


class EngineClient:
    """The driver's handle of one engine: a `WeightReceiver`."""

    def __init__(self, handle: Any, *, name: str, sampling: SamplingSpec) -> None:
        self.name = name
        self.handle = handle
        self._sampling = sampling
        self._is_elsewhere = False
        self._output = "; its output is in the logs of Ray on its node"

    async def warm_up(self, prompts: Sequence[ProcessedPrompt]) -> None:
        """Waits until the engine is ready."""
        node, self._output = await self._call("place")
        self._is_elsewhere = node != ray.get_runtime_context().get_node_id()
        await self._call("warm_up", list(prompts), self._sampling)

    async def generate(self, prompt: ProcessedPrompt | MediaRef, **request: Any) -> Generation | Failure:
        """Samples a group; a media reference is resolved in the engine's process, not here."""
        return await self._call("generate", _by_reference(prompt), **request)

    async def generate_together(
        self, prompts: Sequence[ProcessedPrompt | MediaRef], **request: Any
    ) -> list[Generation | Failure]:
        """Samples groups in lockstep."""
        return await self._call("generate_together", [_by_reference(p) for p in prompts], **request)

    async def score(self, prompt: ProcessedPrompt | MediaRef, **request: Any) -> float | Failure:
        """The log-probability of tokens behind a prompt."""
        return await self._call("score", _by_reference(prompt), **request)

    async def sources(self) -> dict[str, dict[str, str]]:
        """What its processes run, by name."""
        return await self._call("sources")

    async def pause(self) -> None:
        """Freezes requests."""
        await self._call("pause")

    async def resume(self) -> None:
        """Lets requests run on."""
        await self._call("resume")

    async def start_update(self) -> None:
        """Opens a weight update."""
        await self._call("start_update")

    async def receive(self, path: str, bucket: int) -> None:
        """Loads one bucket: from shared memory, or on another node from a copy that travels through Ray's store."""
        if self._is_elsewhere:
            # mapped, not read: Ray makes the only copy
            copy = ray.put(np.asarray(np.memmap(path, np.uint8, "r")))
            await self._call("receive_copy", copy, bucket)
        else:
            await self._call("receive", path, bucket)

    async def finish_update(self, *, version: int, weights_id: str, tower_id: str) -> list[TensorReceipt]:
        """Closes the update and answers the receipt."""
        return await self._call("finish_update", version=version, weights_id=weights_id, tower_id=tower_id)

    async def status(self) -> EngineStatus:
        """Name, version, load."""
        return await self._call("status")

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return await getattr(self.handle, method).remote(*args, **kwargs)
        except RayTaskError as error:
            cause = cast(BaseException, error.cause)
            if isinstance(cause, EngineError):
                raise cause from None
            raise EngineError(f"engine {self.name}: {method}: {await self._why(cause)}{self._output}") from None
        except (RayActorError, OutOfMemoryError) as error:
            raise EngineError(
                f"engine {self.name}: {method}: the actor died: {last_line(error)}{self._output}"
            ) from error

    async def _why(self, error: BaseException) -> str:
        """What ended vLLM's processes, of which its own error says nothing; that error's text where they run."""
        try:
            return await self.handle.failure.remote() or last_line(error)
        except RayError:
            return last_line(error)
