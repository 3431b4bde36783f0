"""Adapters: what trains, what is published, what the reference is, and what a checkpoint takes up."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from common.config.learner import LearnerConfig, LoraConfig, OptimizerConfig
from common.errors import ConfigError, ModelError
from common.models.qwen2_5_omni.policy import load_policy
from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint
from common.models.tokens import pack_tokens
from learner.engine import LearnerEngine
from learner.training.batch import TrainGroup
from learner.training.lora import CONFIG_FILE, WEIGHTS_FILE, inject_adapters
from learner.training.randomness import load_rng_state, rng_state
from learner.zero import optimizer_state
from tests.support.ranks import on_ranks, parameters_of, recorded, share_of, start, state_of

pytestmark = pytest.mark.long

BETA, ATTENTION = 0.1, "thinker.model.layers.*.self_attn.[qo]_proj"
NAMES = ["av-8fps-odd-frames", "text-only", "audio-only"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights."""
    return str(build_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", seed=3))


def config(zero_stage: Any, *, dropout: float = 0.0, **changes: Any) -> LearnerConfig:
    """Adapters on some attention layers, and a reference."""
    return LearnerConfig(
        zero_stage=zero_stage,
        beta=BETA,
        old_logprobs="rollout",
        optimizer=OptimizerConfig(lr=1e-2, schedule="constant"),
        lora=LoraConfig(rank=4, alpha=8.0, dropout=dropout, targets=(ATTENTION,)),
        **changes,
    )


def logprobs_of(policy: Any, groups: list[TrainGroup]) -> torch.Tensor:
    """Of every completion, flat."""
    found: list[torch.Tensor] = []
    with torch.no_grad():
        for group in groups:
            batch = pack_tokens([group.prompt], [group.token_ids], pad_token_id=0)
            found.append(policy(batch)[0][batch.mask.bool()])
    return torch.cat(found)


def scores_of(engine: LearnerEngine, groups: list[TrainGroup]) -> torch.Tensor:
    """The same through the engine."""
    scores = engine.score([g.prompt for g in groups], [g.token_ids for g in groups])
    return torch.tensor([x for group in scores for row in group for x in row])


def train(model_path: str, groups: list[TrainGroup]) -> list[dict[str, Any]]:
    """Per setting: metrics of three steps, what was published before and after, scores, the adapter."""
    found: list[dict[str, Any]] = []
    settings = [config(stage) for stage in (0, 1, 2, 3)]
    settings.append(config(3, gradient_checkpointing=True, offload="parameters"))
    for setting in settings:
        engine = start(model_path, setting)
        before = parameters_of(engine)
        metrics = [engine.train_step(share_of(groups, engine)) for _ in range(3)]
        after, scores = parameters_of(engine), scores_of(engine, groups)
        engine.sender.perturb(scale=0.05, nonce=1, names=None)
        moved, moved_scores = parameters_of(engine), scores_of(engine, groups)
        engine.sender.restore()
        found.append(
            {
                "metrics": metrics,
                "before": before,
                "after": after,
                "scores": scores,
                "moved": moved,
                "moved_scores": moved_scores,
                "restored": parameters_of(engine),
                "plan": engine.sender.plan,
                "adapter": engine.checkpoints.adapter(),
            }
        )
    return found


@pytest.fixture(scope="module")
def groups(tiny: str) -> list[TrainGroup]:
    return recorded(tiny, NAMES, size=3)


@pytest.fixture(scope="module")
def trained(tiny: str, groups: list[TrainGroup]) -> list[dict[str, Any]]:
    """What rank 0 of two found: three groups, so that one rank has a pass more than the other."""
    return on_ranks(2, train, tiny, groups)[0]


def test_every_stage_trains_the_same_adapters(trained: list[dict[str, Any]]) -> None:
    for found in trained[1:]:
        for mine, other in zip(found["metrics"], trained[0]["metrics"], strict=True):
            for key in ("learner/loss", "learner/grad_norm", "learner/kl_ref/mean"):
                assert mine[key] == pytest.approx(other[key], rel=1e-4, abs=1e-9), key


def test_what_is_published_is_the_adapters_merged_into_their_layers(
    trained: list[dict[str, Any]], tiny: str, groups: list[TrainGroup]
) -> None:
    plain = load_policy(tiny, dtype=torch.float32)
    for found in trained:
        start_state, after = found["before"], found["after"]
        assert all(torch.equal(t, start_state[n]) for n, t in plain.named_parameters())
        changed = {n for n, t in after.items() if not torch.equal(t, start_state[n])}
        assert changed == {f"thinker.model.layers.{i}.self_attn.{p}_proj.weight" for i in (0, 1) for p in "qo"}
        # whole layers of the engine: q brings k and v, and their biases
        assert changed < set(found["plan"].names)
        assert len(found["plan"].names) == 2 * (6 + 1)
        assert not found["plan"].changes_towers
        for state, scores in (("after", "scores"), ("moved", "moved_scores")):
            merged = load_policy(tiny, dtype=torch.float32)
            merged.load_state_dict(found[state], strict=False)
            assert torch.allclose(logprobs_of(merged, groups), found[scores], rtol=0, atol=1e-4)
        assert all(torch.equal(t, found["restored"][n]) for n, t in after.items())
        assert all(not torch.equal(found["moved"][n], after[n]) for n in found["plan"].names)


def test_the_reference_is_the_policy_without_its_adapters(
    trained: list[dict[str, Any]], tiny: str, groups: list[TrainGroup]
) -> None:
    base = logprobs_of(load_policy(tiny, dtype=torch.float32), groups)
    for found in trained:
        kls = [m["learner/kl_ref/mean"] for m in found["metrics"]]
        assert kls[0] == pytest.approx(0.0, abs=1e-9)
        assert kls[2] > 1e-4
    # the last step's by hand, from the weights before it
    engine_kl = trained[0]["metrics"][2]["learner/kl_ref/mean"]
    for_two = on_ranks(1, two_steps, tiny, groups)[0]
    difference = base - for_two
    assert engine_kl == pytest.approx(float((difference.exp() - difference - 1).mean()), rel=1e-3)


def two_steps(model_path: str, groups: list[TrainGroup]) -> torch.Tensor:
    """Log-probabilities after them."""
    engine = start(model_path, config(0))
    for _ in range(2):
        engine.train_step(groups)
    return scores_of(engine, groups)


def test_peft_reads_the_adapter_beside_the_model_it_was_trained_on(
    trained: list[dict[str, Any]], tiny: str, groups: list[TrainGroup], tmp_path: Path
) -> None:
    from peft import PeftModel

    tensors, written = trained[3]["adapter"]
    save_file(tensors, tmp_path / WEIGHTS_FILE)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(written))
    policy = load_policy(tiny, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(policy, str(tmp_path))
    assert torch.allclose(logprobs_of(adapted, groups), trained[3]["scores"], rtol=0, atol=1e-4)
    assert written["base_model_name_or_path"] == tiny


def resume(model_path: str, groups: list[TrainGroup], folder: str) -> list[bool]:
    """Per stage, whether an engine that took up adapters, moments and random numbers takes the same next step."""
    same: list[bool] = []
    for stage in (0, 1, 2, 3):
        engine = start(model_path, config(stage, dropout=0.3))
        engine.train_step(share_of(groups, engine))
        once, (tensors, _), random = state_of(engine), engine.checkpoints.adapter(), rng_state()
        engine.train_step(share_of(groups, engine))
        home = Path(folder) / f"{stage}-{engine.rank}"
        home.mkdir()
        save_file(tensors, home / WEIGHTS_FILE)
        fresh = start(model_path, config(stage, dropout=0.3), seed=99)
        fresh.checkpoints.load_adapter(home)
        names = {n: p for n, p in fresh._module.named_parameters() if p.requires_grad}
        optimizer_state.write_state(fresh._deepspeed, names, once, num_updates=1)
        load_rng_state(random)
        restored = state_of(fresh)
        fresh.train_step(share_of(groups, fresh))
        twice = state_of(engine)
        same.append(
            all(torch.equal(t, once[n]) for n, t in restored.items())
            and all(torch.equal(t, twice[n]) for n, t in state_of(fresh).items())
        )
    return same


def test_adapters_moments_and_random_numbers_are_taken_up_bit_for_bit(
    tiny: str, groups: list[TrainGroup], tmp_path: Path
) -> None:
    assert on_ranks(2, resume, tiny, groups, str(tmp_path)) == [[True] * 4] * 2


def refusals(model_path: str, folder: str) -> list[str]:
    """What an engine says to adapters of another rank and of other layers, and to another reference."""
    said: list[str] = []
    engine = start(model_path, config(2))
    tensors, _ = engine.checkpoints.adapter()
    for broken in ({n: t[:, :3] for n, t in tensors.items()}, dict(list(tensors.items())[1:])):
        save_file({n: t.contiguous() for n, t in broken.items()}, Path(folder) / WEIGHTS_FILE)
        with pytest.raises(ModelError) as caught:
            engine.checkpoints.load_adapter(Path(folder))
        said.append(str(caught.value))
    with pytest.raises(ConfigError) as refused:
        start(model_path, config(0), reference_path=folder)
    return [*said, str(refused.value)]


def test_what_does_not_belong_together_is_refused(tiny: str, tmp_path: Path) -> None:
    (said,) = on_ranks(1, refusals, tiny, str(tmp_path))
    assert "run's own learner.lora.rank" in said[0]
    assert "run's own learner.lora.targets" in said[1]
    assert "the model under learner.lora must be the reference" in said[2]


@pytest.mark.parametrize(
    ("targets", "tied", "said"),
    [
        (("thinker.model.*.nothing",), False, "must match linear layers, got 'thinker.model.*.nothing'"),
        (("thinker.model.norm",), False, "must match linear layers"),
        (("thinker.lm_head",), True, "must not match a tied layer, got 'thinker.lm_head'"),
        (("thinker.visual.*",), False, "must match a layer that learner.freeze leaves"),
    ],
)
def test_targets_that_cannot_be_adapted_are_named(
    targets: tuple[str, ...], tied: bool, said: str, tmp_path: Path
) -> None:
    folder = build_tiny_checkpoint(tmp_path / "model", tied=tied)
    policy = load_policy(str(folder), dtype=torch.float32)
    policy.thinker.visual.requires_grad_(False)
    with pytest.raises(ConfigError, match=said.replace("*", r"\*").replace("[", r"\[")):
        inject_adapters(policy, LoraConfig(targets=targets), seed=0)
