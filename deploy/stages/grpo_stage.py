"""GRPO as a stage of a run: engines and rewards once, ranks as often as they die, from the newest checkpoint."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.config.evaluation import Policy
from common.datasets.dropout import dropout_of
from common.errors import ConfigError, LearnerError
from common.types import ProcessedPrompt
from deploy.engine_host import RayEngineHost
from deploy.reporting.progress import StepLines
from deploy.stages.evaluation_stage import CheckpointEvaluator, evaluate_policy, is_due
from deploy.stages.scoring import scored_by
from deploy.stages.training import Training, newest, open_training
from deploy.wiring import Run, open_fleet, open_reward, sampling_of, starting
from learner.checkpoints import checkpoint
from learner.checkpoints.checkpoint import RunState
from learner.loops.admission import EngineAdmission
from learner.loops.grpo_loop import GrpoLoop, LoopParts
from learner.loops.producer import GroupProducer
from learner.loops.rank_turn import RankTurn
from learner.loops.staleness_buffer import GroupBuffer
from learner.loops.stream import PromptStream
from learner.publishing.publisher import Publisher
from learner.records.curves import curves_of
from learner.records.event_log import EventLog
from learner.records.record import CurvedMetrics, RunRecorder
from reward.actor import RewardClient
from rollout.fleet.fleet import Fleet
from rollout.pool import RolloutPool

LAYOUT = {
    "learner": ("num_ranks", "num_threads", "max_rows_per_micro_batch", "max_tokens_per_micro_batch"),
    "rollout": ("num_engines", "num_threads", "max_num_seqs", "max_num_batched_tokens"),
}
"""Keys that the last bits of sums depend on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stage:
    """State that outlives the ranks."""

    run: Run
    fleet: Fleet
    host: RayEngineHost
    events: EventLog
    reward: RewardClient
    probes: Sequence[ProcessedPrompt]
    reference_path: str
    """The checkpoint that the stage starts from, and refers to."""


async def run_grpo_stage(run: Run, start: str) -> None:
    """Runs GRPO from the newest whole checkpoint, or from the start; ranks that die are rebuilt from there.

    Raises:
        ConfigError: the checkpoint has another corpus or reference.
        LearnerError: ranks died more than `learner.max_rebuilds` times in a row without a finished step.
    """
    config = run.config
    state, policy = await newest(run.folder, start)
    if state.step >= config.learner.steps and not is_due(run, "grpo"):
        run.progress.say(
            f"{config.run.name} has taken its {state.step} steps; to start from scratch add --run.resume never"
        )
        return
    # other inputs are reported before an actor starts and before any record becomes void
    await _with_inputs(run, start, state)
    async with AsyncExitStack() as stack:
        events = EventLog(run.folder / "events.jsonl")
        fleet, host = await stack.enter_async_context(
            open_fleet(run, policy, version=state.policy_version, events=events)
        )
        reward = await stack.enter_async_context(open_reward(run))
        async with starting(run, "engines"):
            await fleet.until_warm()
            _, *probes = await run.references()
        stage = _Stage(
            run=run, fleet=fleet, host=host, events=events, reward=reward, probes=probes, reference_path=start
        )
        reached, num_rebuilds = state.step, 0
        while True:
            try:
                await _attempt(stage, synchronize=num_rebuilds > 0)
                return
            except LearnerError as error:
                before, reached = reached, (await newest(run.folder, start))[0].step
                num_rebuilds = 1 if reached > before else num_rebuilds + 1
                if num_rebuilds > config.learner.max_rebuilds:
                    raise
                run.progress.say(f"the learner ranks are rebuilt: {error}")


async def _attempt(stage: _Stage, *, synchronize: bool) -> None:
    """Trains from the newest checkpoint to the last step, on new ranks.

    With `synchronize`, engines may hold other weights than the checkpoint.
    """
    run, start, config = stage.run, stage.reference_path, stage.run.config
    async with open_training(
        run, run.folder, start=start, learner=config.learner, phase="learner ranks", resumed="resumed"
    ) as training:
        state = await _with_inputs(run, start, training.state)
        stage.host.load_next(training.policy_path, version=state.policy_version)
        publisher = Publisher(
            senders=training.ranks,
            fleet=stage.fleet,
            plan=training.info["plan"],
            segments=training.info["segments"],
            probes=stage.probes,
            sampling=sampling_of(config),
            config=config.learner.publish,
            dtype=config.model.dtype,
            answer_deadline_s=config.rollout.answer_deadline_s,
            version=state.policy_version,
        )
        with run.progress.phase("rehearsal"):
            await publisher.start(synchronize=synchronize)
        if state.step == 0:
            await _evaluate(stage, publisher, "cold_start", version=state.policy_version)
        display = StepLines(run.progress, name="step", first_step=state.step, num_steps=config.learner.steps)
        producer = await _producer(stage, training, display=display, publisher=publisher)
        parts = _loop_parts(stage, training, producer=producer, publisher=publisher, display=display)
        loop = GrpoLoop(parts=parts, state=state, last_step=config.learner.steps)
        with run.progress.phase("grpo"):
            await run.interrupts.run_until_stopped(
                loop.run, save_checkpoint=loop.save_checkpoint, listener=producer.interrupt
            )
        run.interrupts.check()
        await _evaluate(stage, publisher, "grpo", version=publisher.version)


