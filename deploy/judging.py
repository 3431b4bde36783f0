"""The judgement of a policy on the held-out clips, as a stage of a run; and engines made ready to be asked."""

import asyncio
from collections.abc import Sequence

from common.config.evaluation import Policy
from common.types import ProcessedPrompt, SamplingSpec
from deploy.wiring import Run, open_engines, require_same_sources, starting
from learner.curves import curves_of
from learner.evaluation import judge, judgement_metrics, judgement_of, read_judgement, write_judgement
from rollout.actor import EngineClient
from rollout.pool import RolloutPool


async def judge_untrained(run: Run) -> None:
    """The policy before anything, on engines of its own."""
    if not is_due(run, "untrained"):
        return
    async with open_engines(run, run.model_path) as engines:
        await warm_up(run, engines, phase="engine, untrained")
        await judge_policy(run, engines, "untrained", version=0)


def is_due(run: Run, policy: Policy) -> bool:
    """Whether a policy is to be judged and has not been."""
    return policy in run.config.evaluation.policies and read_judgement(run.folder / "eval", policy) is None


async def judge_policy(run: Run, engines: Sequence[EngineClient], policy: Policy, *, version: int) -> None:
    """Asks the held-out clips, where that is due."""
    if not is_due(run, policy):
        return
    config = run.config.rollout
    greedy = SamplingSpec(temperature=0.0, max_tokens=config.sampling.max_tokens)
    curves = curves_of(run.folder, run.config.run, "eval", after_step=None)
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


async def warm_up(run: Run, engines: Sequence[EngineClient], *, phase: str) -> list[ProcessedPrompt]:
    """Waits for engines, readies them on the longest prompt of the run, and checks what they run.

    Returns:
        The probes.

    Raises:
        ClusterError: they are not up in time, or run other sources than the driver.
    """
    rollout = run.config.rollout
    async with starting(run, phase):
        longest, *probes = await run.prepare.references(
            question=run.corpora.train[0].question,
            max_prompt_tokens=rollout.max_model_len - rollout.sampling.max_tokens,
        )
        await asyncio.gather(*(engine.warm_up([longest, *probes]) for engine in engines))
        await require_same_sources(*engines)
    return probes
