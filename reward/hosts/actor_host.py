"""Rewards that are Ray actors: user classes with their own CPUs and GPUs, and actors that others run."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayError

from common.config.reward import ActorRewardConfig, NamedActorRewardConfig
from common.errors import ConfigError
from reward.hosts.deadlines_and_retries import PooledReward
from reward.hosts.reward_host import START_S, HostLostError, RewardHost
from reward.hosts.worker import lead_group, load
from reward.outcome import Outcome, RewardFault, checked_all
from reward.plugins.plugin import PluginSpec
from reward.request import RewardRequest
from reward.wire import sample_of


class PluginActor:
    """Holds one user reward. Its process leads a process group, which ends with it."""

    async def load(self, spec: PluginSpec) -> dict[str, Any]:
        """Returns the reward's properties for `RewardHost.greet`."""
        lifeline, self._lifeline = os.pipe()
        lead_group(lifeline)
        os.close(lifeline)
        # in a thread: sync code may start its own event loop
        self._plugin, hello = await asyncio.to_thread(load, spec)
        return hello

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """Takes a request or a group; a call without requests checks that the actor is not stuck."""
        plugin = self._plugin
        assert plugin is not None
        if plugin.is_async:
            return await plugin.ask_async(requests) if requests else []
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

    def end(self) -> None:
        self.is_lost = True
        if self._handle is not None:
            ray.kill(self._handle)
            self._handle = None


class NamedActorHost(RewardHost):
    """An actor that others run, and that this process does not end."""

    takes_groups = True

    def __init__(self, config: NamedActorRewardConfig) -> None:
        self._config, self.concurrency = config, config.max_concurrency
        self.decision = (
            f"reward {config.name}: actor {config.actor!r} of {config.namespace!r} is called by .{config.method}"
        )

    async def open(self) -> None:
        config = self._config
        try:
            handle = await asyncio.to_thread(cast(Any, ray.get_actor), config.actor, namespace=config.namespace)
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

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        samples = [sample_of(request, with_paths=True) for request in requests]
        try:
            return checked_all(await self._method.remote(samples), count=len(requests))
        except RayActorError as error:
            self.is_lost = True
            raise HostLostError(f"actor {self._config.actor!r} is gone: {error}") from error
        except RayError as error:
            return [RewardFault(kind="error", detail=str(error))] * len(requests)


def hosted(config: ActorRewardConfig | NamedActorRewardConfig) -> PooledReward:
    """A reward in Ray actors; the caller ends the actors that it starts."""
    if isinstance(config, NamedActorRewardConfig):
        return PooledReward(config, make_host=lambda: NamedActorHost(config), size=1)
    return PooledReward(config, make_host=lambda: ActorHost(config), size=config.replicas)
