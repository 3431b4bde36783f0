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
from typing import Any, Protocol, cast

from common.config.reward import (
    ActorRewardConfig,
    BuiltinRewardConfig,
    HttpRewardConfig,
    NamedActorRewardConfig,
    PythonRewardConfig,
    RewardConfig,
    RewardEntry,
)
from common.errors import ConfigError, RewardError
from common.types import Failure, Score
from reward.checks import make_builtin, needs_engines
from reward.hosts.deadlines_and_retries import PooledReward
from reward.hosts.remote import over_http
from reward.hosts.reward_host import RewardHost
from reward.hosts.worker_process import ProcessHost
from reward.outcome import Outcome, RewardFault, checked, fault_of
from reward.plugins.plugin import PluginSpec
from reward.precomputed import NOTHING, PrecomputedOutcomes, columns_of
from reward.request import RewardRequest, RewardResult
from reward.rubric import Rubric

logger = logging.getLogger(__name__)
WAITING = frozenset({"judge"})
"""Built-in rewards that wait for other services; their async method `ask` runs with a deadline."""
NUM_WAITING = 32
"""Completions in flight of such a reward."""
TURN_S = 0.01
"""Seconds of built-in rewards after which other tasks of the event loop run."""


class HostedReward(Protocol):
    entry: RewardEntry
    decision: str

    async def start(self) -> None: ...

    async def __call__(self, requests: Sequence[RewardRequest]) -> list[Outcome]: ...

    def close(self) -> None: ...


HostFn = Callable[[ActorRewardConfig | NamedActorRewardConfig], HostedReward]
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


class BuiltinReward:
    def __init__(self, entry: BuiltinRewardConfig) -> None:
        self.entry = entry
        self._call = make_builtin(entry)

    def answer(self, request: RewardRequest) -> Outcome:
        try:
            value = self._call(request)
        except Exception as error:  # noqa: BLE001 - its failure is data
            return fault_of(error)
        return self._checked(value)

    async def answer_later(self, request: RewardRequest) -> Outcome:
        try:
            return checked(await cast(Any, self._call).ask(request))
        except Exception as error:  # noqa: BLE001 - its failure is data
            return fault_of(error)

    @staticmethod
    def _checked(value: object) -> Outcome:
        if type(value) is float and -1e300 < value < 1e300:
            return RewardResult(value=value)
        return checked(value)


