"""The reward service: calls every configured reward for a group, handles failures, and sums the rest.

Built-in rewards run in this process. User code never does: it runs in other processes, in actors or behind HTTP.
The service belongs to one event loop and knows neither Ray nor HTTP servers.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from common.config.reward import (
    ActorRewardConfig,
    BuiltinRewardConfig,
    HttpRewardConfig,
    NamedActorRewardConfig,
    PythonRewardConfig,
    RewardConfig,
    RewardEntry,
)
from common.errors import ConfigError
from common.types import Failure, Score
from reward.hosts.deadlines_and_retries import NOT_CALLED, PooledReward
from reward.hosts.http_host import HttpHost
from reward.hosts.process_host import ProcessHost
from reward.hosts.reward_host import FunctionHost
from reward.outcome import NOTHING_PRECOMPUTED, Outcome, Precomputed, RewardFault, checked, fault_of
from reward.plugins.plugin import PluginSpec
from reward.request import RewardRequest, RewardResult
from reward.rubric import Rubric
from reward.validation import make_builtin, needs_engines

logger = logging.getLogger(__name__)
WAITING = frozenset({"judge"})
"""Built-in rewards that wait for other services; their async method `ask` runs with a deadline."""
NUM_WAITING = 32
"""Completions in flight of such a reward."""
TURN_S = 0.01
"""Seconds of built-in rewards after which other tasks of the event loop run."""
HostFn = Callable[[ActorRewardConfig | NamedActorRewardConfig], PooledReward]
"""Starts or finds a reward among Ray's actors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupReport:
    """The scores of a group and a report of each reward."""

    scores: list[Score] | Failure
    left_out: tuple[str, ...] = ()
    """Rewards that do not count in the sums."""
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    """Seconds by reward since the request, including waits."""
    faults: Mapping[str, RewardFault] = field(default_factory=dict[str, RewardFault])
    """The first failure of each reward."""
    num_faults: Mapping[str, int] = field(default_factory=dict[str, int])
    """Number of completions on which each reward failed."""
    stops_run: bool = False
    """True if a reward with `on_error: stop_run` failed."""
    outcomes: Mapping[str, Sequence[Outcome]] | None = None
    """Outcomes of each reward for each completion, if the service calls all rewards."""


