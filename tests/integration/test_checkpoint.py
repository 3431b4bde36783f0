"""What a checkpoint holds is what training needs: two steps are one, a checkpoint, and another one."""

from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from common.config.learner import LearnerConfig, OptimizerConfig
from common.types import Group
from learner import checkpoint
from learner.actor import RankClients
from tests.integration.conftest import Run
from tests.integration.test_learner import recorded_groups
from tests.support.engines import start_ranks, stop_ranks


def config(num_ranks: int, zero_stage: Any) -> LearnerConfig:
    """A step that moves."""
    return LearnerConfig(
        num_ranks=num_ranks,
        zero_stage=zero_stage,
        beta=0.0,
        optimizer=OptimizerConfig(lr=1e-3, schedule="constant", warmup_steps=4),
    )


async def save(ranks: RankClients, folder: Path) -> None:
    """A checkpoint of step 1, in place."""
    target = folder / "step_000001"
    await ranks.begin_save(checkpoint.begin(target), target, checkpoint.state_text(checkpoint.START))
    await ranks.wait_saved()
    assert checkpoint.fault_of(target) is None


def take_steps(
    run: Run, model_path: str, settings: LearnerConfig, batches: list[list[Group]], *, resume: Path | None = None
) -> tuple[torch.Tensor, float, Any]:
    """Log-probabilities of the first batch after the steps, the last learning rate, and the ranks, open."""
    ranks, _ = start_ranks(model_path, config=settings)
    if resume is not None:
        run(ranks.load_optimizer(resume))
    lr = 0.0
    for groups in batches:
        lr = run(ranks.train(groups))["learner/lr"]
    prompt = ray.get(recorded_groups(model_path, ["av-8fps-odd-frames"])[0].prompt.media)
    ids = [s.completion.token_ids for s in recorded_groups(model_path, ["av-8fps-odd-frames"])[0].samples]
    scores = run(ranks.score([prompt], [ids]))
    return torch.tensor([x for row in scores[0] for x in row]), lr, ranks


@pytest.mark.parametrize(
    ("zero_stage", "num_ranks", "num_ranks_after"),
    [
        (2, 2, 2),
        pytest.param(2, 2, 1, marks=pytest.mark.long),
        pytest.param(0, 1, 1, marks=pytest.mark.long),
        pytest.param(1, 2, 2, marks=pytest.mark.long),
        pytest.param(3, 2, 2, marks=pytest.mark.long),
    ],
)
def test_two_steps_are_one_a_checkpoint_and_another(
    zero_stage: int, num_ranks: int, num_ranks_after: int, run: Run, local_ray: None, untied: str, tmp_path: Path
) -> None:
    first = recorded_groups(untied, ["av-8fps-odd-frames", "audio-only"], seed=1)
    second = recorded_groups(untied, ["text-only", "video-only-one-frame"], seed=2)
    whole, whole_lr, ranks = take_steps(run, untied, config(num_ranks, zero_stage), [first, second])
    stop_ranks(ranks)
    before, _, ranks = take_steps(run, untied, config(num_ranks, zero_stage), [first])
    run(save(ranks, tmp_path))
    stop_ranks(ranks)
    target = tmp_path / "step_000001"
    hf = str(target / "hf")
    settings = config(num_ranks_after, zero_stage)
    loaded, _, ranks = take_steps(run, hf, settings, [], resume=target)
    stop_ranks(ranks)
    assert torch.allclose(loaded, before, atol=1e-5), "the weights are those that were saved"
    resumed, resumed_lr, ranks = take_steps(run, hf, settings, [second], resume=target)
    stop_ranks(ranks)
    fresh, _, ranks = take_steps(run, hf, settings, [second])
    stop_ranks(ranks)
    assert resumed_lr == whole_lr
    moved = float((whole - before).abs().mean())
    assert float((resumed - whole).abs().mean()) < 0.01 * moved
    # what the moments are for: without them the same step goes elsewhere
    assert float((fresh - whole).abs().mean()) > 0.1 * moved
