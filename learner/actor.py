"""One DeepSpeed rank as a Ray actor: a shell around `LearnerEngine`."""

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import ray
from ray.exceptions import RayError, RayTaskError

from common.config.learner import LearnerConfig
from common.errors import LearnerError, OmniError, last_line
from common.prompts.lost_clips import MAX_LOSSES
from common.protocols import PrepareFn, WeightSenders
from common.runtime import provenance
from common.runtime.remote_calls import forwarded, remote
from common.types import Failure, Group, MediaRef, ProcessedPrompt, Prompt
from learner.checkpoints.checkpointer import Savers
from learner.training.batch import split_groups, token_cost, train_example, train_group

logger = logging.getLogger(__name__)


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
        self._clips: list[ProcessedPrompt] = []

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

    def fetch(self, media: Sequence[MediaRef]) -> dict[int, str]:
        """Takes the clips of the next step into this process: pixels never pass through the driver.

        Returns:
            The causes of the clips that are lost, by position. A step must not start without them: the other
                ranks would wait in a collective.
        """
        self._clips, lost = _fetched(media)
        return lost

    def train_step(self, groups: Sequence[Group]) -> dict[str, float]:
        pairs = zip(groups, self._taken_clips(), strict=True)
        return self._engine.train_step([train_group(group, clip) for group, clip in pairs])

    def sft_step(self, completions: Sequence[str]) -> dict[str, float]:
        pairs = zip(self._taken_clips(), completions, strict=True)
        return self._engine.sft_step([train_example(clip, self._engine.encode(text)) for clip, text in pairs])

    def _taken_clips(self) -> list[ProcessedPrompt]:
        clips, self._clips = self._clips, []
        return clips

    def begin_save(self, folder: Path, target: Path, state: str) -> None:
        self._engine.checkpoints.begin_save(folder, target, state=state, num_updates=self._engine.num_updates)

    def load_optimizer(self, folder: Path) -> None:
        self._engine.num_updates = self._engine.checkpoints.load(folder)


def _fetched(media: Sequence[MediaRef]) -> tuple[list[ProcessedPrompt], dict[int, str]]:
    references = cast(list[Any], list(media))
    try:
        # all at once, in parallel
        return ray.get(references), {}
    except RayError:
        # it names one of them
        clips: list[ProcessedPrompt] = []
    lost: dict[int, str] = {}
    for position, reference in enumerate(references):
        try:
            clips.append(cast(ProcessedPrompt, ray.get(reference)))
        except RayError as error:
            lost[position] = last_line(error)
    return clips, lost


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

    def __init__(
        self, handles: Sequence[Any], *, prepare: PrepareFn | None = None, deadline_s: float = 3600.0
    ) -> None:
        """Stores its arguments; `prepare` makes lost clips of a step again."""
        self.handles = list(handles)
        self._prepare, self._deadline_s = prepare, deadline_s

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
        await self._fetch([group.prompt for group in groups], shares)
        calls = [
            handle.train_step.remote([groups[i] for i in share])
            for handle, share in zip(self.handles, shares, strict=True)
        ]
        return (await self._within_deadline(calls))[0]

    async def train_sft(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> dict[str, float]:
        """Deals the examples out to the ranks and runs one supervised step."""
        num_ranks = len(self.handles)
        shares = [range(rank, len(prompts), num_ranks) for rank in range(num_ranks)]
        await self._fetch(prompts, shares)
        calls = [
            handle.sft_step.remote([completions[i] for i in share])
            for handle, share in zip(self.handles, shares, strict=True)
        ]
        return (await self._within_deadline(calls))[0]

    async def _fetch(self, prompts: Sequence[Prompt], shares: Sequence[Sequence[int]]) -> None:
        """Returns once each rank holds the clips of its share; lost clips are made again before any step starts."""
        media = [prompt.media for prompt in prompts]
        for remaining in reversed(range(MAX_LOSSES + 1)):
            calls = [
                handle.fetch.remote([media[i] for i in share])
                for handle, share in zip(self.handles, shares, strict=True)
            ]
            answers: list[dict[int, str]] = await self._within_deadline(calls, call="the fetch of a step's clips")
            causes: dict[int, str] = {
                share[position]: cause
                for share, answer in zip(shares, answers, strict=True)
                for position, cause in answer.items()
            }
            if not causes:
                return
            lost, cause = next(iter(causes.items()))
            logger.warning("clips of a step were lost num=%d cause=%s", len(causes), cause)
            if self._prepare is None or not remaining:
                raise _lost(prompts[lost], cause)
            renewed = await asyncio.gather(*(self._made_again(prompts[i], lost=media[i]) for i in causes))
            for i, reference in zip(causes, renewed, strict=True):
                media[i] = reference

    async def _made_again(self, prompt: Prompt, *, lost: MediaRef) -> MediaRef:
        assert self._prepare is not None
        prepared = await self._prepare(prompt.draw.record, lost=lost)
        if isinstance(prepared, Failure):
            raise _lost(prompt, f"{prepared.reason}: {prepared.detail}")
        return prepared[0]

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
        except RayError as error:
            raise LearnerError(f"a learner rank died: {error}") from error


def _lost(prompt: Prompt, cause: str) -> LearnerError:
    # new ranks begin at the checkpoint; there the draw is made again, or fails as data
    return LearnerError(f"the clip of draw {prompt.draw.key} was lost and could not be made again: {cause}")
