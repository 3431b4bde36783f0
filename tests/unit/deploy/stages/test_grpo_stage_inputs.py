"""A run resumed with other clips, another reference or another layout is refused, with both values."""

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.config.load import load_config
from common.errors import ConfigError
from deploy.stages.grpo_stage import _with_inputs  # pyright: ignore[reportPrivateUsage]
from learner.checkpoints.checkpoint import START, RunState


def state_of(folder: Path, state: RunState = START, *overrides: str, corpus: str = "clips") -> RunState:
    """What a run makes of a state."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    run: Any = SimpleNamespace(config=load_config(None, list(overrides)), corpora=SimpleNamespace(sha256=corpus))
    return asyncio.run(_with_inputs(run, str(folder), state))


def test_the_same_run_may_go_on(tmp_path: Path) -> None:
    state = state_of(tmp_path)
    assert state_of(tmp_path, replace(state, step=4)) == replace(state, step=4)


def test_other_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="corpus clips before and others now"):
        state_of(tmp_path, state_of(tmp_path), corpus="others")


def test_another_reference_is_refused(tmp_path: Path) -> None:
    state = state_of(tmp_path)
    (tmp_path / "model.safetensors").write_text("other weights")
    with pytest.raises(ConfigError, match=r"reference .* before and .* now"):
        state_of(tmp_path, state)


def test_another_layout_is_refused_where_bits_are_promised(tmp_path: Path) -> None:
    state = state_of(tmp_path)
    with pytest.raises(ConfigError, match=r"learner\.num_ranks 1 before and 2 now"):
        state_of(tmp_path, state, "--learner.num_ranks=2")
    moved = state_of(tmp_path, state, "--learner.num_ranks=2", "--run.deterministic=false")
    assert cast(dict[str, int], moved.layout)["learner.num_ranks"] == 2
