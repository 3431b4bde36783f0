"""How groups are scored in a run: by the service, and before it by the rewards that ask the engines."""

import asyncio
import functools
from collections.abc import Callable, Sequence

from common.config.reward import BuiltinRewardConfig, RewardConfig
from common.models.registry import family_of
from common.protocols import ScoreFn
from common.types import Completion, Failure, Record, Score
from deploy.wiring import Run
from reward.actor import RewardClient
from reward.checks import needs_engines
from reward.engine_rewards import EngineRewards
from rollout.pool import RolloutPool
from rollout.scoring import LogprobScorer


class ScoreBesideEngines:
    """A `ScoreFn` that asks the engines first, and then the service, which settles and sums."""

    def __init__(self, service: RewardClient, rewards: EngineRewards) -> None:
        self._service, self._rewards = service, rewards

    async def __call__(self, record: Record, completions: Sequence[Completion]) -> list[Score] | Failure:
        """Scores a group.

        Raises:
            RewardError: the service cannot be restarted, or a reward stops the run.
        """
        return await self._service(record, completions, given=await self._rewards(record, completions))


async def scored_by(run: Run, service: RewardClient, *, pool: RolloutPool, version: Callable[[], int]) -> ScoreFn:
    """How the groups of an attempt are scored.

    Args:
        run: of the attempt.
        service: of the rewards.
        pool: of the engines.
        version: the policy version that all engines hold.
    """
    config = run.config
    if not asks_engines(config.reward):
        return service
    encode = functools.partial(family_of(run.model_path).encode_text, model_path=run.model_path)
    # the tokenizer is loaded when it is first used
    await asyncio.to_thread(encode, "")
    scorer = LogprobScorer(
        pool,
        prepare=run.prepare,
        encode=encode,
        version=version,
        lenders=run.corpora.train,
        is_alone=config.is_deterministic,
    )
    rewards = EngineRewards(config.reward, score_logprobs=scorer)
    await rewards.start()
    return ScoreBesideEngines(service, rewards)


def asks_engines(config: RewardConfig) -> bool:
    """Whether a reward asks the rollout engines."""
    return any(isinstance(entry, BuiltinRewardConfig) and needs_engines(entry) for entry in config.rewards)
