"""The reward service: calls every configured reward for a group, settles faults, and sums the rest.

Built-in rewards run here; code of the user's never does: it runs in processes or actors of its own, or behind HTTP,
and is asked through pools. This is an object of one event loop and knows neither Ray nor HTTP servers.
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
from common.types import Completion, Failure, Record, Score
from reward.checks import make_builtin, needs_engines
from reward.hosts.deadlines_and_retries import PooledReward
from reward.hosts.remote import over_http
from reward.hosts.reward_host import RewardHost
from reward.hosts.worker_process import ProcessHost
from reward.outcome import Outcome, RewardFault, checked, fault_of
from reward.plugins.plugin import PluginSpec
from reward.precomputed import NOTHING, PrecomputedOutcomes, columns_of
from reward.request import RewardRequest, RewardResult, requests_of
from reward.rubric import Rubric

logger = logging.getLogger(__name__)
WAITING = frozenset({"judge"})
"""Built-in rewards that wait for other services: the async method `ask` computes them, with a deadline."""
NUM_WAITING = 32
"""Completions in flight of such a reward."""
TURN_S = 0.01
"""Seconds of built-in rewards, one completion aside, after which others of the event loop have their turn."""


class HostedReward(Protocol):
    """A reward that a host computes."""

    entry: RewardEntry
    decision: str

    async def start(self) -> None: ...

    async def __call__(self, requests: Sequence[RewardRequest]) -> list[Outcome]: ...

    def close(self) -> None: ...


HostFn = Callable[[ActorRewardConfig | NamedActorRewardConfig], HostedReward]
"""Hosts, or finds, a reward among Ray's actors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupReport:
    """The scores of a group and a report of each reward."""

    scores: list[Score] | Failure
    left_out: tuple[str, ...] = ()
    """Rewards without a part in the sums."""
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    """Seconds by reward since the request, including waits."""
    faults: Mapping[str, RewardFault] = field(default_factory=dict[str, RewardFault])
    """The first of each reward that has some."""
    num_faults: Mapping[str, int] = field(default_factory=dict[str, int])
    """Completions that it failed on."""
    stops_run: bool = False
    """True if a reward with `on_error: stop_run` failed."""
    given: Mapping[str, Sequence[Outcome]] | None = None
    """Outcomes of each reward for each completion; only of a service that calls all."""


class BuiltinReward:
    """One built-in reward with its options, computed in the process of the service."""

    def __init__(self, entry: BuiltinRewardConfig) -> None:
        """Makes it.

        Raises:
            ConfigError: there is none of this name, or it does not take the options.
        """
        self.entry = entry
        self._call = make_builtin(entry)

    def answer(self, request: RewardRequest) -> Outcome:
        """Its failure is data."""
        try:
            value = self._call(request)
        except Exception as error:  # noqa: BLE001 - its failure is data
            return fault_of(error)
        return self._checked(value)

    async def answer_later(self, request: RewardRequest) -> Outcome:
        """The same of a reward that waits for others."""
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
    """A built-in reward that waits for others."""

    concurrency = NUM_WAITING

    def __init__(self, reward: BuiltinReward) -> None:
        self._reward = reward

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """One call."""
        return [await self._reward.answer_later(request) for request in requests]


