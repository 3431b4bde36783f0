"""The engines of a fleet as Ray actors: an `EngineHost`."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import ray

from common.config.rollout import RolloutConfig
from common.errors import EngineError
from common.node_agent_actor import NodeAgents
from common.runtime import provenance
from common.types import ProcessedPrompt, SamplingSpec
from rollout.actor import EngineClient
from rollout.fleet.host import ManagedEngine

logger = logging.getLogger(__name__)
FAREWELL_S = 20.0
"""Seconds that an engine gets to release what it holds."""


class MakeEngineFn(Protocol):
    """Requests the actor of an engine; returns its handle."""

    def __call__(self, slot: str, token: str, model_path: str, version: int) -> Any: ...


@dataclass(kw_only=True, slots=True)
class _Hosted:
    handle: Any
    client: EngineClient
    token: str


class RayEngineHost:
    """Starts one actor for each incarnation."""

    def __init__(
        self,
        make_actor: MakeEngineFn,
        *,
        model_path: str,
        version: int,
        config: RolloutConfig,
        sampling: SamplingSpec,
        warm_up_prompts: Callable[[], Awaitable[Sequence[ProcessedPrompt]]],
        agents: NodeAgents,
    ) -> None:
        """Stores its arguments.

        Args:
            model_path: the checkpoint that the next engines load.
            version: the policy version of that checkpoint.
            warm_up_prompts: the longest prompt first.
        """
        self._model_path, self._version = model_path, version
        self._make_actor, self._config, self._sampling = make_actor, config, sampling
        self._warm_up_prompts, self._agents = warm_up_prompts, agents
        self._prompts: Sequence[ProcessedPrompt] = ()
        self._hosted: dict[str, _Hosted] = {}
        # a token of another run, or of an earlier fleet of this one, must not match
        self._lineage = secrets.token_hex(8)

    def load_next(self, model_path: str, *, version: int) -> None:
        """Sets the checkpoint of the engines that start from now on."""
        self._model_path, self._version = model_path, version

    async def ask(self, incarnation: str, *, slot: str) -> ManagedEngine:
        token = f"{self._lineage}/{incarnation}"
        handle = self._make_actor(slot, token, self._model_path, self._version)
        client = EngineClient(
            handle,
            name=slot,
            sampling=self._sampling,
            answer_deadline_s=self._config.answer_deadline_s,
            agents=self._agents,
            ranks_node=ray.get_runtime_context().get_node_id(),
        )
        self._hosted[incarnation] = _Hosted(handle=handle, client=client, token=token)
        await client.place()
        return client

    async def warm_up(self, engine: ManagedEngine) -> None:
        hosted = next(hosted for hosted in self._hosted.values() if hosted.client is engine)
        # they never change, and a later engine must not depend on another task
        self._prompts = self._prompts or await self._warm_up_prompts()
        await hosted.client.warm_up(self._prompts)
        ours = provenance.sources()
        for who, theirs in (await hosted.client.sources()).items():
            provenance.require_same_sources(ours, theirs, who=who)
        # the files of processes that end by themselves cannot be found afterwards
        await self._agents.held(hosted.token, node=cast(str, hosted.client.node))

    async def end(self, incarnation: str, *, is_lost: bool) -> None:
        hosted = self._hosted.get(incarnation)
        if hosted is None:
            return
        if not is_lost:
            farewell = hosted.handle.shutdown.remote()
            await asyncio.to_thread(cast(Any, ray.wait), [farewell], num_returns=1, timeout=FAREWELL_S)
            ray.kill(hosted.handle)
        try:
            # Ray cannot end an actor that is stopped, nor the processes below it
            await self._reap(hosted)
        finally:
            ray.kill(hosted.handle)
        self._hosted.pop(incarnation, None)

    async def _reap(self, hosted: _Hosted) -> None:
        alive = {node["NodeID"] for node in cast(list[dict[str, Any]], ray.nodes()) if node["Alive"]}
        node = hosted.client.node
        if node is not None:
            for name in alive & {node}:
                await self._agents.reap(hosted.token, node=name)
            return
        for name in alive:
            # without a place there is nothing to end, in all likelihood
            with contextlib.suppress(EngineError):
                await self._agents.reap(hosted.token, node=name)
