"""Checkpoints: whole, or passed over by name."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from learner.checkpoints import checkpoint
from learner.checkpoints.checkpoint import RunState

STATE = RunState(
    step=2,
    policy_version=3,
    cursor=17,
    outstanding=((4, 0), (9, 2)),
    ledger_bytes=1_234,
    inputs={"corpus": "ab"},
    layout={"num_ranks": 2},
)


def kept(run: Path, step: int, *, text: str = "weights") -> Path:
    """A whole checkpoint."""
    target = checkpoint.checkpoint_folder(run, step)
    partial = checkpoint.begin(target)
    (partial / "hf").mkdir()
    (partial / "hf" / "model.safetensors").write_text(f"{text} of {step}")
    (partial / "state.json").write_text(checkpoint.state_text(STATE))
    checkpoint.finish(partial, target)
    return target


def test_a_finished_checkpoint_is_whole_and_in_place(tmp_path: Path) -> None:
    folder = kept(tmp_path, 2)
    assert folder == tmp_path / "checkpoints" / "step_000002"
    assert sorted(p.name for p in folder.iterdir()) == ["hf", "manifest.json", "state.json"]
    assert list((tmp_path / "checkpoints").iterdir()) == [folder]
    assert checkpoint.fault_of(folder) is None
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest) == {"hf/model.safetensors", "state.json"}
    assert manifest["hf/model.safetensors"]["size"] == len("weights of 2")
    assert oct(folder.stat().st_mode & 0o777) == "0o700"


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    assert checkpoint.read_state(kept(tmp_path, 2)) == STATE


def torn(folder: Path) -> None:
    """A file that ends early."""
    (folder / "hf" / "model.safetensors").write_text("weigh")


def changed(folder: Path) -> None:
    """One byte that is another."""
    (folder / "hf" / "model.safetensors").write_text("weightz of 2")


def missing(folder: Path) -> None:
    """A file that is gone."""
    (folder / "state.json").unlink()


def without_manifest(folder: Path) -> None:
    """Nothing says what should be there."""
    (folder / "manifest.json").unlink()


def with_a_torn_manifest(folder: Path) -> None:
    """It says half of what should be there."""
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (torn, "hf/model.safetensors has 5 bytes, not 12"),
        (changed, "hf/model.safetensors holds other bytes than were written"),
        (missing, "state.json is missing"),
        (without_manifest, "manifest.json: "),
        (with_a_torn_manifest, "manifest.json: "),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_named_and_the_one_before_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], said: str
) -> None:
    before, newest = kept(tmp_path, 1), kept(tmp_path, 2)
    assert checkpoint.newest_whole(tmp_path) == newest
    damage(newest)
    fault = checkpoint.fault_of(newest)
    assert fault is not None
    assert fault.startswith(said)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.newest_whole(tmp_path) == before
    (record,) = caplog.records
    assert record.getMessage() == f"skipped the damaged checkpoint {newest}: {fault}"


def test_where_none_is_whole_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest_whole(tmp_path) is None
    missing(kept(tmp_path, 1))
    assert checkpoint.newest_whole(tmp_path) is None


def test_a_checkpoint_that_was_being_written_is_ignored_and_begun_anew(tmp_path: Path) -> None:
    whole = kept(tmp_path, 1)
    partial = checkpoint.begin(checkpoint.checkpoint_folder(tmp_path, 2))
    (partial / "torn").write_text("half")
    assert checkpoint.checkpoints(tmp_path) == [whole]
    assert checkpoint.newest_whole(tmp_path) == whole
    newest = kept(tmp_path, 2)
    assert checkpoint.newest_whole(tmp_path) == newest
    assert not (newest / "torn").exists()
    assert not partial.exists()


def test_a_checkpoint_written_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    kept(tmp_path, 2)
    folder = kept(tmp_path, 2, text="other weights")
    assert checkpoint.fault_of(folder) is None
    assert (folder / "hf" / "model.safetensors").read_text() == "other weights of 2"


def test_checkpoints_are_ordered_by_step(tmp_path: Path) -> None:
    folders = [kept(tmp_path, step) for step in (9, 100, 20)]
    assert checkpoint.checkpoints(tmp_path) == [folders[1], folders[2], folders[0]]
    assert checkpoint.newest_whole(tmp_path) == folders[1]


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_pruning_keeps_the_newest(tmp_path: Path, keep: int) -> None:
    folders = [kept(tmp_path, step) for step in (1, 2, 3)]
    checkpoint.prune(tmp_path, keep=keep)
    assert checkpoint.checkpoints(tmp_path) == folders[::-1][:keep]
    assert sorted((tmp_path / "checkpoints").iterdir()) == folders[-keep:]


def test_a_whole_folder_may_be_moved(tmp_path: Path) -> None:
    folder = kept(tmp_path, 1)
    shutil.move(folder, tmp_path / "elsewhere")
    assert checkpoint.fault_of(tmp_path / "elsewhere") is None


def test_what_claims_to_be_later_than_the_one_resumed_from_is_set_aside(tmp_path: Path) -> None:
    folders = [kept(tmp_path, step) for step in (2, 4, 6)]
    torn(folders[2])
    checkpoint.begin(checkpoint.checkpoint_folder(tmp_path, 8))
    checkpoint.clear_after(tmp_path, 4)
    assert checkpoint.checkpoints(tmp_path) == [folders[1], folders[0]]
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_000002", "step_000004", "step_000006.torn"]
    # so that what is written next is not the oldest, to be removed at once
    newest = kept(tmp_path, 5)
    checkpoint.prune(tmp_path, keep=1)
    assert checkpoint.checkpoints(tmp_path) == [newest]


def test_a_models_digest_is_of_its_bytes(tmp_path: Path) -> None:
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(text)
        (tmp_path / name / "config.json").write_text("{}")
    digests = [checkpoint.digest_of(tmp_path / name) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    first, second = kept(tmp_path, 1) / "hf", kept(tmp_path, 2) / "hf"
    assert checkpoint.digest_of(first) != checkpoint.digest_of(second)


def test_the_best_is_kept_beside_the_newest(tmp_path: Path) -> None:
    assert checkpoint.read_best(tmp_path) is None
    # WAR decides between the equal UARs of steps 2 and 4 alone
    for step, war, uar in ((2, 0.2, 0.5), (4, 0.5, 0.5), (6, 0.9, 0.4), (8, 0.4, 0.5)):
        kept(tmp_path, step)
        checkpoint.note_best(tmp_path, checkpoint.Best(step=step, war=war, uar=uar))
        checkpoint.prune(tmp_path, keep=1)
    assert checkpoint.read_best(tmp_path) == checkpoint.Best(step=4, war=0.5, uar=0.5)
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["step_000008", "step_000004"]
    # of equals the later, which has learned from more
    kept(tmp_path, 10)
    checkpoint.note_best(tmp_path, checkpoint.Best(step=10, war=0.5, uar=0.5))
    checkpoint.prune(tmp_path, keep=1)
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["step_000010"]


def test_a_best_that_a_resumed_run_has_not_reached_is_forgotten(tmp_path: Path) -> None:
    for step in (2, 4):
        kept(tmp_path, step)
        checkpoint.note_best(tmp_path, checkpoint.Best(step=step, war=step / 10, uar=0.1))
    checkpoint.clear_after(tmp_path, 4)
    assert checkpoint.read_best(tmp_path) is not None
    checkpoint.clear_after(tmp_path, 2)
    assert checkpoint.read_best(tmp_path) is None
