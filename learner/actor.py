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
from common.runtime import provenance
from common.types import Group, MediaRef, ProcessedPrompt, TensorReceipt
from learner.training.batch import split_groups, token_cost, train_example, train_group


class LearnerRank:
    """Methods are collectives: the driver calls them on every rank, in one order."""

    def __init__(self, *, rank: int, world_size: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": "0"}

    def address(self) -> tuple[str, int]:
        """Where rank 0's rendezvous can listen: this node's address and a port that was just free."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return cast(str, ray.util.get_node_ip_address()), probe.getsockname()[1]

    def start(self, *, master: tuple[str, int], config: LearnerConfig, **settings: Any) -> dict[str, Any]:
        """Joins the group and loads the model; answers the publish plan."""
        os.environ |= {"MASTER_ADDR": master[0], "MASTER_PORT": str(master[1])}
        import torch

        from learner.engine import LearnerEngine

        torch.set_num_threads(config.num_threads)
        self._engine = LearnerEngine(config=config, **settings)
        return {
            "plan": self._engine.sender.plan,
            "segments": self._engine.sender.open(),
        }

    def sources(self) -> dict[str, str]:
        return provenance.sources()

    def train_step(self, groups: Sequence[Group]) -> dict[str, float]:
        """One step on this rank's groups; their media are fetched here, not through the driver."""
        media = cast(Any, [g.prompt.media for g in groups])
        prompts = cast(list[ProcessedPrompt], ray.get(media))
        return self._engine.train_step([train_group(g, p) for g, p in zip(groups, prompts, strict=True)])

    def score(
        self, prompts: Sequence[ProcessedPrompt], completions: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[list[float]]]:
        return self._engine.score(prompts, completions)

    def sft_step(self, prompts: Sequence[MediaRef], completions: Sequence[str]) -> dict[str, float]:
        fetched = cast(list[ProcessedPrompt], ray.get(cast(Any, list(prompts))))
        return self._engine.sft_step(
            [train_example(p, self._engine.encode(text)) for p, text in zip(fetched, completions, strict=True)]
        )

    def begin_save(self, folder: str, target: str, state: str) -> None:
        self._engine.checkpoints.begin_save(
            Path(folder), Path(target), state=state, num_updates=self._engine.num_updates
        )

    def wait_saved(self) -> None:
        self._engine.checkpoints.writer.wait()

    def save_hf(self, folder: str) -> None:
        self._engine.checkpoints.save_hf(Path(folder))

    def load_optimizer(self, folder: str) -> None:
        self._engine.num_updates = self._engine.checkpoints.load(Path(folder))

    def send_bucket(self, bucket: int) -> list[TensorReceipt]:
        return self._engine.sender.send_bucket(bucket)

    def perturb(self, *, scale: float, nonce: int, names: Sequence[str] | None) -> None:
        self._engine.sender.perturb(scale=scale, nonce=nonce, names=names)

    def restore(self, *, names: Sequence[str] | None = None) -> None:
        self._engine.sender.restore(names=names)

    def close(self) -> None:
        self._engine.close()


class RankClients:
    """The driver's handle of all ranks: `WeightSenders` and `TrainFn`. Every call goes to every rank."""

    def __init__(self, handles: Sequence[Any], *, deadline_s: float = 3600.0) -> None:
        self.handles = list(handles)
        self._deadline_s = deadline_s

    async def start(self, **settings: Any) -> dict[str, Any]:
        """Joins the ranks and loads their models; what rank 0 says of the publish plan."""
        (master,) = await self._all([self.handles[0].address.remote()])
        return await self._each("start", master=master, **settings)

    async def sources(self) -> dict[str, dict[str, str]]:
        """What each rank runs, by its name."""
        answers = await self._all([handle.sources.remote() for handle in self.handles])
        return {f"learner rank {rank}": answer for rank, answer in enumerate(answers)}

    async def train(self, groups: Sequence[Group]) -> dict[str, float]:
        """Spreads the groups over the ranks by tokens and runs one step.

        Raises:
            LearnerError: a rank failed, died or passed the deadline.
        """
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
        """Deals the examples out to the ranks and runs one supervised step.

        Raises:
            LearnerError: a rank failed, died or passed the deadline.
        """
        num_ranks = len(self.handles)
        calls = [
            handle.sft_step.remote(list(prompts[rank::num_ranks]), list(completions[rank::num_ranks]))
            for rank, handle in enumerate(self.handles)
        ]
        return (await self._within_deadline(calls))[0]

    async def begin_save(self, folder: Path, target: Path, state: str) -> None:
        """Takes a snapshot; the ranks write it while they go on."""
        await self._each("begin_save", str(folder), str(target), state)

    async def wait_saved(self) -> None:
        """Waits until the checkpoint is in place.

        Raises:
            CheckpointError: it could not be written.
        """
        await self._each("wait_saved")

    async def save_hf(self, folder: Path) -> None:
        await self._each("save_hf", str(folder))

    async def load_optimizer(self, folder: Path) -> None:
        await self._each("load_optimizer", str(folder))

    async def score(
        self, prompts: Sequence[ProcessedPrompt], completions: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[list[float]]]:
        return await self._each("score", list(prompts), completions)

    async def send_bucket(self, bucket: int) -> list[TensorReceipt]:
        return await self._each("send_bucket", bucket)

    async def perturb(self, *, scale: float, nonce: int, names: Sequence[str] | None) -> None:
        await self._each("perturb", scale=scale, nonce=nonce, names=names)

    async def restore(self, *, names: Sequence[str] | None = None) -> None:
        await self._each("restore", names=names)

    async def close(self) -> None:
        await self._each("close")

    async def _each(self, method: str, *args: Any, **kwargs: Any) -> Any:
        calls = [getattr(h, method).remote(*args, **kwargs) for h in self.handles]
        return (await self._within_deadline(calls, what=method))[0]

    async def _within_deadline(self, calls: Sequence[Any], *, what: str = "a step") -> list[Any]:
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._all(calls)
        except TimeoutError as error:
            raise LearnerError(
                f"{what} must end within learner.deadline_s={self._deadline_s:g} s, and did not"
            ) from error

    async def _all(self, calls: Sequence[Any]) -> list[Any]:
        """All answers, or the first rank's failure at once: the others wait for it in a collective."""
        try:
            return list(await asyncio.gather(*calls))
        except RayTaskError as error:
            if isinstance(error.cause, OmniError):
                raise error.cause from None
            raise LearnerError(f"a learner rank failed: {last_line(cast(BaseException, error.cause))}") from error
        except RayActorError as error:
            raise LearnerError(f"a learner rank died: {error}") from error
