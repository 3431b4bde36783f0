"""Publishes the learner's weights to every engine, and proves three ways that they arrived.

- receipt: what each worker handed to `load_weights` is, tensor by tensor, what was sent;
- rehearsal: with noise mixed into every published tensor, the engine computes what the learner computes, and not
  what it would compute with any one layer left old: fused, tied or cached as the layers may be;
- canary: after each publish, the same comparison with the true weights.

Consumes: the ranks' parameters. Produces: engines at a version. Waits for: ranks and engines, each phase
with a deadline whose passing names the phase and the engine. Unblocked by: nobody but those two.
"""

import logging
import secrets
import time
from collections import defaultdict
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
    """One publish that passed its receipt and its canary on every engine."""

    version: int
    num_tensors: int
    num_bytes: int
    canary: dict[str, Agreement]
    """By engine."""
    canary_tolerance: float
    """What the canaries had to keep within."""
    num_rehearsals: int
    """That engines have passed since the publisher started."""
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """By phase."""


class Publisher:
    """Owns the policy version, the identity of cache entries, and the proofs."""

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
        """Takes what it talks to.

        Args:
            senders: all ranks.
            engines: all engines; each warmed up.
            plan: what is published, in which buckets.
            segments: paths of the two segments that rank 0 writes.
            probes: prompts of the rehearsal and the canary: a clip with video and audio, and a text.
            sampling: as in the run, so that both sides apply the same temperature.
            config: deadlines and tolerances.
            dtype: `float32` or `bfloat16`, which sets the tolerance.
            version: the policy version that ranks and engines hold.
        """
        self.version = version
        self.num_publishes = 0
        self.num_rehearsals = 0
        self.not_exercised: tuple[tuple[str, ...], ...] = ()
        """Layers of which the last rehearsal could say nothing."""
        self._engines, self._plan, self._config, self._dtype = tuple(engines), plan, config, dtype
        self._transfer = Transfer(senders=senders, plan=plan, segments=segments, deadline_s=config.deadline_s)
        self._probe = Probe(
            senders=senders, transfer=self._transfer, probes=probes, sampling=sampling, config=config
        )
        self._rehearsal = Rehearsal(
            senders=senders,
            transfer=self._transfer,
            probe=self._probe,
            plan=plan,
            config=config,
            dtype=dtype,
        )
        # cache entries outlive publishers: a version counted again, by a resumed run, is another identity
        self._lineage = secrets.token_hex(4)
        self._num_identities = 0
        self._identity = self._next_identity(version)

    @property
    def canary_tolerance(self) -> float:
        """Largest difference of the probe that passes; in bfloat16 measured when the publisher starts."""
        return self._probe.tolerance

    @canary_tolerance.setter
    def canary_tolerance(self, tolerance: float) -> None:
        self._probe.tolerance = tolerance

    async def start(self, *, synchronize: bool = False) -> dict[str, Agreement]:
        """Measures the noise at the current version, then rehearses every engine.

        Args:
            synchronize: whether the engines may hold other weights than the ranks, and are sent the ranks' first.

        Returns:
            The agreement of each engine at rest.

        Raises:
            PublishError: an engine does not compute what the learner computes.
        """
        if synchronize:
            await self._send_anew(self.version)
        at_rest = {e.name: await self._probe.agreement(e, num_completions=NUM_COMPLETIONS) for e in self._engines}
        if self._dtype != "float32":
            self._set_tolerance(at_rest)
        for engine in self._engines:
            await self._require(at_rest[engine.name], engine)
        if self._config.rehearsal:
            await self.rehearse(*self._engines)
        return at_rest

    def _set_tolerance(self, at_rest: dict[str, Agreement]) -> None:
        """By what rounding does to many tokens on the quietest engine, within a limit.

        The quietest, as an engine that computes something else must not set its own tolerance.
        """
        noise, limit = min(a.max for a in at_rest.values()), self._config.canary_noise_limit
        if not noise <= limit:
            raise PublishError(
                f"canary at version {self.version}: rounding must move log-probabilities by at most {limit}, got "
                f"{noise:.2e}; the engines do not compute what the learner computes",
                proof="canary",
                engine=", ".join(at_rest),
                subject="log-probabilities",
            )
        self.canary_tolerance = max(self.canary_tolerance, self._config.canary_noise_factor * noise)

    async def publish(self) -> PublishReport:
        """Sends the ranks' weights to every engine as the next version.

        Raises:
            PublishError: a phase passed its deadline or failed, or a proof did not hold.
        """
        version = self.version + 1
        seconds: dict[str, float] = defaultdict(float)
        manifest = await self._send_anew(version, seconds=seconds)
        self.num_publishes += 1
        start = time.perf_counter()
        canary = await self._check_all()
        seconds["canary"] += time.perf_counter() - start
        report = PublishReport(
            version=version,
            num_tensors=len(manifest),
            num_bytes=sum(num_bytes(r) for r in manifest),
            canary=canary,
            canary_tolerance=self.canary_tolerance,
            num_rehearsals=self.num_rehearsals,
            seconds=dict(seconds),
        )
        logger.info(
            "published weights version=%d bytes=%d seconds=%.2f", version, report.num_bytes, sum(seconds.values())
        )
        return report

    async def synchronize(self) -> dict[str, Agreement]:
        """Sends the ranks' weights to every engine as the version that stands, whatever the engines hold.

        For ranks that were rebuilt, from a checkpoint older than what the engines serve: a publisher made with the
        checkpoint's version takes the engines back to it. `start(synchronize=True)` does it where the tolerance
        has not been measured yet.

        Returns:
            The agreement of each engine.

        Raises:
            PublishError: as for `publish`.
        """
        await self._send_anew(self.version)
        return await self._check_all()

    async def check(self, engine: WeightReceiver) -> Agreement:
        """The canary of one engine: it computes what the ranks compute, or is paused.

        Raises:
            PublishError: it does not.
        """
        agreement = await self._probe.agreement(engine)
        await self._require(agreement, engine)
        return agreement

    async def rehearse(self, *engines: WeightReceiver) -> None:
        """Publishes noisy weights to some engines, evaluates layer by layer, and publishes the true ones again.

        Raises:
            PublishError: an engine's arithmetic does not follow a published layer; it is named.
        """
        try:
            untold = await self._rehearsal.run(engines, current=self._identity)
        except PublishError as error:
            if error.proof == "rehearsal":
                await self._transfer.send(engines, self._identity)
                await next(e for e in engines if e.name == error.engine).pause()
            raise
        await self._transfer.send(engines, self._identity)
        for engine in engines:
            await self.check(engine)
        self.num_rehearsals += len(engines)
        self.not_exercised = untold
        logger.info(
            "rehearsed engines=%d layers=%d not_exercised=%s",
            len(engines),
            len(self._plan.layers) - len(untold),
            describe(untold),
        )

    async def _send_anew(self, version: int, *, seconds: dict[str, float] | None = None) -> list[TensorReceipt]:
        """Sends the ranks' weights to every engine under an identity that nothing was ever cached under."""
        self._identity = self._next_identity(version)
        manifest = await self._transfer.send(self._engines, self._identity, seconds=seconds)
        self.version = version
        return manifest

    def _next_identity(self, version: int) -> Identity:
        """Towers that are not published keep theirs."""
        weights_id = f"{self._lineage}-{version}-{self._num_identities}"
        keeps_towers = self._num_identities > 0 and not self._plan.changes_towers
        self._num_identities += 1
        return Identity(
            version=version,
            weights_id=weights_id,
            tower_id=self._identity.tower_id if keeps_towers else weights_id,
        )

    async def _check_all(self) -> dict[str, Agreement]:
        agreements = {e.name: await self._probe.agreement(e) for e in self._engines}
        for engine in self._engines:
            await self._require(agreements[engine.name], engine)
        return agreements

    async def _require(self, agreement: Agreement, engine: WeightReceiver) -> None:
        if self._probe.differs(agreement.max):
            await engine.pause()
            raise self._probe.disagreement(
                agreement, engine, proof="canary", version=self.version, subject="log-probabilities"
            )