class RewardService:
    """Scores groups with the configured rewards."""

    def __init__(
        self, config: RewardConfig, *, host: HostFn | None = None, asks_all: bool = False, has_engines: bool = False
    ) -> None:
        """Checks the rewards; nothing starts yet.

        Args:
            host: starts rewards that are Ray actors; without it user rewards run in processes.
            asks_all: also calls a reward for the completions that follow a failure in a group.
            has_engines: every group comes with the outcomes of the rewards that use rollout engines.

        Raises:
            ConfigError: a built-in reward is unknown, refuses its options or lacks engines, or a named actor has no
                host.
        """
        self.config = config
        self._asks_all = asks_all
        self._rubric = Rubric(config.rewards)
        self._builtin: dict[str, Callable[[RewardRequest], object]] = {}
        self._hosted: list[PooledReward] = []
        self._precomputed: list[str] = []
        for entry in config.rewards:
            if not isinstance(entry, BuiltinRewardConfig):
                self._hosted.append(_hosted(entry, host, asks_all=asks_all))
                continue
            reward = make_builtin(entry, has_engines=has_engines)
            if needs_engines(entry):
                self._precomputed.append(entry.name)
            elif entry.builtin_name in WAITING:
                make_host = partial(FunctionHost, cast(Any, reward).ask, concurrency=NUM_WAITING)
                self._hosted.append(PooledReward(entry, make_host=make_host, size=1, asks_all=asks_all))
            else:
                self._builtin[entry.name] = reward
        self.is_ready = self.is_quick
        self._starting: asyncio.Task[None] | None = None
        self._turn_ends = 0.0

    @property
    def is_quick(self) -> bool:
        """True if all rewards run in this process."""
        return not self._hosted

    @property
    def decisions(self) -> tuple[str, ...]:
        """The calling convention of each user reward, as one line; known after the start."""
        return tuple(reward.decision for reward in self._hosted if reward.decision)

    async def start(self) -> None:
        """Starts all rewards and returns when they are ready; later calls only wait.

        Raises:
            ConfigError: a reward cannot be loaded.
            RewardError: a reward does not start.
        """
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        # a caller that gives up must not stop the start for all others
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        await asyncio.gather(*(reward.start() for reward in self._hosted))
        self.is_ready = True
        for decision in self.decisions:
            logger.info("%s", decision)

    def close(self) -> None:
        for reward in self._hosted:
            reward.close()

    async def score_requests(
        self, requests: Sequence[RewardRequest], *, precomputed: Precomputed = NOTHING_PRECOMPUTED
    ) -> GroupReport:
        """Scores a group, one request per completion, within `reward.deadline_s`, or fails as a whole.

        `precomputed` holds the outcomes of rewards that use engines.
        """
        asked_at, clock = time.perf_counter(), asyncio.get_running_loop().time
        ends_at = clock() + self.config.deadline_s
        # a sum over fewer rewards or completions would look like any other
        assert precomputed.keys() == set(self._precomputed), f"got outcomes of {sorted(precomputed)}"
        assert all(len(p.outcomes) == len(requests) for p in precomputed.values()), "one outcome per completion"
        outcomes = {name: list(precomputed[name].outcomes) for name in self._precomputed}
        seconds = {name: precomputed[name].seconds for name in self._precomputed}

        async def score_hosted(reward: PooledReward) -> None:
            results: list[Outcome] = [self._over] * len(requests)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(ends_at):
                    await self.start()
                    results = await reward(requests)
            outcomes[reward.entry.name], seconds[reward.entry.name] = results, time.perf_counter() - asked_at

        async def score_builtin() -> None:
            for name, reward in self._builtin.items():
                started = time.perf_counter()
                results: list[Outcome] = []
                for request in requests:
                    results.append(_outcome(reward, request) if clock() < ends_at else self._over)
                    # quick rewards never suspend by themselves, and the other groups would wait for all of them
                    if clock() > self._turn_ends:
                        await asyncio.sleep(0)
                        self._turn_ends = clock() + TURN_S
                outcomes[name], seconds[name] = results, time.perf_counter() - started

        if self.is_quick:
            await score_builtin()
        else:
            await asyncio.gather(*map(score_hosted, self._hosted), score_builtin())
        return self._report(outcomes, seconds)

    @property
    def _over(self) -> RewardFault:
        detail = f"reward.deadline_s={self.config.deadline_s:g} s passed, waits of the group's rewards included"
        return RewardFault(kind="deadline", detail=detail)

    def _report(self, outcomes: Mapping[str, list[Outcome]], seconds: Mapping[str, float]) -> GroupReport:
        faults: dict[str, RewardFault] = {}
        num_faults: dict[str, int] = {}
        columns: dict[str, list[RewardResult]] = {}
        fatal: list[RewardEntry] = []
        for entry in self.config.rewards:
            failures = [o for o in outcomes[entry.name] if isinstance(o, RewardFault)]
            if not failures:
                columns[entry.name] = cast(list[RewardResult], outcomes[entry.name])
                continue
            # a skipped call is a consequence, not a cause
            cause = next((fault for fault in failures if fault != NOT_CALLED), failures[0])
            faults[entry.name], num_faults[entry.name] = cause, len(failures)
            if entry.on_error != "skip_reward_for_group":
                fatal.append(entry)
        stops_run = False
        if fatal:
            # a reward that stops the run is named before one that only fails the group
            first = next((entry for entry in fatal if entry.on_error == "stop_run"), fatal[0])
            fault = faults[first.name]
            # a reward that only waited too long for its turn has not failed
            stops_run = first.on_error == "stop_run" and fault != self._over
            failure = Failure(stage="reward", reason=f"{first.name}-{fault.kind}", detail=fault.detail)
            scores, left_out = failure, ()
        else:
            scores, left_out = self._rubric.sum(columns)
        return GroupReport(
            scores=scores,
            left_out=left_out,
            seconds=seconds,
            faults=faults,
            num_faults=num_faults,
            stops_run=stops_run,
            outcomes=outcomes if self._asks_all else None,
        )


def _outcome(reward: Callable[[RewardRequest], object], request: RewardRequest) -> Outcome:
    try:
        value = reward(request)
    except Exception as error:  # noqa: BLE001 - its failure is data
        return fault_of(error)
    # most values are finite floats, for which the full check costs more than the reward
    if type(value) is float and -1e300 < value < 1e300:
        return RewardResult(value=value)
    return checked(value)


def _hosted(entry: RewardEntry, host: HostFn | None, *, asks_all: bool) -> PooledReward:
    pooled = partial(PooledReward, entry, asks_all=asks_all)
    match entry:
        case HttpRewardConfig():
            return pooled(make_host=partial(HttpHost, entry), size=1)
        case PythonRewardConfig():
            make_host = partial(_process_host, entry, max_gib=entry.max_memory_gib)
            return pooled(make_host=make_host, size=entry.num_workers, num_spare=entry.max_spare_workers)
        case ActorRewardConfig() | NamedActorRewardConfig() if host is not None:
            return host(entry)
        case ActorRewardConfig():
            return pooled(make_host=partial(_process_host, entry, max_gib=None), size=1)
        case _:
            raise ConfigError(
                f"reward.rewards {entry.name} must have Ray, which finds a named actor, got none here; leave it out"
            )


def _process_host(entry: PythonRewardConfig | ActorRewardConfig, *, max_gib: float | None) -> ProcessHost:
    max_bytes = None if max_gib is None else int(max_gib * 2**30)
    return ProcessHost(PluginSpec.of(entry), max_memory_bytes=max_bytes, max_concurrency=entry.max_concurrency)
