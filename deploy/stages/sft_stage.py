"""The cold start as a stage of a run: supervised training on explanations, from its newest checkpoint or the start.

sft/          metrics, ledger and checkpoints of the training
cold_start/   the trained model, complete or absent
"""

import asyncio
from pathlib import Path

from common.datasets.dropout import dropout_of
from deploy.reporting.progress import StepLines
from deploy.stages.training import Training, open_training
from deploy.wiring import Run
from learner.checkpoints import checkpoint
from learner.loops.sft_loop import SftLoop, SftParts
from learner.loops.stream import PromptStream
from learner.records.curves import curves_of
from learner.records.record import CurvedMetrics


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
    # the schedule counts the steps of this stage, and its loss has no reference
    learner = run.config.learner.model_copy(
        update={"optimizer": settings.optimizer, "steps": settings.steps, "updates_per_step": 1, "beta": 0.0}
    )
    phase, resumed = "ranks, cold start", "the cold start is resumed"
    async with open_training(
        run, folder, start=run.model_path, learner=learner, phase=phase, resumed=resumed
    ) as training:
        loop = SftLoop(parts=_parts(run, folder, training), state=training.state, last_step=settings.steps)
        with run.progress.phase("cold start"):
            await run.interrupts.run_until_stopped(
                loop.run, save_checkpoint=loop.save_checkpoint, listener=lambda: None
            )
        partial = checkpoint.begin(target)
        await training.ranks.save_hf(partial / "hf")
    await asyncio.to_thread(checkpoint.finish, partial, target)
    run.interrupts.check()


def _parts(run: Run, folder: Path, training: Training) -> SftParts:
    settings, seed, state = run.config.sft, run.config.run.seed, training.state
    vary, every = dropout_of(run.config.data, seed=seed), max(1, settings.steps // 10)
    return SftParts(
        stream=PromptStream(run.corpora.cold_start, seed=seed, cursor=state.cursor, vary=vary),
        prepare=run.prepare,
        train=training.ranks.train_sft,
        ledger=training.ledger,
        metrics=CurvedMetrics(
            folder / "metrics.jsonl", curves=curves_of(run.folder, run.config.run, "sft", after_step=state.step)
        ),
        display=StepLines(run.progress, name="sft", first_step=state.step, num_steps=settings.steps, every=every),
        save_checkpoint=training.checkpointer,
        should_stop=run.interrupts.check,
        examples_per_step=settings.examples_per_step,
        steps_per_checkpoint=settings.steps_per_checkpoint,
        max_non_finite_steps=run.config.learner.max_non_finite_steps,
    )
