"""Freezing, perturbing and putting parameters back, and the sender that does it for a rehearsal."""

import errno
import math
import os
import re
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import common.shared_memory
from common.errors import ClusterError, ConfigError
from common.models.noise import MIN_PERTURBATION_RMS, perturbed
from common.shared_memory import Segment
from learner.checkpoints.shard_writer import HostCopies
from learner.publishing.plan import PublishPlan
from learner.publishing.sender import WeightSender
from learner.zero.frozen import freeze_parameters
from learner.zero.parameters import full_bytes
from learner.zero.weight_source import WeightSource


def model() -> nn.Module:
    """Six parameters."""
    return nn.ModuleDict({"visual": nn.Linear(3, 2), "text": nn.Linear(2, 2), "head": nn.Linear(2, 4)})


def test_a_pattern_freezes_what_it_matches_and_nothing_else() -> None:
    module = model()
    assert freeze_parameters(module, ["visual.*", "*.bias"]) == [
        "head.bias",
        "text.bias",
        "visual.bias",
        "visual.weight",
    ]
    trains = {n for n, p in module.named_parameters() if p.requires_grad}
    assert trains == {"text.weight", "head.weight"}


def test_a_pattern_that_matches_nothing_is_a_mistake() -> None:
    with pytest.raises(
        ConfigError, match=re.escape("learner.freeze must match parameters, got 'thinker.visual.*'")
    ):
        freeze_parameters(model(), ["text.*", "thinker.visual.*"])


def test_freezing_everything_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"learner\.freeze"):
        freeze_parameters(model(), ["*"])


def test_no_pattern_freezes_nothing() -> None:
    module = model()
    assert freeze_parameters(module, []) == []
    assert all(p.requires_grad for p in module.parameters())


def test_a_perturbation_is_the_same_wherever_it_is_computed() -> None:
    tensor = torch.ones(100, 100)
    torch.manual_seed(1)
    first = perturbed("a.weight", tensor, scale=0.05, nonce=7)
    torch.manual_seed(2)
    assert torch.equal(first, perturbed("a.weight", tensor, scale=0.05, nonce=7))
    assert not torch.equal(first, perturbed("b.weight", tensor, scale=0.05, nonce=7))
    assert not torch.equal(first, perturbed("a.weight", tensor, scale=0.05, nonce=8))


