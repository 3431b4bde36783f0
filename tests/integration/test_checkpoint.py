"""What a checkpoint holds is what training needs: two steps are one, a checkpoint, and another one."""

from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from common.config.learner import LearnerConfig, OptimizerConfig
from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint
from common.types import Group
from learner.actor import RankClients
from learner.checkpoints import checkpoint
from tests.integration.conftest import Run
from tests.integration.test_learner import recorded_groups
from tests.support.engines import start_ranks, stop_ranks
from tests.support.ranks import on_ranks, start


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


def save_both(model: str, folder: Path) -> None:
    """What a cold start leaves, and a checkpoint of training that starts from it."""
    start(model, config(1, 2)).checkpoints.save_hf(folder / "cold_start")
    checkpoints = start(str(folder / "cold_start"), config(1, 2)).checkpoints
    target = folder / "step_000001"
    checkpoints.begin_save(checkpoint.begin(target), target, state="{}\n", num_updates=1)
    checkpoints.writer.wait()


def test_sub_folders_of_the_model_survive_the_cold_start_and_a_checkpoint(tmp_path: Path) -> None:
    model = build_tiny_checkpoint(tmp_path / "model", seed=1)
    template = Path("additional_chat_templates", "tool_use.jinja")
    (model / template).parent.mkdir()
    (model / template).write_text("{{ tools }}")
    on_ranks(1, save_both, str(model), tmp_path)
    for hf in (tmp_path / "cold_start", tmp_path / "step_000001" / "hf"):
        assert (hf / template).read_text() == "{{ tools }}"
    assert checkpoint.fault_of(tmp_path / "step_000001") is None
    (tmp_path / "step_000001" / "hf" / template).write_text("{{ fools }}")
    fault = checkpoint.fault_of(tmp_path / "step_000001")
    assert fault == f"hf/{template} holds other bytes than were written"
