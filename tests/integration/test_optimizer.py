"""The optimizer, whatever is partitioned and wherever it waits: what decays, is kept and is put back."""

from typing import Any

import pytest
import torch

from common.config.learner import LearnerConfig, OptimizerConfig
from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint
from learner.engine import LearnerEngine
from learner.training.batch import TrainGroup
from learner.zero import optimizer_state
from learner.zero.parameters import write_parameter
from tests.support.ranks import on_ranks, parameters_of, recorded, share_of, start, state_of

pytestmark = pytest.mark.long

LR, DECAY = 1e-3, 0.5
STAGES = [(0, "none"), (1, "none"), (2, "none"), (3, "none"), (1, "optimizer"), (2, "optimizer"), (3, "optimizer")]
STAGES += [(3, "parameters")]

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights."""
    return str(build_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", seed=3))


def config(zero_stage: Any, offload: Any, *, decay: float = DECAY) -> LearnerConfig:
    """A step that moves and decays."""
    return LearnerConfig(
        zero_stage=zero_stage,
        offload=offload,
        beta=0.0,
        optimizer=OptimizerConfig(lr=LR, schedule="constant", weight_decay=decay),
    )


def put_back(engine: LearnerEngine, state: State, *, num_updates: int) -> None:
    """What a checkpoint would."""
    trained = dict(engine._module.named_parameters())
    for name, parameter in trained.items():
        write_parameter(engine._deepspeed.optimizer, parameter, state[name])
    optimizer_state.write_state(engine._deepspeed, trained, state, num_updates=num_updates)


def kept_and_put_back(
    model_path: str, dtype: str, groups: list[TrainGroup]
) -> dict[tuple[int, str], tuple[bool, State]]:
    """Per stage and offload: whether a fresh engine that is given the state takes the same second step, bit for
    bit, and the state after it."""
    found: dict[tuple[int, str], tuple[bool, State]] = {}
    for stage, offload in STAGES:
        engine = start(model_path, config(stage, offload), dtype=dtype)
        engine.train_step(share_of(groups, engine))
        once = state_of(engine)
        engine.train_step(share_of(groups[::-1], engine))
        twice = state_of(engine)
        fresh = start(model_path, config(stage, offload), dtype=dtype)
        put_back(fresh, once, num_updates=1)
        restored = state_of(fresh)
        fresh.train_step(share_of(groups[::-1], fresh))
        again = state_of(fresh)
        is_same = all(torch.equal(t, once[n]) for n, t in restored.items())
        is_same &= all(torch.equal(t, twice[n]) for n, t in again.items())
        found[stage, offload] = (is_same and twice.keys() == again.keys(), twice)
    return found


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
def test_moments_are_kept_and_put_back_by_name_at_every_stage(dtype: str, tiny: str) -> None:
    groups = recorded(tiny, ["av-8fps-odd-frames", "text-only"])
    for found in on_ranks(2, kept_and_put_back, tiny, dtype, groups):
        assert [key for key, (is_same, _) in found.items() if not is_same] == []
        plain = found[0, "none"][1]
        for key, (_, state) in found.items():
            assert state.keys() == plain.keys(), key
            if dtype == "float32":
                # where a gradient is rounding so is AdamW's step: few elements, of a step's size
                far = sum(int((t - plain[n]).abs().gt(1e-5).sum()) for n, t in state.items())
                assert far < 1e-3 * sum(t.numel() for t in state.values()), key


def decayed(model_path: str, groups: list[TrainGroup]) -> list[tuple[State, State, State]]:
    """Per stage, parameters before a step, after it, and after one without decay."""
    found: list[tuple[State, State, State]] = []
    for stage in (0, 1, 2, 3):
        states: list[State] = []
        for decay in (DECAY, 0.0):
            engine = start(model_path, config(stage, "none", decay=decay))
            before = parameters_of(engine)
            engine.train_step(share_of(groups, engine))
            states.append(parameters_of(engine))
        found.append((before, *states))
    return found


def test_biases_and_norms_do_not_decay(tiny: str) -> None:
    groups = recorded(tiny, ["av-8fps-odd-frames", "text-only"])
    for before, with_decay, without in on_ranks(2, decayed, tiny, groups)[0]:
        for name, start_value in before.items():
            shrunk = with_decay[name] - without[name]
            if start_value.ndim == 1:
                assert torch.equal(with_decay[name], without[name]), name
            else:
                assert torch.allclose(shrunk, -LR * DECAY * start_value, rtol=1e-3, atol=1e-6), name
