"""The cold start as a stage of a run: supervised training on explanations, from its newest checkpoint or the start.

sft/          metrics, ledger and checkpoints of the training
cold_start/   the trained model, complete or absent
"""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from common.datasets.dropout import dropout_of
from deploy.reporting.progress import StepLines
from deploy.wiring import Run, open_ranks, starting
from learner.actor import RankClients
from learner.checkpoints import checkpoint
from learner.checkpoints.checkpoint import START, RunState
from learner.checkpoints.checkpointer import Checkpointer
from learner.ledger import Ledger
from learner.loops.sft_loop import SftLoop, SftParts
from learner.loops.stream import PromptStream
from learner.records.curves import curves_of
from learner.records.record import CurvedMetrics, take_up_records


async def run_sft_stage(run: Run) -> str:
    """Runs the cold start if it is configured and unfinished; returns the checkpoint from which GRPO starts."""
    target = run.folder / "cold_start"
    if not run.config.sft.is_wanted:
        return run.model_path
    if target.exists():
        fault = await asyncio.to_thread(checkpoint.fault_of, target)
        if fault is None:
            return str(target / "hf")
        run.progress.say(f"the cold start is made again: {fault}")
    await _train(run, run.folder / "sft", target)
    return str(target / "hf")


async def _train(run: Run, folder: Path, target: Path) -> None:
    settings = run.config.sft
    newest = await asyncio.to_thread(checkpoint.newest_whole, folder)
    state = checkpoint.read_state(newest) if newest else START
    ledger = take_up_records(folder, state)
    if state.step:
        run.progress.say(f"the cold start is resumed after step {state.step}")
    # the schedule counts these steps, and nothing refers to a reference yet
    learner = run.config.learner.model_copy(
        update={"optimizer": settings.optimizer, "steps": settings.steps, "updates_per_step": 1, "beta": 0.0}
    )
    async with AsyncExitStack() as stack:
        async with starting(run, "ranks, cold start"):
            path = str(newest / "hf") if newest and not run.config.learner.lora else run.model_path
            ranks, _ = await stack.enter_async_context(open_ranks(run, path, learner=learner))
            if newest:
                await ranks.load_optimizer(newest)
        checkpointer = await stack.enter_async_context(
            Checkpointer(folder, ranks, keep=run.config.learner.checkpoint.keep)
        )
        loop = SftLoop(
            parts=_parts(run, folder, ranks, ledger, state, checkpointer), state=state, last_step=settings.steps
        )
        with run.progress.phase("cold start"):
            await run.interrupts.run_until_stopped(
                loop.run, save_checkpoint=loop.save_checkpoint, listener=lambda: None
            )
        partial = checkpoint.begin(target)
        await ranks.save_hf(partial / "hf")
    await asyncio.to_thread(checkpoint.finish, partial, target)
    run.interrupts.check()


def _parts(
    run: Run, folder: Path, ranks: RankClients, ledger: Ledger, state: RunState, checkpointer: Checkpointer
) -> SftParts:
    settings, seed = run.config.sft, run.config.run.seed
    vary = dropout_of(run.config.data, seed=seed)
    return SftParts(
        stream=PromptStream(run.corpora.cold_start, seed=seed, cursor=state.cursor, vary=vary),
        prepare=run.prepare,
        train=ranks.train_sft,
        ledger=ledger,
        metrics=CurvedMetrics(
            folder / "metrics.jsonl", curves=curves_of(run.folder, run.config.run, "sft", after_step=state.step)
        ),
        display=StepLines(
            run.progress,
            name="sft",
            first_step=state.step,
            num_steps=settings.steps,
            every=max(1, settings.steps // 10),
        ),
        save_checkpoint=checkpointer,
        should_stop=run.interrupts.check,
        examples_per_step=settings.examples_per_step,
        steps_per_checkpoint=settings.steps_per_checkpoint,
        max_non_finite_steps=run.config.learner.max_non_finite_steps,
    )
