"""Ranks that take up a checkpoint take the step that those which wrote it take next, bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from common.config.learner import LearnerConfig, LoraConfig, OptimizerConfig
from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint
from learner.checkpoints import checkpoint
from learner.engine import LearnerEngine
from learner.training.batch import TrainGroup
from tests.support.ranks import on_ranks, recorded, share_of, start, state_of

NAMES = ["av-8fps-odd-frames", "text-only"]


def config(zero_stage: Any) -> LearnerConfig:
    """Rates that fall, moments that matter, and dropout, which shows each rank's random numbers."""
    return LearnerConfig(
        num_ranks=2,
        zero_stage=zero_stage,
        steps=8,
        lora=LoraConfig(rank=4, dropout=0.3, targets=("thinker.model.layers.*_proj",)),
        optimizer=OptimizerConfig(lr=1e-2, schedule="linear", warmup_steps=2),
    )


def save(engine: LearnerEngine, folder: Path) -> None:
    """As a run does, and waits for all ranks' shares."""
    target = folder / "step_000002"
    # all ranks write into one folder, made before any begins
    engine.checkpoints.begin_save(
        folder / "step_000002.partial", target, state="{}\n", num_updates=engine.num_updates
    )
    engine.checkpoints.writer.wait()


def both_ways(model_path: str, zero_stage: int, groups: list[TrainGroup], folder: Path) -> Any:
    """Learning rates of steps three and four, and whether a resumed rank's state after them is the same."""
    engine = start(model_path, config(zero_stage))
    for _ in range(2):
        engine.train_step(share_of(groups, engine))
    save(engine, folder)
    expected = [engine.train_step(share_of(groups, engine)) for _ in range(2)]
    # whoever has gone on has drawn other numbers by now: that they are put back is what is looked at
    resumed = start(model_path, config(zero_stage))
    resumed.num_updates = resumed.checkpoints.load(folder / "step_000002")
    found = [resumed.train_step(share_of(groups, resumed)) for _ in range(2)]
    one, other = state_of(engine), state_of(resumed)
    same = {name: torch.equal(tensor, other[name]) for name, tensor in one.items()}
    told = [[m[k] for k in ("learner/lr", "learner/loss", "learner/grad_norm")] for m in (*expected, *found)]
    return told[:2], told[2:], [name for name, is_same in same.items() if not is_same]


@pytest.mark.parametrize(
    "zero_stage", [2, pytest.param(0, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)]
)
def test_a_resumed_rank_takes_the_same_steps(zero_stage: int, tmp_path: Path) -> None:
    tiny = str(build_tiny_checkpoint(tmp_path / "tiny", seed=3))
    checkpoint.begin(tmp_path / "step_000002")
    for expected, found, other in on_ranks(2, both_ways, tiny, zero_stage, recorded(tiny, NAMES), tmp_path):
        assert found == expected
        assert other == []
