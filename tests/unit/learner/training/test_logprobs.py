"""The distance between sampler and learner."""

import math

import pytest
import torch

from learner.training.logprobs import mismatch


def test_by_hand() -> None:
    learner, sampler = torch.tensor([[-1.0, -2.0, -9.0]]), torch.tensor([[-1.5, -1.0, 0.0]])
    got = mismatch(learner, sampler, torch.tensor([[1.0, 1.0, 0.0]]))
    assert got.num_tokens == 2.0
    assert got.sum_abs == pytest.approx(1.5)
    assert got.max_abs == pytest.approx(1.0)
    # tokens come from the sampler: KL(sampler || learner) by k3 with d = learner - sampler
    expected = (math.exp(0.5) - 0.5 - 1) + (math.exp(-1.0) + 1.0 - 1)
    assert got.sum_kl_rollout == pytest.approx(expected, rel=1e-6)


def test_parts_add_up_to_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    learner, sampler = (torch.randn(6, 4, generator=generator) for _ in range(2))
    mask = (torch.rand(6, 4, generator=generator) > 0.3).float()
    whole = mismatch(learner, sampler, mask)
    parts = [mismatch(learner[i : i + 2], sampler[i : i + 2], mask[i : i + 2]) for i in (0, 2, 4)]
    assert sum(p.num_tokens for p in parts) == whole.num_tokens
    assert sum(p.sum_abs for p in parts) == pytest.approx(whole.sum_abs, rel=1e-6)
    assert sum(p.sum_kl_rollout for p in parts) == pytest.approx(whole.sum_kl_rollout, rel=1e-6)
    assert max(p.max_abs for p in parts) == whole.max_abs


def test_masked_positions_take_no_part() -> None:
    mask = torch.tensor([[1.0, 0.0]])
    got = mismatch(torch.tensor([[-1.0, math.nan]]), torch.tensor([[-1.0, math.inf]]), mask)
    assert (got.sum_abs, got.max_abs, got.sum_kl_rollout) == (0.0, 0.0, 0.0)


def test_a_nan_on_a_trained_token_is_seen() -> None:
    got = mismatch(torch.tensor([[-1.0, math.nan]]), torch.tensor([[-1.0, -1.0]]), torch.ones(1, 2))
    assert math.isnan(got.sum_abs)
    assert math.isnan(got.max_abs)