async def _evaluate(stage: _Stage, publisher: Publisher, policy: Policy, *, version: int) -> None:
    evaluation = evaluate_policy(stage.run, stage.fleet, policy, version=version)
    # the ranks are free during an evaluation
    admission = EngineAdmission(fleet=stage.fleet, publisher=publisher, turn=RankTurn(), events=stage.events)
    async with admission.running():
        await admission.unless_failed(evaluation)


async def _with_inputs(run: Run, start: str, state: RunState) -> RunState:
    """The state with the digests and the layout of this run; raises `ConfigError` if the checkpoint has others."""
    config = run.config
    reference = await asyncio.to_thread(checkpoint.digest_of, Path(start))
    inputs = {"corpus": run.corpora.sha256, "reference": reference}
    layout = {f"{name}.{key}": getattr(getattr(config, name), key) for name in LAYOUT for key in LAYOUT[name]}
    _require_same("must be resumed with the clips and the reference it was made from", state.inputs, inputs)
    if config.is_deterministic:
        _require_same(
            "must be resumed in the layout that its last bits depend on while run.deterministic",
            state.layout,
            layout,
        )
    return replace(state, inputs=inputs, layout=layout)


def _require_same(rule: str, before: Any, now: Any) -> None:
    changed = [key for key in before if before[key] != now.get(key)]
    if changed:
        values = ", ".join(f"{key} {before[key]} before and {now.get(key)} now" for key in changed)
        raise ConfigError(
            f"a run {rule}, got {values}; set that back, choose another run.name, or start from scratch "
            "with --run.resume never"
        )


async def _producer(
    stage: _Stage, training: Training, *, display: StepLines, publisher: Publisher
) -> GroupProducer:
    run, config, state = stage.run, stage.run.config, training.state
    vary = dropout_of(config.data, seed=config.run.seed)
    stream = PromptStream(run.corpora.train, seed=config.run.seed, cursor=state.cursor, vary=vary)
    stream.ask_again(state.outstanding)
    stage.events.show = display.phase
    pool = RolloutPool(
        stage.fleet.dispatcher,
        slots=stage.fleet.slots,
        sampling=sampling_of(config),
        group_size=config.rollout.group_size,
        deadline_s=config.rollout.deadline_s,
    )
    return GroupProducer(
        stream=stream,
        prepare=run.prepare,
        generate=pool,
        together=pool.together if config.is_deterministic else None,
        score=await scored_by(run, stage.reward, fleet=stage.fleet, pool=pool, version=lambda: publisher.version),
        ledger=training.ledger,
        buffer=GroupBuffer(max_staleness=config.learner.max_staleness),
        events=stage.events,
        seed=config.run.seed,
        max_redraws=config.learner.max_redraws,
    )


def _loop_parts(
    stage: _Stage, training: Training, *, producer: GroupProducer, publisher: Publisher, display: StepLines
) -> LoopParts:
    run, config, step = stage.run, stage.run.config, training.state.step
    curves = curves_of(run.folder, config.run, "grpo", after_step=step)
    return LoopParts(
        producer=producer,
        train=training.ranks.train,
        publisher=publisher,
        fleet=stage.fleet,
        ledger=training.ledger,
        record=RunRecorder(
            run.folder,
            metrics=CurvedMetrics(run.folder / "metrics.jsonl", curves=curves),
            display=display,
            lineage=training.ledger.lineage,
        ),
        save_checkpoint=training.checkpointer,
        evaluate=CheckpointEvaluator(run, stage.fleet, producer.events, after_step=step),
        prefetch=run.prepare.prefetch,
        events=producer.events,
        reward_metrics=stage.reward.take_metrics,
        groups_per_step=config.learner.groups_per_step,
        steps_per_checkpoint=config.learner.checkpoint.every_steps,
        max_non_finite_steps=config.learner.max_non_finite_steps,
    )
