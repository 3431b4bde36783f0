"""The paper's three stages: their settings, their lengths, and that they fit a node of eight GPUs."""

import json
import re
from pathlib import Path

import pytest

from common.config.corpora import MixDataConfig
from common.config.load import load_config
from common.config.run import OmniConfig
from common.datasets.cold_start.records import NUM_ANNOTATED, NUM_EXPLAINED
from common.datasets.corpora.dfew import FOLD_SIZES as DFEW_SIZES
from common.datasets.corpora.mafw import FOLD_SIZES as MAFW_SIZES
from deploy.checks.preflight import Corpora, with_steps
from deploy.commands.train import main
from tests.support.builders import make_record
from tests.support.sparse import write_sparse_checkpoint

STAGES = ("r1_omni_cold_start", "mafw_dfew_sft", "r1_omni_grpo")


def config_of(name: str) -> OmniConfig:
    """As it ships."""
    return load_config(f"deploy/configs/{name}.yaml", [])


def corpora_of(*, train: int = 1, cold_start: int = 0) -> Corpora:
    """So many clips."""
    record = make_record()
    return Corpora(train=[record] * train, cold_start=[record] * cold_start, validation=[], heldout=[], sha256="")


def test_the_cold_start_has_the_papers_settings() -> None:
    config = config_of("r1_omni_cold_start")
    assert (config.sft.epochs, config.sft.examples_per_step) == (5, 16)
    optimizer = config.sft.optimizer
    assert (optimizer.lr, optimizer.schedule, optimizer.weight_decay) == (2e-5, "cosine", 0)
    # 580 x 5 / 16 is 181.25
    steps = with_steps(config, corpora_of(cold_start=232 + 348)).sft.steps
    assert steps == 182
    assert optimizer.warmup_steps == pytest.approx(0.03 * steps, abs=1)


def test_the_supervised_baseline_has_the_papers_settings() -> None:
    config = config_of("mafw_dfew_sft")
    assert (config.sft.epochs, config.sft.examples_per_step, config.sft.optimizer.lr) == (1, 128, 2e-5)
    steps = with_steps(config, corpora_of(cold_start=9_356 + 7_333)).sft.steps
    assert config.sft.optimizer.warmup_steps == pytest.approx(0.03 * steps, abs=1)


def test_the_reinforcement_has_the_papers_settings() -> None:
    config = config_of("r1_omni_grpo")
    learner, sampling = config.learner, config.rollout.sampling
    assert (config.rollout.group_size, learner.groups_per_step, learner.epochs) == (8, 16, 2)
    assert (learner.beta, learner.aggregation, learner.updates_per_step) == (0.04, "sequence", 1)
    assert (learner.optimizer.lr, learner.optimizer.schedule, learner.optimizer.warmup_steps) == (1e-6, "linear", 0)
    assert (learner.optimizer.max_grad_norm, learner.optimizer.weight_decay) == (1.0, 0.0)
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_tokens) == (1.0, 1.0, 0, 512)
    # the paper's count of clips, twice over, sixteen at a time
    assert with_steps(config, corpora_of(train=15_306)).learner.steps == 1_914


def test_the_reinforcement_as_it_ships_takes_the_steps_that_the_documents_say() -> None:
    config = config_of("r1_omni_grpo")
    assert isinstance(config.data.source, MixDataConfig)
    folds = {s.type: getattr(s, "fold", None) for s in config.data.source.sources}
    assert folds == {"dfew": 2, "mafw": 1}
    num_clips = DFEW_SIZES[2][0] + MAFW_SIZES[1][0]
    steps = with_steps(config, corpora_of(train=num_clips)).learner.steps
    assert (num_clips, steps) == (16_689, 2_087)
    assert f"r1_omni_grpo/checkpoints/step_{steps:06d}/hf" in Path("docs/recipe.md").read_text()
    table = Path("docs/r1-omni.md").read_text()
    assert f"= {num_clips:,}: {steps:,} updates" in table
    assert "15,306 of MAFW and DFEW, which are not listed: 1,914 updates" in table


def test_the_cold_start_of_the_recipe_is_a_configuration() -> None:
    recipe = Path("docs/recipe.md").read_text()
    given = re.search(r"--data\.cold_start '(\{.*?\})'", recipe, re.DOTALL)
    assert given is not None
    config = load_config("deploy/configs/r1_omni_cold_start.yaml", ["--data.cold_start", given[1]])
    assert isinstance(config.data.cold_start, MixDataConfig)
    files = [getattr(s, "path", "") for s in config.data.cold_start.sources]
    assert all(f"--out {file}" in recipe for file in files)
    assert len(files) == 2
    for count, steps in ((NUM_EXPLAINED, 73), (NUM_EXPLAINED + NUM_ANNOTATED, 182)):
        assert with_steps(config, corpora_of(cold_start=count)).sft.steps == steps


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the released 3B's shapes, without its weights."""
    folder = tmp_path_factory.mktemp("models") / "3b"
    write_sparse_checkpoint(folder, "3b")
    return folder


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_fits_a_node_of_eight(
    name: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    turns = [{"value": "<video>"}, {"value": "sad"}]
    (tmp_path / "train.json").write_text(json.dumps([{"video": "a.mp4", "conversations": turns}]))
    source = f"{{type: r1_omni, path: {tmp_path / 'train.json'}}}"
    sources = ["--data.source", source, "--data.cold_start", source, "--data.heldout", source]
    folders = ["--model.path", str(model), "--run.root", str(tmp_path / "runs")]
    command = ["--config", f"deploy/configs/{name}.yaml", *folders, *sources, "--dry-run"]
    assert main([*command, "--cluster", "cpus=64,gpus=8"]) == 0
    shown = capsys.readouterr().out
    assert "memory of one learner rank" in shown
    assert main([*command, "--cluster", "cpus=64,gpus=8,gpu_memory_gib=16"]) == 2
    assert "a learner rank must fit" in capsys.readouterr().err
