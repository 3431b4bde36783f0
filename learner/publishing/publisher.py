"""Publishes the learner's weights to the engines of a fleet, with three verifications.

- receipt: every tensor that a worker passed to `load_weights` is the tensor that was sent;
- rehearsal: with noise in every published tensor, the engine computes the learner's values, and not those of old
    weights in any single layer, whether fused, tied or cached;
- canary: after each publish, the same comparison with the true weights.

Consumes the ranks' parameters and produces engines at a version. Waits for ranks and engines, which alone unblock
it; each phase has a deadline. An engine that fails is lost to the fleet, and the others go on.
"""

import logging
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from common.config.learner import PublishConfig
from common.errors import PublishError
from common.protocols import EngineFleet, WeightReceiver, WeightSenders
from common.types import ProcessedPrompt, SamplingSpec
from learner.publishing.lone_rehearsal import LoneRehearsal
from learner.publishing.members import Members
from learner.publishing.plan import PublishPlan
from learner.publishing.probe import Probe
from learner.publishing.rehearsal import NUM_COMPLETIONS, Rehearsal, describe
from learner.publishing.rehearsal_record import RehearsalRecord
from learner.publishing.transfer import Identity, Transfer
from learner.publishing.verification import Agreement, num_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishReport:
    """A publish and the engines that passed receipt and canary; they may be none if engines died."""

    version: int
    num_bytes: int
    canary: dict[str, Agreement]
    """Agreement of each engine."""
    canary_tolerance: float
    num_rehearsals: int
    """Passed by engines since the publisher started."""
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """Duration of each phase."""


