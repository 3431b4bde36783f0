"""A node that is removed with its engine: its draws are made by the others, and its slot starts on another node."""

import concurrent.futures
import multiprocessing
from pathlib import Path

import pytest

from tests.support.light.nodes import lose_a_node

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("fleet-nodes"), pytest.mark.timeout(240)]


def test_a_node_is_removed_and_the_slot_is_ready_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # this process may have joined another Ray
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as process:
        end = process.submit(lose_a_node, tmp_path / "run").result()
    print(end)
    assert end["reason"]
    assert end["ready"] == ["engine-0.2", "engine-1.1"]
    assert end["engines"] == {"engine-0", "engine-1"}