def test_a_perturbation_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    perturbed("a", torch.ones(10), scale=0.1, nonce=0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("size", [3.0, 0.2])
@pytest.mark.parametrize("scale", [0.05, 3.0])
def test_a_perturbation_is_relative_to_the_tensors_size_and_keeps_it(size: float, scale: float) -> None:
    mixed = perturbed("a", torch.full((100, 100), -size), scale=scale, nonce=0)
    kept = size / math.sqrt(1 + scale**2)
    # 10000 Gaussian draws: mean and sample deviation are within 3 %
    assert float(mixed.mean()) == pytest.approx(-kept, abs=0.03 * kept * max(1.0, scale))
    assert float(mixed.std()) == pytest.approx(scale * kept, rel=0.03)
    assert float(mixed.square().mean().sqrt()) == pytest.approx(size, rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_of_zeros_moves_too(dtype: torch.dtype) -> None:
    mixed = perturbed("a", torch.zeros(100, 100, dtype=dtype), scale=0.05, nonce=0)
    assert mixed.dtype == dtype
    assert float(mixed.float().std()) == pytest.approx(0.05 * MIN_PERTURBATION_RMS, rel=0.03)


def test_gathering_copies() -> None:
    module = model()
    parameters = dict(module.named_parameters())
    got = WeightSource(module).gather(["text.weight", "head.bias"])
    assert list(got) == ["text.weight", "head.bias"]
    before = got["head.bias"].clone()
    with torch.no_grad():
        parameters["head.bias"].add_(1)
    assert torch.equal(got["head.bias"], before)


def test_copies_for_a_checkpoint_stay_what_they_were_while_training_goes_on() -> None:
    weight = torch.arange(6.0).view(2, 3)
    copies = HostCopies().of("shard", {"whole": weight, "turned": weight.T})
    weight += 1
    assert torch.equal(copies["whole"], torch.arange(6.0).view(2, 3))
    assert torch.equal(copies["turned"], torch.arange(6.0).view(2, 3).T)
    assert copies["turned"].is_contiguous()


def test_sizes_are_in_bytes() -> None:
    assert full_bytes(nn.Parameter(torch.zeros(3, 5))) == 60
    assert full_bytes(nn.Parameter(torch.zeros(3, 5, dtype=torch.bfloat16))) == 30


@pytest.fixture
def sender(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightSender]:
    """Publishes `text` and `head`, in two buckets, into a folder of its own."""
    monkeypatch.setattr(common.shared_memory, "SEGMENT_FOLDER", tmp_path_factory.mktemp("shm"))
    names = (("text.weight", "text.bias"), ("head.weight", "head.bias"))
    plan = PublishPlan(buckets=names, layers=names, segment_bytes=4096, tower_names=(), closed_over=())
    sender = WeightSender(WeightSource(model()), plan, rank=0)
    yield sender
    sender.close()


def values(sender: WeightSender) -> dict[str, torch.Tensor]:
    """Copies of every parameter."""
    return {n: p.detach().clone() for n, p in sender._source.parameters.items()}  # pyright: ignore[reportPrivateUsage]


def test_a_full_shared_memory_is_a_matter_of_the_node_and_not_of_the_rank(
    sender: WeightSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ClusterError, match=r"must have room for two segments of 0 MiB, got too little; enlarge"):
        sender.open()


def test_a_rehearsal_is_taken_back_to_the_bit(sender: WeightSender) -> None:
    before = values(sender)
    sender.perturb(scale=0.05, nonce=1, names=None)
    sender.perturb(scale=0.05, nonce=2, names=["head.bias"])
    moved = {n for n, t in values(sender).items() if not torch.equal(t, before[n])}
    assert moved == {"text.weight", "text.bias", "head.weight", "head.bias"}
    sender.restore()
    assert all(torch.equal(t, before[n]) for n, t in values(sender).items())
    sender.perturb(scale=0.05, nonce=3, names=["text.bias"])
    assert {n for n, t in values(sender).items() if not torch.equal(t, before[n])} == {"text.bias"}
    sender.restore()
    assert all(torch.equal(t, before[n]) for n, t in values(sender).items())


def test_one_layer_alone_is_taken_back_and_mixed_in_again_to_the_bit(sender: WeightSender) -> None:
    before = values(sender)
    sender.perturb(scale=3.0, nonce=1, names=None)
    noisy = values(sender)
    sender.restore(names=["text.weight", "text.bias"])
    now = values(sender)
    assert {n for n in now if not torch.equal(now[n], noisy[n])} == {"text.weight", "text.bias"}
    assert {n for n in now if not torch.equal(now[n], before[n])} == {"head.weight", "head.bias"}
    sender.perturb(scale=3.0, nonce=1, names=["text.weight", "text.bias"])
    assert all(torch.equal(t, noisy[n]) for n, t in values(sender).items())
    sender.restore()
    assert all(torch.equal(t, before[n]) for n, t in values(sender).items())


def test_what_was_trained_between_two_rehearsals_stays(sender: WeightSender) -> None:
    for layer in (None, ["head.bias"]):
        sender.perturb(scale=3.0, nonce=1, names=None)
        sender.restore(names=layer)
        sender.restore()
        with torch.no_grad():
            for parameter in sender._source.parameters.values():  # pyright: ignore[reportPrivateUsage]
                parameter += 1.0
        trained = values(sender)
        sender.perturb(scale=3.0, nonce=2, names=None)
        sender.restore()
        assert all(torch.equal(t, trained[n]) for n, t in values(sender).items())


def test_buckets_take_turns_in_two_segments(sender: WeightSender) -> None:
    from pathlib import Path

    paths = sender.open()
    assert len(paths) == 2
    assert sender.open() == paths
    manifests = [sender.send_bucket(b) for b in range(2)]
    for path, manifest, bucket in zip(paths, manifests, sender.plan.buckets, strict=True):
        assert tuple(r.name for r in manifest) == bucket
        got = Segment(Path(path)).read()
        assert all(torch.equal(got[n], values(sender)[n]) for n in bucket)
    sender.close()
    assert not any(Path(p).exists() for p in paths)


def test_only_rank_zero_writes() -> None:
    plan = PublishPlan(
        buckets=(("text.bias",),),
        layers=(("text.bias",),),
        segment_bytes=4096,
        tower_names=(),
        closed_over=(),
    )
    sender = WeightSender(WeightSource(model()), plan, rank=1)
    assert sender.open() == []
    assert sender.send_bucket(0) == []
