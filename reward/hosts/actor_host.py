"""Rewards that are Ray actors: user classes with their own CPUs and GPUs, and actors that others run."""

import asyncio
import itertools
import os
from collections.abc import Sequence
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from common.config.reward import ActorRewardConfig, NamedActorRewardConfig
from common.errors import ConfigError
from reward.hosts.deadlines_and_retries import PooledReward
from reward.hosts.reward_host import ANSWER_S, START_S, HostLostError, RewardHost
from reward.hosts.worker import is_stopped, lead_group, load
from reward.outcome import Outcome, RewardFault, checked_all
from reward.plugins.plugin import PluginSpec
from reward.request import RewardRequest
from reward.wire import sample_of

Place = tuple[str, int]
"""Node and process id of an actor."""
LOOK_S = 30.0
"""Seconds in which a node starts a task without CPUs."""
SEEK_S = 1.0
"""Seconds between looks for a named actor that is gone."""


async def is_stopped_at(place: Place) -> bool:
    """True if the process of an actor is stopped by a signal, or its node does not answer."""
    node, pid = place
    task = cast(Any, ray.remote(is_stopped)).options(
        num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
    )
    answer = task.remote(pid)
    try:
        return await asyncio.wait_for(answer, LOOK_S)
    except (TimeoutError, RayError):
        ray.cancel(answer, force=True)
        return True


class PluginActor:
    """Holds one user reward. Its process leads a process group, which ends with it."""

    async def load(self, spec: PluginSpec) -> dict[str, Any]:
        """Returns the reward's properties for `RewardHost.greet`."""
        lifeline, self._lifeline = os.pipe()
        lead_group(lifeline)
        os.close(lifeline)
        # in a thread: sync code may start its own event loop
        self._plugin, hello = await asyncio.to_thread(load, spec)
        return {**hello, "place": (ray.get_runtime_context().get_node_id(), os.getpid())}

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """Takes a request or a group; a call without requests checks that the actor is not stuck."""
        plugin = self._plugin
        assert plugin is not None
        if not requests:
            return []
        if plugin.is_async:
            return await plugin.ask_async(requests)
        return await asyncio.to_thread(plugin.ask, requests)


class ActorHost(RewardHost):
    """An actor that this process starts and ends."""

    is_owned = True

    def __init__(self, config: ActorRewardConfig) -> None:
        self._config = config
        self._handle: Any = None

    async def open(self) -> None:
        config = self._config
        options: dict[str, Any] = {"num_cpus": config.num_cpus, "num_gpus": config.num_gpus, "max_restarts": 0}
        if config.runtime_env:
            options["runtime_env"] = config.runtime_env
        self._handle = cast(Any, ray.remote(PluginActor)).options(**options).remote()
        try:
            hello = await asyncio.wait_for(self._handle.load.remote(PluginSpec.of(config)), START_S)
        except TimeoutError as error:
            raise HostLostError(
                f"the actor of reward {config.name} must be up within {START_S:g} s, and was not; see `ray status` "
                f"for {config.num_cpus:g} CPUs and {config.num_gpus:g} GPUs"
            ) from error
        except RayError as error:
            raise HostLostError(f"the actor of reward {config.name} died: {error}") from error
        self.greet(hello, max_concurrency=config.max_concurrency)
        self._place: Place = hello["place"]
        self.decision += "; as Ray actor"

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        call = self._handle.ask.options(max_task_retries=0).remote(list(requests))
        try:
            return await call
        except asyncio.CancelledError:
            if self.concurrency > 1:
                ray.cancel(call, force=False)
            raise
        except RayActorError as error:
            self.is_lost = True
            raise HostLostError(f"its actor died during the call: {error}") from error
        except RayError as error:
            return [RewardFault(kind="error", detail=str(error))] * len(requests)

    async def is_stopped(self) -> bool:
        try:
            # its event loop answers beside code that does not hold the interpreter
            await asyncio.wait_for(self._handle.ask.options(max_task_retries=0).remote([]), ANSWER_S)
        except TimeoutError:
            return await is_stopped_at(self._place)
        except RayError:
            return True
        return False

    def end(self) -> None:
        self.is_lost = True
        if self._handle is not None:
            ray.kill(self._handle)
            self._handle = None


class NamedActorHost(RewardHost):
    """An actor that others run, and that this process does not end."""

    takes_groups = True

    def __init__(self, config: NamedActorRewardConfig, *, was_there: bool) -> None:
        """`was_there`: `open` waits for an actor that is gone or stopped, as others may start it again."""
        self._config, self.concurrency = config, config.max_concurrency
        self._was_there = was_there
        self._locating: asyncio.Task[Place | None] | None = None
        self.decision = (
            f"reward {config.name}: actor {config.actor!r} of {config.namespace!r} is called by .{config.method}"
        )

    async def open(self) -> None:
        config = self._config
        try:
            handle = await (self._found_again() if self._was_there else self._found())
        except ValueError as error:
            raise ConfigError(
                f"reward.rewards {config.name}.actor must be a Ray actor in namespace {config.namespace!r}, got "
                f"{config.actor!r}, which is not there; start it before the run, detached"
            ) from error
        self._method: Any = getattr(handle, config.method, None)
        if self._method is None:
            raise ConfigError(
                f"reward.rewards {config.name}.method must be a method of the actor, got {config.method!r}; "
                "correct the name"
            )
        # not awaited: the actor may be busy with calls of others
        self._locating = asyncio.create_task(_located(handle))

    async def _found(self) -> Any:
        config = self._config
        return await asyncio.to_thread(cast(Any, ray.get_actor), config.actor, namespace=config.namespace)

    async def _found_again(self) -> Any:
        try:
            async with asyncio.timeout(START_S):
                while True:
                    try:
                        handle = await self._found()
                        await handle.__ray_ready__.options(max_task_retries=-1).remote()
                    except (ValueError, RayError):
                        await asyncio.sleep(SEEK_S)
                    else:
                        return handle
        except TimeoutError as error:
            raise HostLostError(
                f"actor {self._config.actor!r} must answer within {START_S:g} s after it was lost, and did not; "
                "start it again"
            ) from error

    async def is_stopped(self) -> bool:
        place = self._locating.result() if self._locating is not None and self._locating.done() else None
        return place is not None and await is_stopped_at(place)

    def end(self) -> None:
        self.is_lost = True
        if self._locating is not None and not self._locating.done():
            self._locating.cancel()

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        samples = [sample_of(request, with_paths=True) for request in requests]
        try:
            return checked_all(await self._method.remote(samples), count=len(requests))
        except RayActorError as error:
            self.is_lost = True
            raise HostLostError(f"actor {self._config.actor!r} is gone: {error}") from error
        except RayError as error:
            return [RewardFault(kind="error", detail=str(error))] * len(requests)


async def _located(handle: Any) -> Place | None:
    def locate(_: object) -> Place:
        # pickled by value: the actor does not need this package
        import os

        import ray

        return ray.get_runtime_context().get_node_id(), os.getpid()

    try:
        return await handle.__ray_call__.remote(locate)
    except RayError:
        return None


def hosted(config: ActorRewardConfig | NamedActorRewardConfig, *, was_there: bool = False) -> PooledReward:
    """A reward in Ray actors; the caller ends the actors that it starts.

    `was_there`: an earlier service had found the named actor, so it is waited for.
    """
    if isinstance(config, NamedActorRewardConfig):
        numbers = itertools.count()
        return PooledReward(
            config, make_host=lambda: NamedActorHost(config, was_there=was_there or next(numbers) > 0), size=1
        )
    return PooledReward(config, make_host=lambda: ActorHost(config), size=config.replicas)
