"""A run's stages, each taken up where an earlier attempt left it: judge, cold start, reinforce.

    untrained policy --judge--> cold start --judge--> GRPO --judge--> summary

What a stage leaves is whole or not there: `eval/<policy>.json`, `cold_start/`, `checkpoints/`.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import ray

from common import provenance
from common.config.evaluation import Policy
from common.config.learner import LearnerConfig
from common.memory import MemorySampler
from common.types import ProcessedPrompt, SamplingSpec
from deploy.attempts import attempt
from deploy.progress import StepLines
from deploy.report import print_report
from deploy.summary import Summary, summarize, write_summary
from deploy.wiring import Run, open_engines, open_ranks, open_reward, sampling_of, starting
from learner import checkpoint
from learner.actor import RankClients
from learner.buffer import GroupBuffer
from learner.checkpoint import RunState
from learner.curves import TensorBoard, WandB
from learner.evaluation import judge, judgement_metrics, judgement_of, read_judgement, write_judgement
from learner.ledger import Ledger
from learner.loop import GrpoLoop, LoopParts
from learner.producer import GroupProducer
from learner.publisher import Publisher
from learner.record import CurvedMetrics, Curves, RunRecorder, rewind_records
from learner.stream import PromptStream
from learner.supervise import train_supervised
from reward.actor import RewardClient
from rollout.actor import EngineClient
from rollout.pool import RolloutPool

logger = logging.getLogger(__name__)


async def run_stages(run: Run) -> Summary:
    """All that is configured and not yet done, then the summary and its tables."""
    memory = MemorySampler(session=ray.get_runtime_context().get_session_name())
    with attempt(run.folder, run.progress, memory), memory:
        await judge_untrained(run)
        start = await cold_start(run)
        await reinforce(run, start)
    summary = summarize(
        run.folder,
        seed=run.config.run.seed,
        corpus_sha256=run.corpora.sha256,
        num_heldout=len(run.corpora.heldout),
    )
    write_summary(run.folder, summary)
    print_report(run.progress.console, run.folder, summary)
    return summary


async def judge_untrained(run: Run) -> None:
    """The policy before anything, on engines of its own."""
    if not _is_due(run, "untrained"):
        return
    async with open_engines(run, run.model_path) as engines:
        async with starting(run, "engine, untrained"):
            await _warm_up(run, engines)
        await _judge(run, engines, "untrained", version=0)


async def cold_start(run: Run) -> str:
    """Supervised training on explanations.

    Returns:
        The checkpoint that the reinforcement starts from, and refers to.
    """
    settings, target = run.config.sft, run.folder / "cold_start"
    if settings.steps == 0:
        return run.model_path
    if target.exists():
        fault = await asyncio.to_thread(checkpoint.fault_of, target)
        if fault is None:
            return str(target / "hf")
        run.progress.say(f"the cold start is made again: {fault}")
    partial = checkpoint.begin(target)
    learner = run.config.learner.model_copy(
        update={"optimizer": settings.optimizer, "steps": settings.steps, "updates_per_step": 1, "beta": 0.0}
    )
    async with AsyncExitStack() as stack:
        async with starting(run, "ranks, cold start"):
            ranks, _ = await stack.enter_async_context(open_ranks(run, run.model_path, learner=learner))
        with run.progress.phase("cold start"), run.interrupts.cleanly(lambda: None):
            await train_supervised(
                stream=PromptStream(run.corpora.cold_start, seed=run.config.run.seed),
                prepare=run.prepare,
                train=ranks.train_supervised,
                ledger=Ledger(partial / "ledger.jsonl"),
                metrics=CurvedMetrics(partial / "metrics.jsonl", curves=_curves(run, "sft")),
                display=StepLines(
                    run.progress,
                    name="sft",
                    first_step=0,
                    num_steps=settings.steps,
                    every=max(1, settings.steps // 10),
                ),
                steps=settings.steps,
                examples_per_step=settings.examples_per_step,
                should_stop=run.interrupts.check,
            )
            await ranks.save_hf(partial / "hf")
    await asyncio.to_thread(checkpoint.finish, partial, target)
    return str(target / "hf")


async def reinforce(run: Run, start: str) -> tuple[Publisher | None, Ledger]:
    """GRPO from the newest whole checkpoint, or from the start.

    Returns:
        The publisher, where there was anything left to do, and the ledger.
    """
    config = run.config
    newest = await asyncio.to_thread(checkpoint.newest_whole, run.folder)
    state = (
        checkpoint.read_state(newest) if newest else RunState(step=0, policy_version=0, cursor=0, ledger_bytes=0)
    )
    if state.step >= config.learner.steps and not _is_due(run, "grpo"):
        run.progress.say(f"{config.run.name} has taken its {state.step} steps; --run.resume never starts anew")
        return None, Ledger(run.folder / "ledger.jsonl")
    ledger = _take_up_records(run, state)
    policy = str(newest / "hf") if newest else start
    async with AsyncExitStack() as stack:
        async with starting(run, "engines and ranks"):
            engines = await stack.enter_async_context(open_engines(run, policy, version=state.policy_version))
            ranks, info = await stack.enter_async_context(
                open_ranks(run, policy, learner=config.learner, reference_path=start)
            )
            if newest:
                await ranks.load_optimizer(newest, num_updates=state.num_updates)
        async with starting(run, "warm-up"):
            probes = await _warm_up(run, engines)
        publisher = _publisher(run, ranks, engines, info, probes, version=state.policy_version)
        with run.progress.phase("rehearsal"):
            await publisher.start()
        if state.step == 0:
            await _judge(run, engines, "cold_start", version=state.policy_version)
        reward = await stack.enter_async_context(open_reward(run))
        await _require_same_sources(*engines, ranks, reward)
        producer = _producer(run, engines, reward, ledger, state)
        loop = GrpoLoop(
            parts=_loop_parts(run, producer, ranks, publisher, ledger, state),
            state=state,
            last_step=config.learner.steps,
        )
        await _train(run, loop)
        await _judge(run, engines, "grpo", version=publisher.version)
    return publisher, ledger


async def _require_same_sources(*processes: EngineClient | RankClients | RewardClient) -> None:
    own = provenance.sources()
    for process in processes:
        for who, theirs in (await process.sources()).items():
            provenance.require_same_sources(own, theirs, who=who)


async def _train(run: Run, loop: GrpoLoop) -> None:
    """The loop; a run that is asked to stop keeps what it has learned."""
    with run.progress.phase("grpo"), run.interrupts.cleanly(loop.parts.producer.interrupt):
        try:
            run.interrupts.check()
            await loop.run()
        finally:
            if run.interrupts.is_asked:
                await loop.keep()


def _take_up_records(run: Run, state: RunState) -> Ledger:
    """The ledger; where an earlier attempt went further than its checkpoint, what stands behind is void."""
    ledger = Ledger(run.folder / "ledger.jsonl")
    if ledger.num_bytes > state.ledger_bytes:
        ledger.rewound(step=state.step, ledger_bytes=state.ledger_bytes)
        ledger.commit()
    rewind_records(run.folder, step=state.step)
    if state.step:
        run.progress.say(f"resumed after step {state.step}")
    return ledger


def _producer(
    run: Run, engines: Sequence[EngineClient], reward: Any, ledger: Ledger, state: RunState
) -> GroupProducer:
    config = run.config
    stream = PromptStream(run.corpora.train, seed=config.run.seed, cursor=state.cursor)
    stream.ask_again(state.outstanding)
    return GroupProducer(
        stream=stream,
        prepare=run.prepare,
        generate=RolloutPool(
            engines,
            sampling=sampling_of(config),
            group_size=config.rollout.group_size,
            deadline_s=config.rollout.deadline_s,
        ),
        score=reward,
        ledger=ledger,
        buffer=GroupBuffer(max_staleness=config.learner.max_staleness),
        seed=config.run.seed,
        max_redraws=config.learner.max_redraws,
    )


def _loop_parts(
    run: Run, producer: GroupProducer, ranks: RankClients, publisher: Publisher, ledger: Ledger, state: RunState
) -> LoopParts:
    config = run.config

    async def keep(state: RunState) -> None:
        await keep_checkpoint(run.folder, ranks, state, keep=config.learner.checkpoint.keep)

    curves = _curves(run, "grpo", after_step=state.step)
    display = StepLines(run.progress, name="step", first_step=state.step, num_steps=config.learner.steps)
    return LoopParts(
        producer=producer,
        train=ranks.train,
        publisher=publisher,
        ledger=ledger,
        record=RunRecorder(
            run.folder,
            metrics=CurvedMetrics(run.folder / "metrics.jsonl", curves=curves),
            display=display,
            lineage=ledger.lineage,
        ),
        keep=keep,
        prefetch=run.prepare.prefetch,
        groups_per_step=config.learner.groups_per_step,
        steps_per_checkpoint=config.learner.checkpoint.every_steps,
    )


async def keep_checkpoint(folder: Path, ranks: RankClients, state: RunState, *, keep: int) -> None:
    """Writes a checkpoint of the ranks as they are, aside and then in place; the oldest go."""
    target = checkpoint.checkpoint_folder(folder, state.step)
    partial = await asyncio.to_thread(checkpoint.begin, target)
    num_updates = await ranks.save(partial)
    checkpoint.write_state(partial, state.with_updates(num_updates))
    await asyncio.to_thread(checkpoint.finish, partial, target)
    await asyncio.to_thread(checkpoint.prune, folder, keep=keep)


def _curves(run: Run, stage: str, *, after_step: int | None = 0) -> list[Curves]:
    """Of one stage; what it drew after a step before is void, nothing where None."""
    curves: list[Curves] = [TensorBoard(run.folder / "tensorboard" / stage, after_step=after_step)]
    settings = run.config.run
    if settings.wandb_project:
        curves.append(WandB(project=settings.wandb_project, name=settings.name, folder=run.folder, stage=stage))
    return curves


def _publisher(
    run: Run,
    ranks: RankClients,
    engines: Sequence[EngineClient],
    info: dict[str, Any],
    probes: Sequence[ProcessedPrompt],
    *,
    version: int,
) -> Publisher:
    learner: LearnerConfig = run.config.learner
    return Publisher(
        senders=ranks,
        engines=engines,
        plan=info["plan"],
        segments=info["segments"],
        probes=probes,
        sampling=sampling_of(run.config),
        config=learner.publish,
        dtype=run.config.model.dtype,
        version=version,
    )


async def _warm_up(run: Run, engines: Sequence[EngineClient]) -> list[ProcessedPrompt]:
    """Readies the engines on the longest prompt of the run; the probes."""
    rollout = run.config.rollout
    longest, *probes = await run.prepare.references(
        question=run.corpora.train[0].question,
        max_prompt_tokens=rollout.max_model_len - rollout.sampling.max_tokens,
    )
    await asyncio.gather(*(engine.warm_up([longest, *probes]) for engine in engines))
    return probes


def _is_due(run: Run, policy: Policy) -> bool:
    return policy in run.config.evaluation.policies and read_judgement(run.folder / "eval", policy) is None


async def _judge(run: Run, engines: Sequence[EngineClient], policy: Policy, *, version: int) -> None:
    """Asks the held-out clips, where that is configured and not done."""
    if not _is_due(run, policy):
        return
    config = run.config.rollout
    greedy = SamplingSpec(temperature=0.0, max_tokens=config.sampling.max_tokens)
    curves = _curves(run, "eval", after_step=None)
    pool = RolloutPool(engines, sampling=greedy, group_size=1, deadline_s=config.deadline_s)
    with run.progress.bar(f"evaluation, {policy}") as update:
        clips = await judge(
            run.corpora.heldout,
            prepare=run.prepare,
            generate=pool,
            max_in_flight=run.config.evaluation.max_in_flight,
            on_clip=update,
        )
    judgement = judgement_of(clips, policy=policy, policy_version=version)
    write_judgement(run.folder / "eval", judgement, clips)
    for curve in curves:
        curve.write(version, judgement_metrics(judgement))
