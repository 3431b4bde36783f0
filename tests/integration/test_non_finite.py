"""A loss or gradient that is not a number changes nothing, on any rank, whatever DeepSpeed partitions."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from common.config.learner import LearnerConfig, OptimizerConfig
from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint
from learner.training.batch import TrainGroup
from tests.support.ranks import on_ranks, recorded, share_of, start, state_of

NAMES = ["av-8fps-odd-frames", "text-only"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights."""
    return str(build_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", seed=3))


def broken(groups: list[TrainGroup], how: str) -> list[TrainGroup]:
    """The last group with an infinite loss, or with a gradient alone that is not a number."""
    last = groups[-1]
    if how == "loss":
        return [*groups[:-1], replace(last, advantages=(math.inf, *last.advantages[1:]))]
    # a ratio of exp(inf), of which the clipped branch is the smaller: a finite loss, and a gradient of inf x 0
    endless = tuple((-math.inf,) * len(row) for row in last.rollout_logprobs)
    return [*groups[:-1], replace(last, rollout_logprobs=endless, advantages=(1.0,) * len(endless))]


def skip_and_go_on(model_path: str, stages: list[tuple[int, str]], groups: list[TrainGroup]) -> list[Any]:
    """Per stage and dtype: the broken steps' metrics, whether they left the state alone, and whether the step
    after them is the one that a rank takes which never saw them."""
    findings: list[Any] = []
    for stage, dtype in stages:
        config = LearnerConfig(
            zero_stage=stage,
            beta=0.0,
            old_logprobs="rollout",
            max_rows_per_micro_batch=3,
            optimizer=OptimizerConfig(lr=1e-3, schedule="constant"),
        )
        engine = start(model_path, config, dtype=dtype)
        engine.train_step(share_of(groups, engine))
        before = state_of(engine)
        skipped = [engine.train_step(share_of(broken(groups, how), engine)) for how in ("loss", "gradient")]
        assert [math.isfinite(m["learner/loss"]) for m in skipped] == [False, True]
        left_alone = same(before, state_of(engine)) and engine.num_updates == 1
        after = engine.train_step(share_of(groups, engine))
        fresh = start(model_path, config, dtype=dtype)
        for _ in range(2):
            unbroken = fresh.train_step(share_of(groups, fresh))
        goes_on = same(state_of(engine), state_of(fresh)) and after["learner/loss"] == unbroken["learner/loss"]
        findings.append((stage, dtype, [m["learner/is_skipped"] for m in (*skipped, after)], left_alone, goes_on))
    return findings


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(t, other[n]) for n, t in one.items())


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
def test_a_step_that_is_not_finite_is_as_if_it_had_not_been(dtype: str, tiny: str) -> None:
    stages = [(stage, dtype) for stage in range(4)]
    for answer in on_ranks(2, skip_and_go_on, tiny, stages, recorded(tiny, NAMES)):
        assert answer == [(stage, dtype, [1.0, 1.0, 0.0], True, True) for stage, dtype in stages]
