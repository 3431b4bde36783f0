"""Ranks, records and checkpoints of a stage that trains; it continues from its newest checkpoint."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config.learner import LearnerConfig
from deploy.wiring import Run, open_ranks, starting
from learner.actor import RankClients
from learner.checkpoints import checkpoint
from learner.checkpoints.checkpoint import START, RunState
from learner.checkpoints.checkpointer import Checkpointer
from learner.ledger import Ledger
from learner.records.record import take_up_records


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    state: RunState
    """The state of the newest checkpoint, from which the ranks continue."""
    policy_path: str
    """The model of that checkpoint, or of the start."""
    ledger: Ledger
    ranks: RankClients
    info: Mapping[str, Any]
    """Rank 0's publish plan and segments."""
    checkpointer: Checkpointer


async def newest(folder: Path, start: str) -> tuple[RunState, str]:
    """State and model folder of the newest whole checkpoint; without one, those of the start."""
    whole = await asyncio.to_thread(checkpoint.newest_whole, folder)
    return (checkpoint.read_state(whole), str(whole / "hf")) if whole else (START, start)


@asynccontextmanager
async def open_training(
    run: Run, folder: Path, *, start: str, learner: LearnerConfig, phase: str, resumed: str
) -> AsyncGenerator[Training]:
    """Starts ranks on a folder's newest checkpoint or the start, which is the reference; later records are void."""
    state, policy = await newest(folder, start)
    ledger = take_up_records(folder, state)
    if state.step:
        run.progress.say(f"{resumed} after step {state.step}")
    # adapters are loaded beside the weights that they were trained beside
    path = start if learner.lora else policy
    async with AsyncExitStack() as stack:
        async with starting(run, phase):
            ranks, info = await stack.enter_async_context(
                open_ranks(run, path, learner=learner, reference_path=start)
            )
            if state.step:
                await ranks.load_optimizer(checkpoint.checkpoint_folder(folder, state.step))
        keep = run.config.learner.checkpoint.keep
        checkpointer = Checkpointer(folder, ranks, keep=keep, in_use=state.step)
        await stack.enter_async_context(checkpointer)
        yield Training(
            state=state, policy_path=policy, ledger=ledger, ranks=ranks, info=info, checkpointer=checkpointer
        )
