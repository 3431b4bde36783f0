"""A run's checkpoints: the ranks copy and write them, one at a time; the oldest are removed."""

import asyncio
from pathlib import Path
from typing import Protocol

from common.errors import LearnerError
from learner.checkpoints import checkpoint
from learner.checkpoints.checkpoint import RunState


class Savers(Protocol):
    """All learner ranks, as the checkpointer uses them."""

    async def begin_save(self, folder: Path, target: Path, state: str) -> None: ...

    async def wait_saved(self) -> None: ...


class Checkpointer:
    """A `SaveCheckpointFn` over a run folder; as a context it waits for the last checkpoint at the end.

    Raises:
        CheckpointError: the previous checkpoint could not be written.
    """

    def __init__(self, run: Path, savers: Savers, *, keep: int, in_use: int | None = None) -> None:
        """`in_use` is the step of a checkpoint that engines still load; it is not removed."""
        self._run, self._savers, self._keep, self._in_use = run, savers, keep, in_use
        self._is_writing = False

    async def __call__(self, state: RunState) -> None:
        await self.drain()
        target = checkpoint.checkpoint_folder(self._run, state.step)
        partial = await asyncio.to_thread(checkpoint.begin, target)
        self._is_writing = True
        await self._savers.begin_save(partial, target, checkpoint.state_text(state))

    async def drain(self) -> None:
        """Waits until the last checkpoint is in place, then removes the oldest."""
        if self._is_writing:
            await self._savers.wait_saved()
            self._is_writing = False
            await asyncio.to_thread(checkpoint.prune, self._run, keep=self._keep, in_use=self._in_use)

    async def __aenter__(self) -> "Checkpointer":
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # dead ranks will not finish their checkpoint
        if not isinstance(error, LearnerError):
            await self.drain()
