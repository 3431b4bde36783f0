"""Every rank has random numbers of its own, and goes on with them where it left off."""

import random
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from learner.training.randomness import load_rng_state, rng_state, seed_everything, seed_of


def draws() -> list[float]:
    """Of every generator; an odd number of Gaussians, of which two are made at a time."""
    return [
        *torch.rand(3).tolist(),
        float(torch.nn.functional.dropout(torch.ones(99)).sum()),
        random.random(),
        random.gauss(0, 1),
        *np.random.rand(3).tolist(),
        float(np.random.randn()),
    ]


def test_ranks_and_runs_share_no_seed() -> None:
    seeds = {seed_of(run, rank) for run in range(40) for rank in range(40)}
    assert len(seeds) == 1600
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_repeats_and_another_does_not() -> None:
    found: list[list[float]] = []
    for rank in (0, 1, 0):
        seed_everything(seed_of(7, rank))
        found.append(draws())
    assert found[0] == found[2]
    assert not set(found[0]) & set(found[1])


def test_a_state_goes_through_a_file_and_on_where_it_was(tmp_path: Path) -> None:
    seed_everything(seed_of(3, 2))
    draws()
    save_file(rng_state(), tmp_path / "rng.safetensors")
    expected = [draws(), draws()]
    load_rng_state(load_file(tmp_path / "rng.safetensors"))
    assert [draws(), draws()] == expected
