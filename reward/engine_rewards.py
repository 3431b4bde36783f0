"""Rewards that need the rollout engines: the driver computes them before the service sums.

Their outcomes go to the service with the group. The service applies gates, weights and `on_error` to all rewards.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import cast

from common.config.reward import BuiltinRewardConfig, RewardConfig
from common.protocols import ScoreLogprobsFn
from common.types import Completion, Record
from reward.builtin.modality_gain import ModalityGainReward
from reward.hosts.deadlines_and_retries import PooledReward
from reward.hosts.reward_host import FunctionHost
from reward.outcome import PrecomputedOutcomes
from reward.request import requests_of
from reward.validation import make_builtin, needs_engines

NUM_CALLS = 64
"""Completions in flight of each reward; the engines batch the requests."""


class EngineRewards:
    """The rewards of a configuration that need engines, each with its deadline and attempts."""

    def __init__(self, config: RewardConfig, *, score_logprobs: ScoreLogprobsFn) -> None:
        self._rewards: list[PooledReward] = []
        for entry in config.rewards:
            if isinstance(entry, BuiltinRewardConfig) and needs_engines(entry):
                reward = cast(ModalityGainReward, make_builtin(entry, has_engines=True)).bind(score_logprobs)
                make_host = partial(FunctionHost, reward, concurrency=NUM_CALLS)
                self._rewards.append(PooledReward(entry, make_host=make_host, size=1))

    async def start(self) -> None:
        await asyncio.gather(*(reward.start() for reward in self._rewards))

    async def __call__(self, record: Record, completions: Sequence[Completion]) -> dict[str, PrecomputedOutcomes]:
        requests, loop = requests_of(record, completions), asyncio.get_running_loop()

        async def outcomes_of(reward: PooledReward) -> PrecomputedOutcomes:
            started = loop.time()
            return PrecomputedOutcomes(outcomes=tuple(await reward(requests)), seconds=loop.time() - started)

        outcomes = await asyncio.gather(*map(outcomes_of, self._rewards))
        return {reward.entry.name: answer for reward, answer in zip(self._rewards, outcomes, strict=True)}
