"""One tiny checkpoint for all tests of this tier; nobody writes to it."""

from typing import Any

import pytest
import torch

from common.models.qwen2_5_omni.policy import Qwen2_5OmniPolicy, load_policy
from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random checkpoint of the real architecture."""
    torch.set_num_threads(1)
    return str(build_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", seed=3))


@pytest.fixture(scope="session")
def policy(tiny: str) -> Qwen2_5OmniPolicy:
    """The learner's module on CPU in float32."""
    return load_policy(tiny, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def thinker(tiny: str) -> Any:
    """transformers' own model, loaded apart from the learner's."""
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    return Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tiny, dtype=torch.float32).eval()
