"""The scoring of groups: rewards that need engines first, then the reward service."""

import asyncio
import functools
from collections.abc import Callable, Sequence

from common.config.reward import BuiltinRewardConfig
from common.models.registry import family_of
from common.protocols import ScoreFn
from common.types import Completion, Failure, Record, Score
from deploy.wiring import Run
from reward.actor import RewardClient
from reward.engine_rewards import EngineRewards
from reward.outcome import PrecomputedOutcomes, RewardFault
from reward.validation import needs_engines
from rollout.fleet.fleet import Fleet
from rollout.pool import RolloutPool
from rollout.scoring import LogprobScorer


async def scored_by(
    run: Run, service: RewardClient, *, fleet: Fleet, pool: RolloutPool, version: Callable[[], int]
) -> ScoreFn:
    """The `ScoreFn` of an attempt; `version` is the policy version of all engines."""
    config = run.config
    if not any(isinstance(entry, BuiltinRewardConfig) and needs_engines(entry) for entry in config.reward.rewards):
        return service
    encode = functools.partial(family_of(run.model_path).encode_text, model_path=run.model_path)
    # the tokenizer is loaded when it is first used
    await asyncio.to_thread(encode, "")
    scorer = LogprobScorer(
        pool,
        prepare=run.prepare,
        encode=encode,
        version=version,
        donors=run.corpora.train,
        is_alone=config.is_deterministic,
    )
    rewards = EngineRewards(config.reward, score_logprobs=scorer)
    await rewards.start()

    async def score(record: Record, completions: Sequence[Completion]) -> list[Score] | Failure:
        while True:
            # a reward's own deadline does not allow for the replacement of an engine
            await fleet.until_serving()
            num_losses = fleet.num_losses
            precomputed = await rewards(record, completions)
            if fleet.num_losses == num_losses or not any(map(_is_late, precomputed.values())):
                return await service(record, completions, precomputed=precomputed)

    return score


def _is_late(precomputed: PrecomputedOutcomes) -> bool:
    return any(isinstance(o, RewardFault) and o.kind == "deadline" for o in precomputed.outcomes)
