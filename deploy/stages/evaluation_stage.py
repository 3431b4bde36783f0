"""The evaluation of a policy on the held-out clips as a stage of a run."""

from collections.abc import Sequence

from common.config.evaluation import Policy
from common.evaluation.controls import asked_in_groups
from common.evaluation.predictions import Prediction, write_predictions
from common.labels import TAXONOMIES
from common.types import Condition, Record, SamplingSpec
from deploy.wiring import Run, open_fleet, starting
from learner.checkpoints import checkpoint
from learner.checkpoints.checkpoint import Best, RunState
from learner.loops.evaluation import (
    Asking,
    EvaluationResult,
    answers_file,
    evaluation_result,
    predict_clips,
    read_result,
    result_metrics,
    result_name,
    validation_metrics,
    write_result,
)
from learner.records.curves import curves_of
from learner.records.event_log import EventLog
from rollout.fleet.fleet import Fleet
from rollout.pool import RolloutPool


async def evaluate_untrained(run: Run) -> None:
    """Evaluates the untrained policy on separate engines."""
    if not is_due(run, "untrained"):
        return
    async with open_fleet(run, run.model_path, is_static=True) as (fleet, _):
        async with starting(run, "engine, untrained"):
            await fleet.until_warm()
        await evaluate_policy(run, fleet, "untrained", version=0)


def is_due(run: Run, policy: Policy) -> bool:
    """True if a configured condition of the policy has no result yet."""
    return bool(_due(run, policy))


def _due(run: Run, policy: Policy) -> list[Condition]:
    if policy not in run.config.evaluation.policies:
        return []
    controls = run.config.evaluation.controls if policy == "grpo" else ()
    folder = run.folder / "eval"
    return [c for c in ("av", *controls) if read_result(folder, result_name(policy, c)) is None]


async def evaluate_policy(run: Run, fleet: Fleet, policy: Policy, *, version: int) -> None:
    """Evaluates the missing conditions of a policy on the held-out clips."""
    taxonomy, seed = run.config.data.taxonomy, run.config.run.seed
    for condition in _due(run, policy):
        clips = asked_in_groups(run.corpora.heldout, condition, classes=TAXONOMIES[taxonomy], seed=seed)
        asking = Asking(policy_version=version, taxonomy=taxonomy, condition=condition)
        result = await _evaluate(run, fleet, clips, asking, policy=result_name(policy, condition))
        for curve in curves_of(run.folder, run.config.run, "eval", after_step=None):
            curve.write(version, result_metrics(result))


class CheckpointEvaluator:
    """An `EvaluateFn` of the validation clips, after every n-th and the last checkpoint; it records the best."""

    def __init__(self, run: Run, fleet: Fleet, events: EventLog, *, after_step: int) -> None:
        """Points of the curves after `after_step` are void."""
        self._run, self._fleet, self._events = run, fleet, events
        config = run.config
        self._every = config.evaluation.every_checkpoints * config.learner.checkpoint.every_steps
        self._curves = curves_of(run.folder, config.run, "validation", after_step=after_step) if self._every else []

    async def __call__(self, state: RunState) -> None:
        run = self._run
        if not self._every or (state.step % self._every and state.step != run.config.learner.steps):
            return
        asking = Asking(policy_version=state.policy_version, taxonomy=run.config.data.taxonomy)
        with self._events.phase("evaluation"):
            result = await _evaluate(
                run, self._fleet, run.corpora.validation, asking, policy=f"validation_{state.step:06d}"
            )
        war, uar = result.recognition.war.value, result.recognition.uar.value
        checkpoint.note_best(run.folder, Best(step=state.step, war=war, uar=uar))
        for curve in self._curves:
            curve.write(state.step, validation_metrics(result))


async def _evaluate(
    run: Run, fleet: Fleet, clips: Sequence[Record], asking: Asking, *, policy: str
) -> EvaluationResult:
    predictions, folder = await ask(run, fleet, clips, asking, name=policy), run.folder / "eval"
    write_predictions(answers_file(folder, policy), predictions)
    result = evaluation_result(predictions, policy=policy, policy_version=asking.policy_version)
    write_result(folder, result)
    return result


async def ask(run: Run, fleet: Fleet, clips: Sequence[Record], asking: Asking, *, name: str) -> list[Prediction]:
    """Answers clips greedily, once each; results are in the order of the clips."""
    config = run.config.rollout
    greedy = SamplingSpec(temperature=0.0, max_tokens=config.sampling.max_tokens)
    pool = RolloutPool(
        fleet.dispatcher, slots=fleet.slots, sampling=greedy, group_size=1, deadline_s=config.deadline_s
    )
    with run.progress.bar(f"evaluation, {name}") as update:
        return await predict_clips(
            clips,
            asking,
            prepare=run.prepare,
            generate=pool,
            max_in_flight=run.config.evaluation.max_in_flight,
            on_clip=update,
        )
