"""Rewards that are Ray actors: the user's classes with CPUs and GPUs of their own, and actors that others run."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayError

from common.config.reward import ActorRewardConfig, NamedActorRewardConfig
from common.errors import ConfigError
from reward.channel import ChannelEndedError, ChannelLostError
from reward.outcome import MAX_DETAIL, Outcome, RewardFault, checked_all
from reward.plugins import Plugin, PluginSpec, load_plugin
from reward.pool import PooledReward
from reward.request import RewardRequest
from reward.wire import sample_of
from reward.workers import plugin_spec

START_S = 600.0
"""Seconds that an actor may take until it can be asked: a node that comes up, a model that it loads."""
ANSWER_S = 2.0
"""Seconds in which an actor of async code answers that is not stuck."""


class RewardHost:
    """Holds one reward of the user's."""

    def __init__(self, plugin: PluginSpec) -> None:
        self._spec = plugin
        self._plugin: Plugin | None = None
        # code that is not async may start an event loop of its own
        self._thread = ThreadPoolExecutor(1)

    async def load(self) -> dict[str, Any]:
        """Loads it; how it is called, or why it cannot be."""
        try:
            plugin = await asyncio.get_running_loop().run_in_executor(self._thread, load_plugin, self._spec)
        except ConfigError as error:
            return {"refused": str(error)}
        self._plugin = plugin
        return {"decision": plugin.decision, "takes_groups": plugin.takes_groups, "is_async": plugin.is_async}

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """One request, or a group."""
        assert self._plugin is not None
        if self._plugin.is_async:
            return await self._plugin.ask_async(requests)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._plugin.ask, requests)

    async def ping(self) -> None:
        """Answers, so that one knows that it can."""


class HostChannel:
    """A `Channel` to one `RewardHost` that it has started."""

    def __init__(self, config: ActorRewardConfig) -> None:
        self.takes_groups, self.concurrency, self.decision, self.is_lost = False, 1, "", False
        self._config = config
        self._handle: Any = None

    async def open(self) -> None:
        """Starts the actor.

        Raises:
            ConfigError: the reward cannot be loaded in it.
            ChannelLostError: it did not come up.
        """
        config = self._config
        options: dict[str, Any] = {"num_cpus": config.num_cpus, "num_gpus": config.num_gpus, "max_restarts": 0}
        if config.runtime_env:
            options["runtime_env"] = config.runtime_env
        self._handle = cast(Any, ray.remote(RewardHost)).options(**options).remote(plugin_spec(config))
        try:
            async with asyncio.timeout(START_S):
                hello = await self._handle.load.remote()
        except TimeoutError as error:
            raise ChannelLostError(
                f"the actor of reward {config.name} must be up within {START_S:g} s, and was not; see `ray status` "
                f"for {config.num_cpus:g} CPUs and {config.num_gpus:g} GPUs"
            ) from error
        except RayError as error:
            raise ChannelLostError(f"the actor of reward {config.name} died: {_told(error)}") from error
        if "refused" in hello:
            raise ConfigError(hello["refused"])
        self.decision, self.takes_groups = f"{hello['decision']}; as Ray actor", hello["takes_groups"]
        self.concurrency = config.max_concurrency if hello["is_async"] else 1

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """One call.

        Raises:
            ChannelLostError: the actor died over it.
        """
        call = self._handle.ask.options(max_task_retries=0).remote(list(requests))
        try:
            return await call
        except asyncio.CancelledError:
            if self.concurrency > 1:
                ray.cancel(call, force=False)
            raise
        except RayActorError as error:
            if self._handle is None:
                raise ChannelEndedError("its actor was ended for another call's sake") from error
            self.is_lost = True
            raise ChannelLostError(f"its actor died over it: {_told(error)}") from error
        except RayError as error:
            return [RewardFault(kind="error", detail=_told(error))] * len(requests)

    async def where(self) -> str:
        """Ray keeps it to itself."""
        return ""

    async def abandon(self) -> bool:
        """Ends the actor, unless its code is async and it still answers; whether calls shared it."""
        if self.concurrency > 1 and not self.is_lost:
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._handle.ping.remote()
                return False
            except (TimeoutError, RayError):
                pass
        self.end()
        return self.concurrency > 1

    def end(self) -> None:
        """Kills the actor."""
        self.is_lost = True
        if self._handle is not None:
            ray.kill(self._handle)
            self._handle = None


class NamedChannel:
    """A `Channel` to an actor that somebody else runs."""

    def __init__(self, config: NamedActorRewardConfig) -> None:
        self.takes_groups, self.concurrency, self.is_lost = True, config.max_concurrency, False
        self.decision = (
            f"reward {config.name}: actor {config.actor!r} of {config.namespace!r} is asked by .{config.method}"
        )
        self._config = config
        self._method: Any = None

    async def open(self) -> None:
        """Finds the actor.

        Raises:
            ConfigError: there is none of this name, or it has no such method.
        """
        config = self._config
        try:
            handle = await asyncio.to_thread(cast(Any, ray.get_actor), config.actor, namespace=config.namespace)
        except ValueError as error:
            raise ConfigError(
                f"reward.rewards {config.name}.actor must be a Ray actor in namespace {config.namespace!r}, got "
                f"{config.actor!r}, which is not there; start it before the run, detached"
            ) from error
        self._method = getattr(handle, config.method, None)
        if self._method is None:
            raise ConfigError(
                f"reward.rewards {config.name}.method must be one of the actor's, got {config.method!r}; mend it"
            )

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """One call.

        Raises:
            ChannelLostError: the actor is gone.
        """
        samples = [sample_of(request, with_paths=True) for request in requests]
        try:
            answer = await self._method.remote(samples)
        except RayActorError as error:
            self.is_lost = True
            raise ChannelLostError(f"actor {self._config.actor!r} is gone: {_told(error)}") from error
        except RayError as error:
            return [RewardFault(kind="error", detail=_told(error))] * len(requests)
        return checked_all(answer, count=len(requests))

    async def where(self) -> str:
        """Nothing is known of it."""
        return ""

    async def abandon(self) -> bool:
        """It is not ours to stop."""
        return False

    def end(self) -> None:
        """It is not ours to end."""
        self.is_lost = True


def hosted(config: ActorRewardConfig | NamedActorRewardConfig) -> PooledReward:
    """A reward among Ray's actors; the caller owns those that it starts."""
    if isinstance(config, NamedActorRewardConfig):
        return PooledReward(config, make_channel=lambda: NamedChannel(config), size=1)
    return PooledReward(config, make_channel=lambda: HostChannel(config), size=config.replicas)


def _told(error: BaseException) -> str:
    return str(error).strip()[-MAX_DETAIL:]
