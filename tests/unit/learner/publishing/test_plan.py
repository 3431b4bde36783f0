"""What a publish sends: whole layers of the engine, in buckets that never cut one."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.models.qwen2_5_omni.fusion import TOWER_PREFIXES, engine_layer
from common.models.qwen2_5_omni.policy import Qwen2_5OmniPolicy
from common.shared_memory import _layout  # pyright: ignore[reportPrivateUsage]
from learner.publishing.plan import PublishPlan, plan_publish
from learner.zero.weight_source import WeightSource

ATTENTION = "thinker.model.layers.0.self_attn"


class NamedSizes(WeightSource):
    """Names without tensors: whether each moves, and its bytes, 100 unless told."""

    def __init__(self, moving: dict[str, bool], sizes: dict[str, int]) -> None:
        super().__init__(torch.nn.Module())
        self._moving, self._sizes = moving, sizes

    @property
    def parameters(self) -> Any:
        return self._moving

    def moves(self, name: str) -> bool:
        return self._moving[name]

    def num_bytes(self, name: str) -> int:
        return self._sizes.get(name, 100)


def plan_of(
    parameters: list[tuple[str, bool]], *, bucket_bytes: int = 2**20, sizes: dict[str, int] | None = None
) -> PublishPlan:
    """Of names and whether each trains; 100 bytes each unless told."""
    return plan_publish(
        NamedSizes(dict(parameters), sizes or {}),
        engine_layer=engine_layer,
        tower_prefixes=TOWER_PREFIXES,
        bucket_bytes=bucket_bytes,
    )


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("thinker.model.layers.0.self_attn.k_proj.bias", "thinker.model.layers.0.self_attn.qkv_proj"),
        ("thinker.model.layers.11.self_attn.q_proj.weight", "thinker.model.layers.11.self_attn.qkv_proj"),
        ("thinker.model.layers.0.self_attn.v_proj.weight", "thinker.model.layers.0.self_attn.qkv_proj"),
        ("thinker.model.layers.0.self_attn.o_proj.weight", "thinker.model.layers.0.self_attn.o_proj"),
        ("thinker.model.layers.0.mlp.gate_proj.weight", "thinker.model.layers.0.mlp.gate_up_proj"),
        ("thinker.model.layers.0.mlp.up_proj.weight", "thinker.model.layers.0.mlp.gate_up_proj"),
        ("thinker.model.layers.0.mlp.down_proj.weight", "thinker.model.layers.0.mlp.down_proj"),
        ("thinker.model.layers.0.input_layernorm.weight", "thinker.model.layers.0.input_layernorm"),
        ("thinker.model.embed_tokens.weight", "thinker.model.embed_tokens"),
        ("thinker.lm_head.weight", "thinker.lm_head"),
        ("thinker.visual.blocks.3.attn.q.weight", "thinker.visual.blocks.3.attn.qkv"),
        ("thinker.visual.blocks.3.attn.v.bias", "thinker.visual.blocks.3.attn.qkv"),
        ("thinker.visual.blocks.3.attn.proj.weight", "thinker.visual.blocks.3.attn.proj"),
        ("thinker.visual.blocks.3.mlp.up_proj.bias", "thinker.visual.blocks.3.mlp.gate_up_proj"),
        # the audio tower keeps its projections apart
        ("thinker.audio_tower.layers.0.self_attn.q_proj.weight", "thinker.audio_tower.layers.0.self_attn.q_proj"),
        ("thinker.audio_tower.layers.0.self_attn.k_proj.weight", "thinker.audio_tower.layers.0.self_attn.k_proj"),
        ("thinker.audio_tower.conv1.bias", "thinker.audio_tower.conv1"),
    ],
)
def test_a_tensor_belongs_to_the_engines_layer(name: str, layer: str) -> None:
    assert engine_layer(name) == layer


@pytest.mark.parametrize("trained", ["q_proj.weight", "k_proj.weight", "v_proj.bias"])
def test_one_part_of_a_fused_layer_brings_the_others(trained: str) -> None:
    names = [f"{ATTENTION}.{p}_proj.{kind}" for p in "qkv" for kind in ("weight", "bias")]
    plan = plan_of([(n, n.endswith(trained)) for n in names] + [(f"{ATTENTION}.o_proj.weight", False)])
    assert plan.layers == (tuple(names),)
    assert plan.buckets == (tuple(names),)
    assert sorted(plan.closed_over) == sorted(n for n in names if not n.endswith(trained))


def test_a_frozen_layer_is_not_published() -> None:
    plan = plan_of([("thinker.lm_head.weight", True), ("thinker.model.norm.weight", False)])
    assert plan.names == ("thinker.lm_head.weight",)
    assert plan.closed_over == ()


def test_nothing_that_trains_publishes_nothing() -> None:
    plan = plan_of([("thinker.lm_head.weight", False)])
    assert (plan.names, plan.buckets, plan.changes_towers) == ((), (), False)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("thinker.visual.blocks.0.norm1.weight", True),
        ("thinker.audio_tower.conv1.weight", True),
        ("thinker.model.norm.weight", False),
        ("thinker.visuals.weight", False),
    ],
)
def test_towers_change_when_something_in_them_trains(name: str, changes: bool) -> None:
    frozen = [("thinker.visual.merger.mlp.0.weight", False), ("thinker.audio_tower.proj.weight", False)]
    assert plan_of([(name, True), *frozen]).changes_towers is changes


layers = st.lists(st.tuples(st.integers(0, 5000), st.booleans(), st.integers(0, 2)), min_size=1, max_size=12)


@given(layers, st.integers(1, 20_000))
def test_no_bucket_cuts_a_layer(shapes: list[tuple[int, bool, int]], bucket_bytes: int) -> None:
    parameters: list[tuple[str, bool]] = []
    sizes: dict[str, int] = {}
    for index, (size, trains, kind) in enumerate(shapes):
        parts = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("down_proj",))[kind]
        for part in parts:
            name = f"thinker.model.layers.{index}.x.{part}.weight"
            sizes[name] = size
            parameters.append((name, trains and part == parts[-1]))
    plan = plan_of(parameters, bucket_bytes=bucket_bytes, sizes=sizes)
    home = {name: index for index, bucket in enumerate(plan.buckets) for name in bucket}
    assert len(home) == len(plan.names)
    for layer in plan.layers:
        assert len({home[name] for name in layer}) == 1
    # closed: a layer with a trained tensor is there as a whole, and no other is
    trained = {engine_layer(n) for n, trains in parameters if trains}
    assert set(plan.names) == {n for n, _ in parameters if engine_layer(n) in trained}
    # only a layer too large for any bucket makes one larger than wanted
    for bucket in plan.buckets:
        total = sum(sizes[n] + 264 for n in bucket)
        assert total <= min(plan.segment_bytes, bucket_bytes) or len({engine_layer(n) for n in bucket}) == 1
        assert total <= plan.segment_bytes


@pytest.mark.parametrize("bucket_bytes", [2**16, 2**18, 2**30])
def test_every_bucket_of_a_model_fits_its_segment(policy: Qwen2_5OmniPolicy, bucket_bytes: int) -> None:
    parameters = dict(policy.named_parameters())
    plan = plan_publish(
        WeightSource(policy), engine_layer=engine_layer, tower_prefixes=TOWER_PREFIXES, bucket_bytes=bucket_bytes
    )
    assert sorted(plan.names) == sorted(parameters)
    assert plan.changes_towers
    buckets = [{n: torch.empty_like(parameters[n]) for n in bucket} for bucket in plan.buckets]
    assert max(_layout(bucket)[2] for bucket in buckets) <= plan.segment_bytes
    # alone, weight and bias, gate and up with biases, q and k and v with biases
    sizes = {len(layer) for layer in plan.layers}
    assert sizes == {1, 2, 4, 6}