class WaitingHost(RewardHost):
    """A built-in reward that waits for another service."""

    concurrency = NUM_WAITING

    def __init__(self, reward: BuiltinReward) -> None:
        self._reward = reward

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        return [await self._reward.answer_later(request) for request in requests]


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
        self._own: list[BuiltinReward] = []
        self._asked: list[HostedReward] = []
        self._precomputed: list[str] = []
        for entry in config.rewards:
            if has_engines and isinstance(entry, BuiltinRewardConfig) and needs_engines(entry):
                make_builtin(entry, has_engines=True)
                self._precomputed.append(entry.name)
                continue
            instance = _made(entry, host, asks_all=asks_all)
            if isinstance(instance, BuiltinReward):
                self._own.append(instance)
            else:
                self._asked.append(instance)
        self._starting: asyncio.Task[None] | None = None
        self._turn_ends = 0.0

    @property
    def is_quick(self) -> bool:
        """True if all rewards run in this process."""
        return not self._asked

    @property
    def is_ready(self) -> bool:
        return self.is_quick or (
            self._starting is not None
            and self._starting.done()
            and not self._starting.cancelled()
            and self._starting.exception() is None
        )

    @property
    def decisions(self) -> tuple[str, ...]:
        """The calling convention of each user reward, as one line; known after the start."""
        return tuple(reward.decision for reward in self._asked if reward.decision)

    async def start(self) -> None:
        """Starts all rewards and returns when they are ready; later calls only wait.

        Raises:
            ConfigError: a reward cannot be loaded.
            RewardError: a reward does not start.
        """
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        await asyncio.gather(*(reward.start() for reward in self._asked))
        for decision in self.decisions:
            logger.info("%s", decision)

    def close(self) -> None:
        for reward in self._asked:
            reward.close()

    async def score_requests(
        self, requests: Sequence[RewardRequest], *, precomputed: Mapping[str, PrecomputedOutcomes] = NOTHING
    ) -> GroupReport:
        """Scores a group, one request per completion, within `reward.deadline_s`, or fails as a whole.

        `precomputed` holds the outcomes of rewards that use engines, by reward.
        """
        started = time.perf_counter()
        ends_at = asyncio.get_running_loop().time() + self.config.deadline_s
        outcomes, seconds = columns_of(precomputed, names=self._precomputed, count=len(requests))

        async def ask(reward: HostedReward) -> None:
            results: list[Outcome] = [self._over] * len(requests)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(ends_at):
                    await self.start()
                    results = await reward(requests)
            outcomes[reward.entry.name], seconds[reward.entry.name] = results, time.perf_counter() - started

        builtin_task = self._answer_own(requests, outcomes, seconds, ends_at=ends_at)
        if self.is_quick:
            await builtin_task
        else:
            await asyncio.gather(*map(ask, self._asked), builtin_task)
        return self._settled(outcomes, seconds)

    async def _answer_own(
        self,
        requests: Sequence[RewardRequest],
        outcomes: dict[str, list[Outcome]],
        seconds: dict[str, float],
        *,
        ends_at: float,
    ) -> None:
        """Computes the rewards of this process, and yields to the event loop in between."""
        clock = asyncio.get_running_loop().time
        for builtin in self._own:
            started = time.perf_counter()
            results: list[Outcome] = []
            for request in requests:
                results.append(builtin.answer(request) if clock() < ends_at else self._over)
                # quick rewards never suspend by themselves, and the other groups would wait for all of them
                if clock() > self._turn_ends:
                    await asyncio.sleep(0)
                    self._turn_ends = clock() + TURN_S
            outcomes[builtin.entry.name], seconds[builtin.entry.name] = results, time.perf_counter() - started

    @property
    def _over(self) -> RewardFault:
        detail = f"reward.deadline_s={self.config.deadline_s:g} s passed, waits of the group's rewards included"
        return RewardFault(kind="deadline", detail=detail)

    def _settled(self, outcomes: Mapping[str, list[Outcome]], seconds: Mapping[str, float]) -> GroupReport:
        all_outcomes = outcomes if self._asks_all else None
        faults: dict[str, RewardFault] = {}
        num_faults: dict[str, int] = {}
        columns: dict[str, list[RewardResult]] = {}
        fatal: list[RewardEntry] = []
        for entry in self.config.rewards:
            failures = [o for o in outcomes[entry.name] if isinstance(o, RewardFault)]
            if not failures:
                columns[entry.name] = cast(list[RewardResult], outcomes[entry.name])
                continue
            faults[entry.name], num_faults[entry.name] = _telling(failures), len(failures)
            if entry.on_error != "skip_reward_for_group":
                fatal.append(entry)
        if fatal:
            # a reward that stops the run is named before one that only fails the group
            first = next((entry for entry in fatal if entry.on_error == "stop_run"), fatal[0])
            fault = faults[first.name]
            failure = Failure(stage="reward", reason=f"{first.name}-{fault.kind}", detail=fault.detail)
            return GroupReport(
                scores=failure,
                seconds=seconds,
                faults=faults,
                num_faults=num_faults,
                # a reward that only waited too long for its turn has not failed
                stops_run=first.on_error == "stop_run" and fault != self._over,
                outcomes=all_outcomes,
            )
        summed = self._rubric.sum(columns)
        return GroupReport(
            scores=summed.scores,
            left_out=summed.left_out,
            seconds=seconds,
            faults=faults,
            num_faults=num_faults,
            outcomes=all_outcomes,
        )


def _made(entry: RewardEntry, host: HostFn | None, *, asks_all: bool) -> BuiltinReward | HostedReward:
    match entry:
        case BuiltinRewardConfig() if entry.builtin_name in WAITING:
            reward = BuiltinReward(entry)

            def make_waiting() -> RewardHost:
                return WaitingHost(reward)

            return PooledReward(entry, make_host=make_waiting, size=1, asks_all=asks_all)
        case BuiltinRewardConfig():
            return BuiltinReward(entry)
        case HttpRewardConfig():
            return over_http(entry, asks_all=asks_all)
        case PythonRewardConfig():
            return _in_processes(entry, asks_all=asks_all)
        case ActorRewardConfig() if host is None:
            return _in_processes(entry, asks_all=asks_all)
        case ActorRewardConfig() | NamedActorRewardConfig() if host is not None:
            return host(entry)
        case _:
            raise ConfigError(
                f"reward.rewards {entry.name} must have Ray, which finds a named actor, got none here; leave it out"
            )


def _in_processes(entry: PythonRewardConfig | ActorRewardConfig, *, asks_all: bool) -> PooledReward:
    # without Ray, rewards for actors also run in processes
    is_python = isinstance(entry, PythonRewardConfig)
    limit_gib = entry.max_memory_gib if is_python else None

    def make() -> RewardHost:
        return ProcessHost(
            PluginSpec.of(entry),
            max_memory_bytes=None if limit_gib is None else int(limit_gib * 2**30),
            max_concurrency=entry.max_concurrency,
        )

    size, num_spare = (entry.num_workers, entry.max_spare_workers) if is_python else (1, 0)
    return PooledReward(entry, make_host=make, size=size, num_spare=num_spare, asks_all=asks_all)


def _telling(faults: Sequence[RewardFault]) -> RewardFault:
    """The first fault that is a cause, not a skipped call."""
    return next((fault for fault in faults if not fault.detail.startswith("not asked:")), faults[0])


def stop_reason(report: GroupReport) -> RewardError:
    """The error that stops a run after such a report."""
    assert isinstance(report.scores, Failure)
    return RewardError(f"a reward with on_error=stop_run failed: {report.scores.reason}: {report.scores.detail}")
