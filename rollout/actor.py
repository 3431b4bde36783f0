"""A rollout engine as a Ray actor: a shell around `RolloutEngine`, and its handle in the driver."""

import asyncio
import concurrent.futures
import logging
import os
import threading
from collections.abc import Awaitable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import ray
from ray.exceptions import RayError, RayTaskError

from common.errors import EngineError, EngineStartError, ReceiveError, RequestRefusedError, last_line
from common.node_agent_actor import NodeAgents
from common.prompts.lost_clips import NOT_STARTED, lost_clip
from common.protocols import WeightReceiver
from common.runtime import provenance
from common.runtime.remote_calls import remote
from common.types import Failure, Generation, ProcessedPrompt, SamplingSpec, TensorReceipt
from rollout.admission import WAITING_DEADLINES
from rollout.engine_stats import EngineStats
from rollout.processes import engine_processes

if TYPE_CHECKING:
    from rollout.engine import RolloutEngine

logger = logging.getLogger(__name__)
T = TypeVar("T")


CONCURRENCY_GROUPS = {"control": 16}
"""Ray's groups of an engine's calls. Requests are in the default group; control calls never queue behind them."""


def control(path: str) -> Any:
    """A method of the control group that calls the async method at a path below the actor.

    Each of Ray's groups has its own event loop. The call runs in the loop of the requests.
    """

    @ray.method(concurrency_group="control")
    async def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        work = attrgetter(path)(self)(*args, **kwargs)
        if self.loop is None:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    return forward


