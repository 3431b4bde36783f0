"""The memory that a plan gives an engine, against real ones."""

import asyncio
from pathlib import Path

import pytest
import ray
from rich.console import Console

from common.config.load import load_config
from common.config.run import OmniConfig
from common.errors import ClusterError
from common.types import ProcessedPrompt
from deploy.checks.memory_plan import engine_cache_bytes, model_sizes
from deploy.reporting.progress import Progress
from deploy.wiring import open_run
from tests.integration.conftest import Run
from tests.support.engines import SAMPLING, start_engine

pytestmark = pytest.mark.usefixtures("local_ray")


def config_of(model_path: str, *overrides: str) -> OmniConfig:
    """In float32."""
    return load_config(None, ["--model.path", model_path, "--model.dtype=float32", *overrides])


@pytest.mark.long
def test_the_planned_cache_starts_an_engine_and_holds_its_longest_sequences(run: Run, untied: str) -> None:
    # three blocks a sequence, of which the prompt alone takes three
    config = config_of(untied, "--rollout.max_model_len=300", "--rollout.max_num_seqs=1")
    cache = engine_cache_bytes(config, model_sizes(Path(untied)))
    assert cache is not None
    settings = config.rollout.model_copy(update={"kv_cache_gib": cache / 2**30})
    client = start_engine(untied, config=settings)
    prompt = ProcessedPrompt(
        prompt_token_ids=(5,) * (300 - SAMPLING.max_tokens), tensors={}, placeholders={}, clip_hash="long"
    )
    try:
        # a sequence that never fits would wait for ever
        run(asyncio.wait_for(client.warm_up([prompt]), 150))
    finally:
        ray.kill(client.handle)


def test_a_run_whose_engines_do_not_fit_is_refused_and_leaves_its_folder_alone(
    run: Run, untied: str, tmp_path: Path
) -> None:
    source = "--data.source={type: synthetic, num_cold_start: 7, num_train: 7, num_validation: 0, num_heldout: 3}"
    config = config_of(untied, f"--run.root={tmp_path}", "--rollout.kv_cache_gib=90000", source)

    async def opened() -> None:
        async with open_run(config, Progress(Console(quiet=True))):
            pass

    with pytest.raises(ClusterError, match=r"engines on this machine must fit .* cache 90000.00 GiB"):
        run(opened())
    assert not (config.run.folder / "config.yaml").exists()
