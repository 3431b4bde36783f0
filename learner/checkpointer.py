"""Keeps a run's checkpoints: written aside by the ranks, put in place whole, the oldest removed."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Protocol

from learner import checkpoint
from learner.checkpoint import RunState


class SaveFn(Protocol):
    """All ranks write their share of a checkpoint into a folder; answers the optimizer updates so far."""

    def __call__(self, folder: Path) -> Awaitable[int]: ...


class Checkpointer:
    """A `KeepFn` over one run folder."""

    def __init__(self, run: Path, save: SaveFn, *, keep: int) -> None:
        self._run, self._save, self._keep = run, save, keep

    async def __call__(self, state: RunState) -> None:
        """Writes a checkpoint of the ranks as they are, aside and then in place."""
        target = checkpoint.checkpoint_folder(self._run, state.step)
        partial = await asyncio.to_thread(checkpoint.begin, target)
        num_updates = await self._save(partial)
        checkpoint.write_state(partial, state.with_updates(num_updates))
        await asyncio.to_thread(checkpoint.finish, partial, target)
        await asyncio.to_thread(checkpoint.prune, self._run, keep=self._keep)