class RewardService:
    """Scores groups with the configured rewards.

    Attributes:
        is_quick: whether no reward is asked elsewhere: then `score_now` needs no event loop.
    """

    def __init__(
        self, config: RewardConfig, *, host: HostFn | None = None, asks_all: bool = False, has_engines: bool = False
    ) -> None:
        """Nothing is started yet.

        Args:
            config: the rewards.
            host: for rewards that are Ray actors; without it those of the user's run in processes.
            asks_all: whether a reward is asked about the rest of a group that it has failed already.
            has_engines: whether what the rewards that ask rollout engines come to is given with every group.

        Raises:
            ConfigError: a built-in reward is not there, does not take its options or lacks engines; or a named
                actor has no host.
        """
        self.config = config
        self._asks_all = asks_all
        self._rubric = Rubric(config.rewards)
        self._own: list[BuiltinReward] = []
        self._asked: list[HostedReward] = []
        self._given: list[str] = []
        for entry in config.rewards:
            if has_engines and isinstance(entry, BuiltinRewardConfig) and needs_engines(entry):
                make_builtin(entry, has_engines=True)
                self._given.append(entry.name)
                continue
            made = _made(entry, host, asks_all=asks_all)
            if isinstance(made, BuiltinReward):
                self._own.append(made)
            else:
                self._asked.append(made)
        self._starting: asyncio.Task[None] | None = None
        self._turn_ends = 0.0

    @property
    def is_quick(self) -> bool:
        """True if all rewards run in this process."""
        return not self._asked

    @property
    def is_ready(self) -> bool:
        """True if every reward is ready."""
        return self.is_quick or (
            self._starting is not None
            and self._starting.done()
            and not self._starting.cancelled()
            and self._starting.exception() is None
        )

    @property
    def decisions(self) -> tuple[str, ...]:
        """Calling conventions of the user's rewards, for people; known after the start."""
        return tuple(asked.decision for asked in self._asked if asked.decision)

    async def start(self) -> None:
        """Starts all rewards and returns when they are ready; may be repeated.

        Raises:
            ConfigError: one cannot be loaded.
            RewardError: one does not come up.
        """
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        await asyncio.gather(*(asked.start() for asked in self._asked))
        for decision in self.decisions:
            logger.info("%s", decision)

    def close(self) -> None:
        """Ends what was started."""
        for asked in self._asked:
            asked.close()

    async def score(self, record: Record, completions: Sequence[Completion]) -> GroupReport:
        """Scores a group that a policy has made."""
        return await self.score_requests(requests_of(record, completions))

    async def score_requests(
        self, requests: Sequence[RewardRequest], *, given: Mapping[str, PrecomputedOutcomes] = NOTHING
    ) -> GroupReport:
        """Scores a group within `reward.deadline_s`, or fails as a whole.

        Args:
            requests: one per completion.
            given: what rewards that ask engines came to, by reward.
        """
        started = time.perf_counter()
        ends_at = asyncio.get_running_loop().time() + self.config.deadline_s
        outcomes, seconds = columns_of(given, names=self._given, count=len(requests))

        async def ask(asked: HostedReward) -> None:
            found: list[Outcome] = [self._over] * len(requests)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(ends_at):
                    await self.start()
                    found = await asked(requests)
            outcomes[asked.entry.name], seconds[asked.entry.name] = found, time.perf_counter() - started

        own = self._answer_own(requests, outcomes, seconds, ends_at=ends_at)
        if self.is_quick:
            await own
        else:
            await asyncio.gather(*map(ask, self._asked), own)
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
        for own in self._own:
            started = time.perf_counter()
            found: list[Outcome] = []
            for request in requests:
                found.append(own.answer(request) if clock() < ends_at else self._over)
                # a turn is of all groups together: many that are quick never suspend by themselves
                if clock() > self._turn_ends:
                    await asyncio.sleep(0)
                    self._turn_ends = clock() + TURN_S
            outcomes[own.entry.name], seconds[own.entry.name] = found, time.perf_counter() - started

    @property
    def _over(self) -> RewardFault:
        detail = f"reward.deadline_s={self.config.deadline_s:g} s passed, waits of the group's rewards included"
        return RewardFault(kind="deadline", detail=detail)

    def score_now(
        self, requests: Sequence[RewardRequest], *, given: Mapping[str, PrecomputedOutcomes] = NOTHING
    ) -> GroupReport:
        """The same where `is_quick`, without an event loop and so without a deadline."""
        assert self.is_quick, "some rewards are asked elsewhere"
        outcomes, seconds = columns_of(given, names=self._given, count=len(requests))
        for own in self._own:
            started = time.perf_counter()
            outcomes[own.entry.name] = [own.answer(request) for request in requests]
            seconds[own.entry.name] = time.perf_counter() - started
        return self._settled(outcomes, seconds)

    def _settled(self, outcomes: Mapping[str, list[Outcome]], seconds: Mapping[str, float]) -> GroupReport:
        """Applies each reward's `on_error` to its faults, and sums the others."""
        given = outcomes if self._asks_all else None
        faults: dict[str, RewardFault] = {}
        num_faults: dict[str, int] = {}
        columns: dict[str, list[RewardResult]] = {}
        fatal: list[RewardEntry] = []
        for entry in self.config.rewards:
            found = [o for o in outcomes[entry.name] if isinstance(o, RewardFault)]
            if not found:
                columns[entry.name] = cast(list[RewardResult], outcomes[entry.name])
                continue
            faults[entry.name], num_faults[entry.name] = _telling(found), len(found)
            if entry.on_error != "skip_reward_for_group":
                fatal.append(entry)
        if fatal:
            # who stops the run is named before who only fails the group
            first = next((entry for entry in fatal if entry.on_error == "stop_run"), fatal[0])
            fault = faults[first.name]
            failure = Failure(stage="reward", reason=f"{first.name}-{fault.kind}", detail=fault.detail)
            return GroupReport(
                scores=failure,
                seconds=seconds,
                faults=faults,
                num_faults=num_faults,
                # who waited too long for a turn has not failed at anything
                stops_run=first.on_error == "stop_run" and fault != self._over,
                given=given,
            )
        summed = self._rubric.sum(columns)
        return GroupReport(
            scores=summed.scores,
            left_out=summed.left_out,
            seconds=seconds,
            faults=faults,
            num_faults=num_faults,
            given=given,
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
    """Without Ray, the user's rewards for actors also run in processes."""
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
