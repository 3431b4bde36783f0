"""Engines and checkpoints, started once per session."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from common.config.questions import QUESTION
from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint
from rollout.actor import EngineClient
from tests.support.engines import start_engine
from tests.support.habit import teach_habit
from tests.support.media.clips import case_named, processed
from tests.support.once import made_once

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="session")
def run() -> Iterator[Run]:
    """One event loop for all tests: engine clients belong to one."""
    loop = asyncio.new_event_loop()
    yield loop.run_until_complete
    loop.close()


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray of this machine's own size."""
    from deploy.wiring import start_ray

    start_ray()
    yield
    ray.shutdown()


def _checkpoint(factory: pytest.TempPathFactory, name: str, *, tied: bool) -> str:
    def make(folder: Path) -> None:
        build_tiny_checkpoint(folder, seed=1, tied=tied)
        # sharp distributions: among near-uniform ones every mistake is small
        teach_habit(folder, question=QUESTION, steps=60, seed=1)

    return str(made_once(factory, name, make))


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint with a head of its own."""
    return _checkpoint(tmp_path_factory, "untied", tied=False)


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint whose head is the embedding's matrix."""
    return _checkpoint(tmp_path_factory, "tied", tied=True)


def _engine(run: Run, model_path: str, *, dtype: str, name: str) -> Iterator[EngineClient]:
    client = start_engine(model_path, dtype=dtype, name=name)
    run(client.warm_up([processed(case_named("av-12fps"), model_path)]))
    yield client
    ray.get(client.handle.shutdown.remote())
    ray.kill(client.handle)


@pytest.fixture(scope="session")
def engine_untied(local_ray: None, run: Run, untied: str) -> Iterator[EngineClient]:
    """float32, untied."""
    yield from _engine(run, untied, dtype="float32", name="untied-float32")


@pytest.fixture(scope="session")
def engine_tied(local_ray: None, run: Run, tied: str) -> Iterator[EngineClient]:
    """float32, tied."""
    yield from _engine(run, tied, dtype="float32", name="tied-float32")


@pytest.fixture(scope="session")
def engine_bf16(local_ray: None, run: Run, tied: str) -> Iterator[EngineClient]:
    """bfloat16, tied."""
    yield from _engine(run, tied, dtype="bfloat16", name="tied-bfloat16")
