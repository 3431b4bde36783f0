"""A stage that trains starts from its newest checkpoint, or from the start."""

import asyncio
import io
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

import deploy.stages.training
from common.config.load import load_config
from deploy.reporting.progress import Progress
from deploy.stages.training import Training, newest, open_training
from deploy.wiring import Run
from learner.checkpoints import checkpoint
from learner.checkpoints.checkpoint import START

LORA = "--learner.lora={rank: 2}"


class FakeRanks:
    """Ranks that only record how they were started."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str]] = []
        self.optimizers: list[str] = []

    async def load_optimizer(self, folder: Path) -> None:
        self.optimizers.append(folder.name)


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> FakeRanks:
    ranks = FakeRanks()

    @asynccontextmanager
    async def open_ranks(
        run: Run, model_path: str, *, learner: object, reference_path: str
    ) -> AsyncGenerator[tuple[FakeRanks, dict[str, Any]]]:
        ranks.started.append((model_path, reference_path))
        yield ranks, {"plan": "plan"}

    monkeypatch.setattr(deploy.stages.training, "open_ranks", open_ranks)
    return ranks


def run_in(folder: Path, *overrides: str) -> Run:
    progress = Progress(Console(file=io.StringIO(), width=80))
    fields: dict[str, Any] = {"config": load_config(None, list(overrides)), "folder": folder, "progress": progress}
    return cast(Run, SimpleNamespace(**fields))


def trained(run: Run, start: str) -> tuple[Training, str]:
    """The training of a stage, and the printed lines."""

    async def within() -> Training:
        learner = run.config.learner
        async with open_training(
            run, run.folder, start=start, learner=learner, phase="ranks", resumed="resumed"
        ) as training:
            return training

    training = asyncio.run(within())
    return training, cast(io.StringIO, run.progress.console.file).getvalue()


def save(folder: Path, step: int) -> Path:
    """A whole checkpoint."""
    target = checkpoint.checkpoint_folder(folder, step)
    partial = checkpoint.begin(target)
    (partial / "hf").mkdir()
    (partial / "hf" / "config.json").write_text(json.dumps({"step": step}))
    (partial / "state.json").write_text(checkpoint.state_text(replace(START, step=step, policy_version=step)))
    checkpoint.finish(partial, target)
    return target


def test_a_stage_without_a_checkpoint_begins_at_the_start(tmp_path: Path, ranks: FakeRanks) -> None:
    training, lines = trained(run_in(tmp_path), "start")
    assert (training.state, training.info) == (START, {"plan": "plan"})
    assert ranks.started == [("start", "start")]
    assert ranks.optimizers == []
    assert "resumed" not in lines


def test_a_stage_continues_from_its_newest_checkpoint(tmp_path: Path, ranks: FakeRanks) -> None:
    for step in (1, 2):
        last = save(tmp_path, step)
    training, lines = trained(run_in(tmp_path), "start")
    assert (training.state.step, training.state.policy_version) == (2, 2)
    assert ranks.started == [(str(last / "hf"), "start")]
    assert ranks.optimizers == ["step_000002"]
    assert "resumed after step 2" in lines


def test_adapters_are_loaded_beside_the_weights_of_the_start(tmp_path: Path, ranks: FakeRanks) -> None:
    save(tmp_path, 3)
    training, _ = trained(run_in(tmp_path, LORA), "start")
    assert training.state.step == 3
    assert ranks.started == [("start", "start")]
    assert ranks.optimizers == ["step_000003"]


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    whole = save(tmp_path, 1)
    (save(tmp_path, 2) / "hf" / "config.json").unlink()
    state, policy = asyncio.run(newest(tmp_path, "start"))
    assert (state.step, policy) == (1, str(whole / "hf"))
