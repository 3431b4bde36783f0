"""One DeepSpeed rank as a Ray actor: a shell around `LearnerEngine`."""

import asyncio
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayTaskError

from common.config.learner import LearnerConfig
from common.errors import LearnerError, OmniError, last_line
from common.protocols import WeightSenders
from common.runtime import provenance
from common.runtime.remote_calls import forwarded, remote
from common.types import Group, MediaRef, ProcessedPrompt
from learner.checkpoints.checkpointer import Savers
from learner.training.batch import split_groups, token_cost, train_example, train_group


class LearnerRank:
    """Methods are collectives: the driver calls them on every rank, in one order."""

    score = forwarded("_engine.score")
    send_bucket = forwarded("_engine.sender.send_bucket")
    perturb = forwarded("_engine.sender.perturb")
    restore = forwarded("_engine.sender.restore")
    wait_saved = forwarded("_engine.checkpoints.writer.wait")
    save_hf = forwarded("_engine.checkpoints.save_hf")
    close = forwarded("_engine.close")

    def __init__(self, *, rank: int, world_size: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": "0"}

    def address(self) -> tuple[str, int]:
        """This node's address and a free port, for rank 0's rendezvous."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return cast(str, ray.util.get_node_ip_address()), probe.getsockname()[1]

    def start(self, *, master: tuple[str, int], config: LearnerConfig, **settings: Any) -> dict[str, Any]:
        """Joins the group and loads the model; returns the publish plan and the segments' paths."""
        os.environ |= {"MASTER_ADDR": master[0], "MASTER_PORT": str(master[1])}
        import torch

        from learner.engine import LearnerEngine

        torch.set_num_threads(config.num_threads)
        self._engine = LearnerEngine(config=config, **settings)
        return {"plan": self._engine.sender.plan, "segments": self._engine.sender.open()}

    def sources(self) -> dict[str, str]:
        return provenance.sources()

    def train_step(self, groups: Sequence[Group]) -> dict[str, float]:
        prompts = _fetched([g.prompt.media for g in groups])
        return self._engine.train_step([train_group(g, p) for g, p in zip(groups, prompts, strict=True)])

    def sft_step(self, prompts: Sequence[MediaRef], completions: Sequence[str]) -> dict[str, float]:
        pairs = zip(_fetched(prompts), completions, strict=True)
        return self._engine.sft_step([train_example(p, self._engine.encode(text)) for p, text in pairs])

    def begin_save(self, folder: Path, target: Path, state: str) -> None:
        self._engine.checkpoints.begin_save(folder, target, state=state, num_updates=self._engine.num_updates)

    def load_optimizer(self, folder: Path) -> None:
        self._engine.num_updates = self._engine.checkpoints.load(folder)


def _fetched(media: Sequence[MediaRef]) -> list[ProcessedPrompt]:
    # in the rank's process: pixels never pass through the driver
    return cast(list[ProcessedPrompt], ray.get(cast(Any, list(media))))


class RankClients:
    """The driver's handle of all ranks: `WeightSenders`, `Savers` and `TrainFn`. Results are rank 0's.

    Raises:
        LearnerError: a rank failed, died or passed the deadline.
        CheckpointError: a checkpoint could not be written.
    """

    score = remote(WeightSenders.score)
    send_bucket = remote(WeightSenders.send_bucket)
    perturb = remote(WeightSenders.perturb)
    restore = remote(WeightSenders.restore)
    begin_save = remote(Savers.begin_save)
    wait_saved = remote(Savers.wait_saved)

    def __init__(self, handles: Sequence[Any], *, deadline_s: float = 3600.0) -> None:
        self.handles = list(handles)
        self._deadline_s = deadline_s

    async def start(self, **settings: Any) -> dict[str, Any]:
        """Joins the ranks and loads their models; returns rank 0's publish plan and segments."""
        (master,) = await self._all([self.handles[0].address.remote()])
        return await self._call("start", master=master, **settings)

    async def sources(self) -> dict[str, dict[str, str]]:
        answers = await self._all([handle.sources.remote() for handle in self.handles])
        return {f"learner rank {rank}": answer for rank, answer in enumerate(answers)}

    async def train(self, groups: Sequence[Group]) -> dict[str, float]:
        """Spreads the groups over the ranks by tokens and runs one step."""
        costs = [
            token_cost(g.prompt.num_prompt_tokens, [len(s.completion.token_ids) for s in g.samples]) for g in groups
        ]
        shares = split_groups(costs, len(self.handles))
        calls = [
            handle.train_step.remote([groups[i] for i in share])
            for handle, share in zip(self.handles, shares, strict=True)
        ]
        return (await self._within_deadline(calls))[0]

    async def train_sft(self, prompts: Sequence[MediaRef], completions: Sequence[str]) -> dict[str, float]:
        """Deals the examples out to the ranks and runs one supervised step."""
        num_ranks = len(self.handles)
        calls = [
            handle.sft_step.remote(list(prompts[rank::num_ranks]), list(completions[rank::num_ranks]))
            for rank, handle in enumerate(self.handles)
        ]
        return (await self._within_deadline(calls))[0]

    async def save_hf(self, folder: Path) -> None:
        await self._call("save_hf", folder)

    async def load_optimizer(self, folder: Path) -> None:
        await self._call("load_optimizer", folder)

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        calls = [getattr(handle, method).remote(*args, **kwargs) for handle in self.handles]
        return (await self._within_deadline(calls, call=method))[0]

    async def _within_deadline(self, calls: Sequence[Any], *, call: str = "a step") -> list[Any]:
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._all(calls)
        except TimeoutError as error:
            raise LearnerError(
                f"{call} must end within learner.deadline_s={self._deadline_s:g} s, and did not"
            ) from error

    async def _all(self, calls: Sequence[Any]) -> list[Any]:
        try:
            # the first failure ends it at once: the other ranks wait for that rank in a collective
            return list(await asyncio.gather(*calls))
        except RayTaskError as error:
            if isinstance(error.cause, OmniError):
                raise error.cause from None
            raise LearnerError(f"a learner rank failed: {last_line(cast(BaseException, error.cause))}") from error
        except RayActorError as error:
            raise LearnerError(f"a learner rank died: {error}") from error
