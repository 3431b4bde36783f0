"""Publishes the learner's weights to every engine, with three verifications.

- receipt: every tensor that a worker passed to `load_weights` is the tensor that was sent;
- rehearsal: with noise in every published tensor, the engine computes the learner's values, and not those of old
    weights in any single layer, whether fused, tied or cached;
- canary: after each publish, the same comparison with the true weights.

Consumes the ranks' parameters and produces engines at a version. Waits for ranks and engines, which alone unblock
it; each phase has a deadline, whose error names the phase and the engine.
"""

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from common.config.learner import PublishConfig
from common.errors import PublishError
from common.protocols import WeightReceiver, WeightSenders
from common.types import ProcessedPrompt, SamplingSpec, TensorReceipt
from learner.publishing.plan import PublishPlan
from learner.publishing.probe import Probe
from learner.publishing.rehearsal import NUM_COMPLETIONS, Rehearsal, describe
from learner.publishing.transfer import Identity, Transfer
from learner.publishing.verification import Agreement, num_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishReport:
    """A publish that passed receipt and canary on every engine."""

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
    """Owns the policy version, the identity of cache entries, and the proofs.

    Raises:
        PublishError: a phase failed or passed its deadline, or a proof failed.
    """

    def __init__(
        self,
        *,
        senders: WeightSenders,
        engines: Sequence[WeightReceiver],
        plan: PublishPlan,
        segments: Sequence[str],
        probes: Sequence[ProcessedPrompt],
        sampling: SamplingSpec,
        config: PublishConfig,
        dtype: str,
        version: int = 0,
    ) -> None:
        """Takes all ranks and all engines, warmed up and at `version`.

        Args:
            segments: paths of the two segments that rank 0 writes.
            probes: prompts of the rehearsal and the canary: a clip with video and audio, and a text.
            sampling: of the run, for its temperature.
        """
        self.version = version
        self.num_rehearsals = 0
        self.not_exercised: tuple[tuple[str, ...], ...] = ()
        """Layers whose effect the last rehearsal could not measure."""
        self._engines, self._plan, self._config, self._dtype = tuple(engines), plan, config, dtype
        self._transfer = Transfer(senders=senders, plan=plan, segments=segments, deadline_s=config.deadline_s)
        self._probe = Probe(
            senders=senders, transfer=self._transfer, probes=probes, sampling=sampling, config=config
        )
        self._rehearsal = Rehearsal(self._probe, plan=plan, config=config, dtype=dtype)
        # cache entries outlive publishers: a resumed run that repeats a version must not repeat its identity
        self._lineage = secrets.token_hex(4)
        self._num_identities = 0
        self._identity = self._next_identity(version)

    @property
    def canary_tolerance(self) -> float:
        """Largest difference of the probe that passes; `start` measures it in bfloat16."""
        return self._probe.tolerance

    async def start(self, *, synchronize: bool = False) -> dict[str, Agreement]:
        """Measures the noise at the current version, then rehearses every engine; returns their agreements at rest.

        With `synchronize`, engines first get the ranks' weights: for ranks that were rebuilt from a checkpoint
        older than the engines' version.
        """
        if synchronize:
            await self._send_weights(self.version)
        at_rest = await self._probe.agreements(self._engines, num_completions=NUM_COMPLETIONS)
        if self._dtype != "float32":
            self._set_tolerance(at_rest)
        for engine in self._engines:
            await self._require(at_rest[engine.name], engine)
        if self._config.rehearsal:
            await self.rehearse(*self._engines)
        return at_rest

    def _set_tolerance(self, at_rest: dict[str, Agreement]) -> None:
        """Raises the tolerance to a multiple of the rounding noise, which has a limit."""
        # of the quietest engine: an engine that computes something else must not set its own tolerance
        noise, limit = min(a.max for a in at_rest.values()), self._config.canary_noise_limit
        if not noise <= limit:
            raise PublishError(
                f"canary at version {self.version}: rounding must move log-probabilities by at most {limit}, got "
                f"{noise:.2e}; the engines do not compute what the learner computes",
                proof="canary",
                engine=", ".join(at_rest),
                subject="log-probabilities",
            )
        self._probe.tolerance = max(self.canary_tolerance, self._config.canary_noise_factor * noise)

    async def publish(self) -> PublishReport:
        """Sends the ranks' weights to every engine as the next version."""
        version = self.version + 1
        manifest = await self._send_weights(version)
        with self._transfer.timed("canary"):
            canary = await self._check_all(self._engines)
        report = PublishReport(
            version=version,
            num_bytes=sum(num_bytes(r) for r in manifest),
            canary=canary,
            canary_tolerance=self.canary_tolerance,
            num_rehearsals=self.num_rehearsals,
            seconds=dict(self._transfer.seconds),
        )
        logger.info(
            "published weights version=%d bytes=%d seconds=%.2f",
            version,
            report.num_bytes,
            sum(report.seconds.values()),
        )
        return report

    async def check(self, engine: WeightReceiver) -> Agreement:
        """The canary of one engine, which is paused if it fails."""
        return (await self._check_all([engine]))[engine.name]

    async def rehearse(self, *engines: WeightReceiver) -> None:
        """Publishes noisy weights to some engines, checks every layer, and publishes the true weights again."""
        try:
            not_exercised = await self._rehearsal.run(engines, current=self._identity)
        except PublishError as error:
            if error.proof == "rehearsal":
                await self._transfer.send(engines, self._identity)
                await next(e for e in engines if e.name == error.engine).pause()
            raise
        await self._transfer.send(engines, self._identity)
        await self._check_all(engines)
        self.num_rehearsals += len(engines)
        self.not_exercised = not_exercised
        logger.info(
            "rehearsed engines=%d layers=%d not_exercised=%s",
            len(engines),
            len(self._plan.layers) - len(not_exercised),
            describe(not_exercised),
        )

    async def _send_weights(self, version: int) -> list[TensorReceipt]:
        """Sends the ranks' weights to every engine, under a new identity for their caches."""
        self._identity = self._next_identity(version)
        manifest = await self._transfer.send(self._engines, self._identity)
        self.version = version
        return manifest

    def _next_identity(self, version: int) -> Identity:
        weights_id = f"{self._lineage}-{version}-{self._num_identities}"
        # unpublished towers keep their cache entries
        keeps_towers = self._num_identities > 0 and not self._plan.changes_towers
        self._num_identities += 1
        return Identity(
            version=version, weights_id=weights_id, tower_id=self._identity.tower_id if keeps_towers else weights_id
        )

    async def _check_all(self, engines: Sequence[WeightReceiver]) -> dict[str, Agreement]:
        agreements = await self._probe.agreements(engines)
        for engine in engines:
            await self._require(agreements[engine.name], engine)
        return agreements

    async def _require(self, agreement: Agreement, engine: WeightReceiver) -> None:
        if agreement.exceeds(self.canary_tolerance):
            await engine.pause()
            raise self._probe.disagreement(
                agreement, engine, proof="canary", version=self.version, subject="log-probabilities"
            )