class Publisher:
    """Owns the policy version, the identity of cache entries, and the proofs. One call at a time.

    Raises:
        PublishError: a verification failed and no engine passed, or a phase of the ranks failed.
        LearnerError: the ranks died or passed a deadline.
    """

    def __init__(
        self,
        *,
        senders: WeightSenders,
        fleet: EngineFleet,
        plan: PublishPlan,
        segments: Sequence[str],
        probes: Sequence[ProcessedPrompt],
        sampling: SamplingSpec,
        config: PublishConfig,
        answer_deadline_s: float,
        dtype: str,
        version: int = 0,
    ) -> None:
        """Takes all ranks, which are at `version`, and the fleet.

        Args:
            segments: paths of the two segments that rank 0 writes.
            probes: prompts of the rehearsal and the canary: a clip with video and audio, and a text.
            sampling: of the run, for its temperature.
            answer_deadline_s: seconds in which an engine must end each phase.
        """
        self.version = version
        self.num_rehearsals = 0
        self.not_exercised: tuple[tuple[str, ...], ...] = ()
        """Layers whose effect the last rehearsal could not measure."""
        self._fleet, self._plan, self._config, self._dtype = fleet, plan, config, dtype
        self._transfer = Transfer(
            senders=senders,
            plan=plan,
            segments=segments,
            deadline_s=config.deadline_s,
            engine_deadline_s=min(config.deadline_s, answer_deadline_s),
        )
        self._probe = Probe(
            senders=senders, transfer=self._transfer, probes=probes, sampling=sampling, config=config
        )
        self.record = RehearsalRecord()
        """Of the first rehearsal that an engine passed."""
        self._rehearsal = Rehearsal(self._probe, plan=plan, record=self.record, config=config, dtype=dtype)
        self._lone_rehearsal = LoneRehearsal(self._probe, plan=plan, record=self.record)
        self._needs_ranks: list[WeightReceiver] = []
        """Engines that started from other weights than the recorded ones."""
        # in float32 the tolerance is given
        self._has_tolerance = dtype == "float32"
        # cache entries outlive publishers: a resumed run that repeats a version must not repeat its identity
        self._lineage = secrets.token_hex(4)
        self._num_identities = 0
        self._identity = self._next_identity(version)

    @property
    def canary_tolerance(self) -> float:
        """Largest difference of the probe that passes; measured in bfloat16."""
        return self._probe.tolerance

    async def start(self, *, synchronize: bool = False) -> dict[str, Agreement]:
        """Measures the noise at the current version, rehearses every engine, and delivers the version to all.

        With `synchronize`, engines first get the ranks' weights: for ranks that were rebuilt from a checkpoint
        older than the engines' version.

        Returns:
            The agreements at rest of the engines that passed, by name.
        """
        members = self._members(self._fleet.candidates())
        at_rest = await self._measure(members, synchronize=synchronize)
        if self._config.rehearsal:
            await self._rehearse(members)
        members.require_verified()
        self._pass(members)
        await self._deliver(self.version)
        return {engine.name: at_rest[engine.name] for engine in members.engines}

    async def publish(self) -> PublishReport:
        """Sends the ranks' weights to every verified engine as the next version."""
        self._identity = self._next_identity(self.version + 1)
        report = await self._deliver(self.version + 1)
        logger.info(
            "published weights version=%d bytes=%d engines=%d seconds=%.2f",
            report.version,
            report.num_bytes,
            len(report.canary),
            sum(report.seconds.values()),
        )
        return report

    async def rehearse_alone(self) -> None:
        """Rehearses the engines that have started by the record, without the ranks.

        May run beside any other call. Engines that the record cannot judge are left to `admit`.
        """
        if not (self._config.rehearsal and self.record.trials and self._has_tolerance):
            return
        members = self._members([e for e in self._fleet.unverified() if e not in self._needs_ranks])
        self._needs_ranks += await self._lone_rehearsal.run(members, current=self._identity)
        self._pass(members)
        logger.info("rehearsed engines=%d without the ranks", len(members.engines))

    async def admit(self) -> None:
        """Rehearses the engines that need the ranks for it, and brings all that join to the standing version.

        The ranks must hold that version. An engine that fails is lost; this ends no run.
        """
        unverified = self._fleet.unverified()
        if self._config.rehearsal and self.record.trials and self._has_tolerance:
            # the others came after `rehearse_alone`, whose next call has them
            unverified = [e for e in unverified if e in self._needs_ranks]
        members = self._members(unverified)
        if not self._has_tolerance:
            await self._measure(members, synchronize=True)
        if self._config.rehearsal:
            await self._rehearse(members)
        self._pass(members)
        self._needs_ranks.clear()
        report = await self._deliver(self.version, only_joining=True)
        logger.info("admitted engines=%d version=%d", len(report.canary), self.version)

    async def _measure(self, members: Members, *, synchronize: bool) -> dict[str, Agreement]:
        """The agreements at rest, and in bfloat16 the tolerance; rejects engines beyond it."""
        if synchronize:
            self._identity = self._next_identity(self.version)
            await self._transfer.send(members, self._identity)
        at_rest = await self._probe.agreements(members, num_completions=NUM_COMPLETIONS)
        if at_rest and self._dtype != "float32":
            self._set_tolerance(members, at_rest)
        self._check(members, at_rest, version=self.version)
        return at_rest

    def _set_tolerance(self, members: Members, at_rest: dict[str, Agreement]) -> None:
        """Raises the tolerance to a multiple of the rounding noise; rejects all if that exceeds its limit."""
        # of the quietest engine: an engine that computes something else must not set its own tolerance
        noise = min((a.max for a in at_rest.values() if a.max == a.max), default=math.nan)
        limit = self._config.canary_noise_limit
        if noise <= limit:
            self._probe.tolerance = max(self.canary_tolerance, self._config.canary_noise_factor * noise)
            self._has_tolerance = True
            return
        error = PublishError(
            f"canary at version {self.version}: rounding must move log-probabilities by at most {limit}, got "
            f"{noise:.2e}; the engines do not compute what the learner computes",
            proof="canary",
            engine=", ".join(at_rest),
            subject="log-probabilities",
        )
        for engine in list(members.engines):
            members.reject(engine, error)

    async def _rehearse(self, members: Members) -> None:
        """Publishes noisy weights to the members and checks every layer; leaves the noise in the engines."""
        if not members.engines:
            return
        not_exercised = await self._rehearsal.run(members, current=self._identity)
        if members.engines:
            self.num_rehearsals += len(members.engines)
            self.not_exercised = not_exercised
            logger.info(
                "rehearsed engines=%d layers=%d not_exercised=%s",
                len(members.engines),
                len(self._plan.layers) - len(not_exercised),
                describe(not_exercised),
            )

    def _pass(self, members: Members) -> None:
        """The members are verified."""
        for engine in members.engines:
            self._fleet.rehearsed(engine)

    async def _deliver(self, version: int, *, only_joining: bool = False) -> PublishReport:
        """One transfer under the current identity, whose members that pass the canary serve the version."""
        # before the transfer: an engine that joins later has not received the weights
        members = self._members(self._fleet.begin_delivery(version, only_joining=only_joining))
        try:
            manifest = await self._transfer.send(members, self._identity)
            with self._transfer.timed("canary"):
                agreements = await self._probe.agreements(members)
            self._check(members, agreements, version=version)
            if not only_joining:
                members.require_verified()
        except BaseException:
            self._fleet.abort_delivery()
            raise
        for engine in members.engines:
            self._fleet.delivered(engine)
        self._fleet.end_delivery()
        self.version = version
        return PublishReport(
            version=version,
            num_bytes=sum(num_bytes(r) for r in manifest),
            canary={engine.name: agreements[engine.name] for engine in members.engines},
            canary_tolerance=self.canary_tolerance,
            num_rehearsals=self.num_rehearsals,
            seconds=dict(self._transfer.seconds),
        )

    def _members(self, engines: Sequence[WeightReceiver]) -> Members:
        return Members(engines, on_lost=lambda engine, error: self._fleet.lost(engine, reason=str(error)))

    def _check(self, members: Members, agreements: dict[str, Agreement], *, version: int) -> None:
        """Rejects the members whose agreement exceeds the tolerance."""
        for engine in list(members.engines):
            agreement = agreements[engine.name]
            if agreement.exceeds(self.canary_tolerance):
                error = self._probe.disagreement(
                    agreement, engine, proof="canary", version=version, subject="log-probabilities"
                )
                members.reject(engine, error)

    def _next_identity(self, version: int) -> Identity:
        weights_id = f"{self._lineage}-{version}-{self._num_identities}"
        # unpublished towers keep their cache entries
        keeps_towers = self._num_identities > 0 and not self._plan.changes_towers
        self._num_identities += 1
        return Identity(
            version=version, weights_id=weights_id, tower_id=self._identity.tower_id if keeps_towers else weights_id
        )
