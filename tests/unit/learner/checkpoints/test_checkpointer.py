"""Checkpoints written while the run goes on: one at a time, put in place by the last rank, and failures said."""

import asyncio
import threading
from pathlib import Path

import pytest

from common.errors import CheckpointError, LearnerError, StopRequestedError
from learner.checkpoints import checkpoint
from learner.checkpoints.checkpoint import START, RunState
from learner.checkpoints.checkpointer import Checkpointer
from learner.checkpoints.shard_writer import ShardWriter

STATE = RunState(step=3, policy_version=3, cursor=6, ledger_bytes=9)


class Ranks:
    """Two ranks' writers, which write when they are let."""

    def __init__(self) -> None:
        self.writers = [ShardWriter(rank=rank, world_size=2) for rank in range(2)]
        self.may_write = threading.Event()
        self.fails = False

    async def begin_save(self, folder: Path, target: Path, state: str) -> None:
        """Every rank a file, rank 0 the state."""

        def write(rank: int) -> None:
            self.may_write.wait(30)
            if self.fails and rank == 1:
                raise OSError(28, "No space left on device")
            (folder / f"share-{rank}").write_text("x")
            if rank == 0:
                (folder / "state.json").write_text(state)

        for rank, writer in enumerate(self.writers):
            writer.begin(folder, target, lambda rank=rank: write(rank))

    async def wait_saved(self) -> None:
        """Of both."""
        for writer in self.writers:
            writer.wait()


def test_the_run_goes_on_while_a_checkpoint_is_written_and_it_is_in_place_whole(tmp_path: Path) -> None:
    ranks = Ranks()

    async def work() -> None:
        async with Checkpointer(tmp_path, ranks, keep=2) as keep:
            await keep(STATE)
            # nothing is written yet, and the caller is back
            assert checkpoint.checkpoints(tmp_path) == []
            ranks.may_write.set()

    asyncio.run(work())
    (folder,) = checkpoint.checkpoints(tmp_path)
    assert checkpoint.fault_of(folder) is None
    assert checkpoint.read_state(folder) == STATE
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "share-0", "share-1", "state.json"]


def test_one_is_written_at_a_time_and_the_oldest_go(tmp_path: Path) -> None:
    ranks = Ranks()
    ranks.may_write.set()

    async def work() -> None:
        async with Checkpointer(tmp_path, ranks, keep=2) as keep:
            for step in range(1, 6):
                await keep(RunState(step=step, policy_version=step, cursor=0, ledger_bytes=0))

    asyncio.run(work())
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["step_000005", "step_000004"]
    assert all(checkpoint.fault_of(p) is None for p in checkpoint.checkpoints(tmp_path))


def test_of_ranks_that_are_done_together_one_puts_the_checkpoint_in_place(tmp_path: Path) -> None:
    num_ranks = 4
    writers = [ShardWriter(rank=rank, world_size=num_ranks) for rank in range(num_ranks)]
    together = threading.Barrier(num_ranks)
    for step in range(60):
        target = checkpoint.checkpoint_folder(tmp_path, step)
        partial = checkpoint.begin(target)
        for writer in writers:
            writer.begin(partial, target, lambda: together.wait(30) and None)
        for writer in writers:
            writer.wait()
        assert checkpoint.fault_of(target) is None
        assert [p.name for p in target.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("how", ["next", "end", "check"])
def test_a_checkpoint_that_cannot_be_written_is_said_and_never_in_place(tmp_path: Path, how: str) -> None:
    ranks = Ranks()
    ranks.fails = True
    ranks.may_write.set()

    async def work() -> None:
        async with Checkpointer(tmp_path, ranks, keep=2) as keep:
            await keep(STATE)
            if how == "next":
                await keep(STATE)
            if how == "check":
                for writer in ranks.writers:
                    while writer._writing is not None and not writer._writing.done():
                        pass
                    writer.check()

    with pytest.raises(CheckpointError, match="No space left on device"):
        asyncio.run(work())
    assert checkpoint.checkpoints(tmp_path) == []


def test_a_run_that_is_stopped_waits_for_its_checkpoint(tmp_path: Path) -> None:
    ranks = Ranks()
    ranks.may_write.set()

    async def work() -> None:
        async with Checkpointer(tmp_path, ranks, keep=2) as keep:
            await keep(STATE)
            raise StopRequestedError("stop")

    with pytest.raises(StopRequestedError):
        asyncio.run(work())
    assert checkpoint.newest_whole(tmp_path) is not None


def test_ranks_that_died_are_not_waited_for(tmp_path: Path) -> None:
    ranks = Ranks()

    async def work() -> None:
        async with Checkpointer(tmp_path, ranks, keep=2) as keep:
            await keep(START)
            raise LearnerError("a rank died")

    with pytest.raises(LearnerError):
        asyncio.run(work())
    assert checkpoint.checkpoints(tmp_path) == []
    ranks.may_write.set()
    # or their threads would write into the next test
    asyncio.run(ranks.wait_saved())
