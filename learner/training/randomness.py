"""The random numbers of one rank: its seed, and the states that a checkpoint stores."""

import hashlib
import random
from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor


def seed_of(seed: int, rank: int) -> int:
    """A hash of the run's seed and the rank, in 63 bits."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{rank}".encode(), digest_size=8).digest(), "little") >> 1


def seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def rng_state() -> dict[str, Tensor]:
    """States of all generators of this process, as tensors on the CPU."""
    version, internal, gauss = random.getstate()
    numbers = np.random.get_state(legacy=False)
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *internal], dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([*numbers["state"]["key"].tolist(), numbers["state"]["pos"], numbers["has_gauss"]]),
        "numpy_gauss": torch.tensor([numbers["gauss"]], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def load_rng_state(state: Mapping[str, Tensor]) -> None:
    """Restores the states that `rng_state` returned."""
    torch.set_rng_state(state["torch"])
    version, *internal = cast(list[int], state["python"].tolist())
    gauss = cast(list[float], state["python_gauss"].tolist())
    random.setstate((version, tuple(internal), gauss[0] if gauss else None))
    *key, pos, has_gauss = cast(list[int], state["numpy"].tolist())
    np.random.set_state(("MT19937", np.array(key, dtype=np.uint32), pos, has_gauss, float(state["numpy_gauss"])))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