class EngineActor:
    """The process of an engine; vLLM's processes are its children."""

    def __init__(self, *, name: str, **settings: Any) -> None:
        """Begins the start of the engine; `warm_up` waits for it. Other calls are answered meanwhile."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop of the requests, to which vLLM's client belongs; None before `place` and `warm_up`."""
        self._name = name
        self._start: concurrent.futures.Future[RolloutEngine] = concurrent.futures.Future()
        # a daemon: a start that hangs must not keep the process
        threading.Thread(target=self._run_start, kwargs=settings, name="engine-start", daemon=True).start()

    def _run_start(self, **settings: Any) -> None:
        try:
            from rollout.engine import RolloutEngine

            self._start.set_result(RolloutEngine(name=self._name, **settings))
        except BaseException as error:  # raised by the calls that need the engine
            logger.exception("engine %s could not start", self._name)
            self._start.set_exception(self._start_error(error))

    def _start_error(self, error: BaseException) -> EngineStartError:
        cause = (
            f"{error}" if isinstance(error, EngineStartError) else f"engine {self._name} could not start: {error}"
        )
        is_killed = isinstance(error, EngineStartError) and error.is_killed
        return EngineStartError(f"{cause}{_output()}", is_killed=is_killed)

    @property
    def _engine(self) -> "RolloutEngine":
        if not self._start.done():
            raise EngineError(f"engine {self._name} must have started before it can answer")
        return self._start.result()

    pause = control("_engine.pause")
    resume = control("_engine.resume")
    start_update = control("_engine.start_update")
    receive = control("_receive")
    receive_perturbed = control("_engine.receive_perturbed")
    finish_update = control("_finish_update")
    heartbeat = control("_engine.heartbeat")
    stats = control("_stats")
    processes = control("_processes")
    failure = control("_failure")
    sources = control("_sources")
    shutdown = control("_shutdown")

    async def place(self) -> tuple[str, str]:
        """The actor's node, and the place of its output for error messages."""
        self.loop = asyncio.get_running_loop()
        return ray.get_runtime_context().get_node_id(), _output()

    async def warm_up(self, prompts: list[ProcessedPrompt], sampling: SamplingSpec) -> None:
        self.loop = asyncio.get_running_loop()
        # shielded: a caller that is cancelled does not cancel the start
        engine = await asyncio.shield(asyncio.wrap_future(self._start))
        try:
            await engine.warm_up(prompts, sampling)
        except Exception as error:
            logger.exception("engine %s could not warm up", self._name)
            raise self._start_error(engine.start_error(error)) from None

    async def generate(self, media: Any, **request: Any) -> Generation | Failure:
        prompt = await _fetch(media, deadline_s=request["deadline_s"])
        return prompt if isinstance(prompt, Failure) else await self._engine.generate(prompt, **request)

    async def generate_together(
        self, media: list[Any], *, seeds: list[int], **request: Any
    ) -> list[Generation | Failure]:
        deadline_s = request["deadline_s"]
        clips = await asyncio.gather(*(_fetch(reference, deadline_s=deadline_s) for reference in media))
        prompts = [clip for clip in clips if not isinstance(clip, Failure)]
        if len(prompts) < len(clips):
            # the values of each group depend on the whole batch: nothing starts without a clip
            return [clip if isinstance(clip, Failure) else NOT_STARTED for clip in clips]
        return await self._engine.generate_together(prompts, seeds=seeds, **request)

    async def score(self, media: Any, **request: Any) -> float | Failure:
        prompt = await _fetch(media, deadline_s=request["deadline_s"])
        return prompt if isinstance(prompt, Failure) else await self._engine.score(prompt, **request)

    async def _sources(self) -> dict[str, dict[str, str]]:
        """The sources of this process and of vLLM's workers, by the process's name."""
        workers = await self._engine.call_workers("sources")
        name = self._engine.name
        return {name: provenance.sources()} | {f"{name}, worker {i}": w for i, w in enumerate(workers)}

    async def _receive(self, path: str, bucket: int) -> None:
        await self._as_receive_error(self._engine.receive(path, bucket))

    async def _finish_update(self, **identity: Any) -> list[TensorReceipt]:
        return await self._as_receive_error(self._engine.finish_update(**identity))

    async def _as_receive_error(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except Exception as error:  # vLLM raises a worker's error as a plain one
            if self._engine.failure() or type(error).__name__ == "EngineDeadError":
                # a dead engine has refused nothing
                raise
            raise ReceiveError(last_line(error)) from None

    async def _stats(self) -> EngineStats:
        return self._engine.stats()

    async def _processes(self) -> dict[str, int]:
        return engine_processes(os.getpid())

    async def _failure(self) -> str:
        return self._engine.failure()

    async def _shutdown(self) -> None:
        if self._start.done() and self._start.exception() is None:
            self._engine.shutdown()


def _output() -> str:
    """The place of the output of this process and of vLLM's processes, for the end of an error message."""
    path = Path(os.readlink("/proc/self/fd/2"))
    place = f"{path.with_suffix('.*')}" if path.is_file() else "Ray's logs"
    return f"; its output is in {place} on node {ray.util.get_node_ip_address()}"


async def _fetch(media: Any, *, deadline_s: float) -> ProcessedPrompt | Failure:
    """Resolves a prompt, a reference, or a list of one reference, in this process; a lost clip is data."""
    reference = cast(list[Any], media)[0] if isinstance(media, list) else media
    try:
        async with asyncio.timeout(deadline_s):
            return await cast(Any, reference) if isinstance(reference, ray.ObjectRef) else reference
    except TimeoutError:
        return lost_clip(f"the clip took more than {deadline_s:.0f} s")
    except RayError as error:
        # its node or object is gone, or the task that made it again failed: the engine is not at fault
        return lost_clip(last_line(error))


class EngineClient:
    """The driver's handle of one engine: a `WeightReceiver` whose actor resolves the references to prompts.

    Every call ends: after its deadline with an `EngineError`, as when the engine is dead. A `RequestRefusedError`
    leaves the engine as it is. `place`, `warm_up` and `heartbeat` have no deadline of their own.
    """

    generate = remote(WeightReceiver.generate)
    generate_together = remote(WeightReceiver.generate_together)
    score = remote(WeightReceiver.score)
    pause = remote(WeightReceiver.pause)
    resume = remote(WeightReceiver.resume)
    finish_update = remote(WeightReceiver.finish_update)

    def __init__(
        self,
        handle: Any,
        *,
        name: str,
        sampling: SamplingSpec,
        answer_deadline_s: float = 30.0,
        agents: NodeAgents | None = None,
        ranks_node: str = "",
    ) -> None:
        """Stores its arguments; without `agents` the engine must be on the ranks' node."""
        self.name = name
        self.handle = handle
        self.node: str | None = None
        """Ray's id of the engine's node, once it has a place."""
        self._sampling, self._answer_deadline_s = sampling, answer_deadline_s
        self._agents, self._ranks_node = agents, ranks_node
        self._output = "; its output is in the logs of Ray on its node"

    async def place(self) -> None:
        """Waits until Ray has started the engine's process on a node; raises `EngineStartError`."""
        self.node, self._output = await self._starting("place")

    async def warm_up(self, prompts: Sequence[ProcessedPrompt]) -> None:
        """Waits until the engine is ready; the first prompt is the longest. Raises `EngineStartError`."""
        if self.node is None:
            await self.place()
        await self._starting("warm_up", list(prompts), self._sampling)

    async def heartbeat(self) -> None:
        """Returns once every worker of vLLM has answered."""
        await self._call("heartbeat", limit_s=None)

    async def stats(self) -> EngineStats:
        """vLLM's counters, which the actor answers alone."""
        return await self._call("stats")

    async def processes(self) -> dict[str, int]:
        """Process ids: `actor`, `core`, and `worker-0` and so on where workers have processes of their own."""
        return await self._call("processes")

    async def sources(self) -> dict[str, dict[str, str]]:
        return await self._call("sources")

    async def start_update(self, *, is_alone: bool = False) -> None:
        if self._agents is not None and not is_alone:
            # every engine begins before any engine asks for a bucket
            self._agents.forget()
        await self._call("start_update")

    async def receive_perturbed(self, names: Sequence[str], *, scale: float, nonce: int) -> None:
        # the publisher's deadline applies
        await self._call("receive_perturbed", names, scale=scale, nonce=nonce, limit_s=None)

    async def receive(self, path: str, bucket: int) -> None:
        """Loads one bucket; an engine on another node reads a copy that its node's agent has made."""
        if self._agents is not None and self.node is not None:
            path = await self._agents.local_path(path, bucket, node=self.node, source_node=self._ranks_node)
        await self._call("receive", path, bucket)

    async def _starting(self, method: str, *args: Any) -> Any:
        try:
            # the deadline of the start applies
            return await self._call(method, *args, limit_s=None)
        except EngineStartError:
            raise
        except EngineError as error:
            # the actor is gone: killed, or its node lost
            raise EngineStartError(f"{error}", is_killed=True) from error

    async def _call(self, method: str, *args: Any, limit_s: float | None = -1.0, **kwargs: Any) -> Any:
        if limit_s is not None and limit_s < 0:
            limit_s = self._answer_deadline_s + _num_deadlines(method, kwargs) * kwargs.get("deadline_s", 0.0)
        answer = getattr(self.handle, method).remote(*map(_unresolved, args), **kwargs)
        try:
            async with asyncio.timeout(limit_s):
                return await answer
        except (TimeoutError, asyncio.CancelledError) as error:
            # Ray does not pass a cancellation on: the engine would finish the request for nobody
            ray.cancel(answer, force=False)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise EngineError(
                f"engine {self.name}: {method} must end within {limit_s:g} s, and did not{self._output}"
            ) from error
        except RayTaskError as error:
            raise await self._as_engine_error(method, cast(BaseException, error.cause)) from None
        except RayError as error:
            # Ray's text goes on with causes that it did not check
            cause = f"the actor died: {last_line(error).partition(' Some common causes')[0]}"
            raise EngineError(f"engine {self.name}: {method}: {cause}{self._output}") from error

    async def _as_engine_error(self, method: str, error: BaseException) -> EngineError:
        """The error of an actor that answered, with the cause of death of a vLLM process, which vLLM's omit."""
        if isinstance(error, EngineError):
            return error
        try:
            async with asyncio.timeout(self._answer_deadline_s):
                failure = cast(str, await self.handle.failure.remote())
            # by name: the driver does not import vLLM
            is_alive = not failure and type(error).__name__ != "EngineDeadError"
        except (RayError, TimeoutError):
            failure, is_alive = "", False
        kind = RequestRefusedError if is_alive else EngineError
        return kind(f"engine {self.name}: {method}: {failure or last_line(error)}{self._output}")


def _num_deadlines(method: str, request: Mapping[str, Any]) -> float:
    # the clip, then the completions; between them the admission, outside lockstep
    is_admitted = not (method == "generate_together" or request.get("is_alone") or request.get("is_probe"))
    return 2 + (WAITING_DEADLINES if is_admitted else 0)


def _unresolved(argument: Any) -> Any:
    # Ray would resolve a reference outside a list before the actor's method runs, which would delay other calls
    return [cast(Any, argument)] if isinstance(argument, ray.ObjectRef) else argument
