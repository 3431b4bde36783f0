"""Processed clips whose objects are lost for real, with their node: they are made again."""

import concurrent.futures
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint
from common.types import Generation
from learner.ledger import check_ledger, read_ledger
from tests.support import lost_media
from tests.support.lost_media import NUM_CLIPS, NUM_ENGINES, NUM_RANKS

pytestmark = pytest.mark.xdist_group("lost-media")
SHARE = NUM_CLIPS // NUM_ENGINES


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """A process with a Ray of two nodes: this one may have joined another."""
    folder, model_path = tmp_path_factory.mktemp("clips"), tmp_path_factory.mktemp("model")
    build_tiny_checkpoint(model_path, seed=1, tied=False)
    context = multiprocessing.get_context("spawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as process:
            process.submit(lost_media.open_scene, folder, str(model_path)).result()
            try:
                yield process
            finally:
                process.submit(lost_media.close_scene).result()


@pytest.fixture(scope="module")
def node_lost(scene: concurrent.futures.ProcessPoolExecutor) -> dict[str, Any]:
    return scene.submit(lost_media.play, lost_media.when_a_node_is_lost).result()


@pytest.fixture(scope="module")
def another_lost(scene: concurrent.futures.ProcessPoolExecutor) -> dict[str, Any]:
    return scene.submit(lost_media.play, lost_media.when_another_node_is_lost).result()


def test_clips_stay_away_from_the_driver(node_lost: dict[str, Any]) -> None:
    assert [len(nodes) for nodes in node_lost["places"]] == [1] * NUM_CLIPS
    assert node_lost["driver"] not in {node for nodes in node_lost["places"] for node in nodes}


def test_a_batch_whose_clips_were_lost_with_their_node_has_the_same_bits(node_lost: dict[str, Any]) -> None:
    assert node_lost["disturbed"] == node_lost["undisturbed"]
    before, after = node_lost["engines"]
    for (pid, sizes), (pid_after, sizes_after) in zip(before, after, strict=True):
        assert pid == pid_after
        # nothing began before the whole share was there
        assert sizes == [SHARE]
        assert sizes_after == [SHARE] * 2
    ledger = Path(node_lost["ledger"])
    assert [e["draw"] for e in read_ledger(ledger) if e.get("fate") == "failed"] == []
    assert check_ledger(ledger).faults == ()


def test_ranks_begin_a_step_only_when_all_have_their_clips(node_lost: dict[str, Any]) -> None:
    assert node_lost["trained"] == {"num_clips": NUM_CLIPS / NUM_RANKS}
    before, after = node_lost["ranks"]
    assert [pid for pid, _ in after] == [pid for pid, _ in before]
    assert [log for _, log in after] == [["2 of 2 lost", "0 of 2 lost", "step"]] * NUM_RANKS


def test_the_cache_keeps_no_clip_that_was_lost(node_lost: dict[str, Any]) -> None:
    _, engines = node_lost["engines_again"]
    assert [sizes for _, sizes in engines] == [[*[SHARE] * 3, 1], [SHARE] * 3]
    assert [log[3:] for _, log in node_lost["ranks_again"]] == [["0 of 2 lost", "step"]] * NUM_RANKS


def test_ray_makes_a_clip_again_before_it_counts_as_lost(node_lost: dict[str, Any]) -> None:
    assert isinstance(node_lost["by_ray"], Generation)


def test_a_lost_clip_is_made_again_for_single_groups_for_a_score_and_for_supervised_ranks(
    another_lost: dict[str, Any],
) -> None:
    assert sorted(key for key, _, _ in another_lost["alone"]) == [f"0/clip-{i}/0" for i in range(NUM_CLIPS)]
    assert another_lost["score"] < 0
    ((pid, before),), ((pid_after, after),) = another_lost["engine"]
    assert pid == pid_after
    # each group once, and the score
    assert after[len(before) :] == [1] * (NUM_CLIPS + 1)
    assert another_lost["trained"] == {"num_clips": NUM_CLIPS / NUM_RANKS}
    assert [log for _, log in another_lost["ranks"]] == [["2 of 2 lost", "0 of 2 lost", "step"]] * NUM_RANKS
