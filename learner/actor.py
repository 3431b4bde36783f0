"""One DeepSpeed rank as a Ray actor: a shell around `LearnerEngine`."""

import os
import socket
from collections.abc import Sequence
from typing import Any

import ray

from common.config.learner import LearnerConfig
from common.types import Group, ProcessedPrompt, TensorReceipt
from learner.batch import TrainGroup


def train_group(group: Group, advantages: Sequence[float], prompt: ProcessedPrompt) -> TrainGroup:
    """What a rank needs of a group."""
    return TrainGroup(
        prompt=prompt,
        token_ids=tuple(s.completion.token_ids for s in group.samples),
        rollout_logprobs=tuple(s.completion.rollout_logprobs for s in group.samples),
        advantages=tuple(advantages),
    )


class LearnerRank:
    """Methods are collectives: the driver calls them on every rank, in one order."""

    def __init__(self, *, rank: int, world_size: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": "0"}

    def address(self) -> tuple[str, int]:
        """Where rank 0's rendezvous can listen: this node's address and a port that was just free."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

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
            "frozen": self._engine.frozen,
            "pid": os.getpid(),
        }

    def train_step(self, groups: Sequence[Group], advantages: Sequence[Sequence[float]]) -> dict[str, float]:
        """One step on this rank's groups; their media are fetched here, not through the driver."""
        prompts = ray.get([g.prompt.media for g in groups])
        shares = zip(groups, advantages, prompts, strict=True)
        return self._engine.train_step([train_group(*share) for share in shares])

    def score(
        self, prompts: Sequence[ProcessedPrompt], completions: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[list[float]]]:
        """Log-probabilities under the current weights."""
        return self._engine.score(prompts, completions)

    def send_bucket(self, bucket: int) -> list[TensorReceipt]:
        """Gathers one bucket; rank 0 writes it and answers the manifest."""
        return self._engine.sender.send_bucket(bucket)

    def perturb(self, *, scale: float, nonce: int, layers: Sequence[str] | None) -> None:
        """Adds a rehearsal's noise."""
        self._engine.sender.perturb(scale=scale, nonce=nonce, layers=layers)

    def restore(self) -> None:
        """Takes the noise back."""
        self._engine.sender.restore()

    def peak_memory_bytes(self) -> int:
        """Most memory this rank ever held."""
        return self._engine.peak_memory_bytes()

    def close(self) -> None:
        """Releases segments and the process group."""
        self._engine.close()
