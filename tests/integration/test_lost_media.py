"""Processed clips whose objects are lost for real, with their node: they are made again."""

import concurrent.futures
import multiprocessing
from typing import Any

import pytest

from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint
from common.types import Generation
from tests.support import lost_media
from tests.support.lost_media import INLINED_BYTES, NUM_CLIPS, NUM_ENGINES, NUM_RANKS

pytestmark = pytest.mark.xdist_group("lost-media")
SHARE = NUM_CLIPS // NUM_ENGINES


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process with a Ray of two nodes finds; this process may have joined another."""
    folder, model_path = tmp_path_factory.mktemp("clips"), tmp_path_factory.mktemp("model")
    build_tiny_checkpoint(model_path, seed=1, tied=False)
    context = multiprocessing.get_context("spawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as process:
            process.submit(lost_media.open_scene, folder, str(model_path)).result()
            try:
                return process.submit(lost_media.play).result()
            finally:
                process.submit(lost_media.close_scene).result()


def test_clips_stay_away_from_the_driver(found: dict[str, Any]) -> None:
    part = found["lockstep"]
    assert min(part["sizes"]) > INLINED_BYTES
    assert [len(nodes) for nodes in part["places"]] == [1] * NUM_CLIPS
    assert part["driver"] not in {node for nodes in part["places"] for node in nodes}


def test_a_batch_whose_clips_were_lost_with_their_node_has_the_same_bits(found: dict[str, Any]) -> None:
    part = found["lockstep"]
    undisturbed, disturbed = part["batches"]
    assert disturbed == undisturbed
    assert part["failures"] == {}
    for before, after, later in zip(*part["engines"], strict=True):
        assert before[0] == after[0] == later[0]
        # nothing began before the whole share was there, and the cache keeps what was made again
        assert (before[1], after[1], later[1]) == ([SHARE], [SHARE] * 2, [SHARE] * 3)


def test_ranks_begin_a_step_only_when_all_have_their_clips(found: dict[str, Any]) -> None:
    part = found["ranks"]
    assert part["metrics"] == {"num_clips": SHARE}
    for before, after, later in zip(*part["ranks"], strict=True):
        assert before[0] == after[0] == later[0]
        assert after[1] == ["2 of 2 lost", "0 of 2 lost", "step"]
        assert later[1] == [*after[1], "0 of 2 lost", "step"]


def test_supervised_ranks_begin_a_step_only_when_all_have_their_clips(found: dict[str, Any]) -> None:
    part = found["supervised"]
    assert part["metrics"] == {"num_clips": SHARE}
    assert [log for _, log in part["ranks"]] == [["2 of 2 lost", "0 of 2 lost", "step"]] * NUM_RANKS


def test_ray_makes_a_clip_again_before_it_counts_as_lost(found: dict[str, Any]) -> None:
    assert isinstance(found["by_ray"]["answer"], Generation)


def test_groups_that_are_made_one_by_one_survive_a_loss(found: dict[str, Any]) -> None:
    part = found["alone"]
    assert sorted(key for key, _, _ in part["groups"]) == [f"0/clip-{i}/0" for i in range(NUM_CLIPS)]
    ((pid, before),), ((pid_after, after),) = part["engine"]
    assert pid == pid_after
    assert after[len(before) :] == [1] * NUM_CLIPS


def test_a_score_survives_a_loss(found: dict[str, Any]) -> None:
    assert found["score"]["value"] < 0
