"""One tiny checkpoint and one small corpus for all tests of this tier; nobody writes to them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from common.config.data import SyntheticDataConfig
from common.datasets.synthetic.corpus import write_synthetic_corpus
from tests.support.once import made_once

if TYPE_CHECKING:
    from common.models.qwen2_5_omni.policy import Qwen2_5OmniPolicy


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random checkpoint of the real architecture."""
    import torch

    from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint

    torch.set_num_threads(1)
    return str(made_once(tmp_path_factory, "tiny", lambda folder: build_tiny_checkpoint(folder, seed=3)))


@pytest.fixture(scope="session")
def policy(tiny: str) -> "Qwen2_5OmniPolicy":
    """The learner's module on CPU in float32."""
    import torch

    from common.models.qwen2_5_omni.policy import load_policy

    return load_policy(tiny, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def thinker(tiny: str) -> Any:
    """transformers' own model, loaded apart from the learner's."""
    import torch
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    return Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tiny, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a written synthetic corpus: 56 clips to train on, a few of the other splits."""
    config = SyntheticDataConfig(
        type="synthetic", num_cold_start=7, num_train=56, num_validation=0, num_heldout=3, seed=5
    )
    return made_once(tmp_path_factory, "corpus", lambda folder: write_synthetic_corpus(folder, config))
