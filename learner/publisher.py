"""Publishes the learner's weights to every engine, and proves three ways that they arrived.

- receipt: what each worker handed to `load_weights` is, tensor by tensor, what was sent;
- rehearsal: with noise mixed into every published tensor, the engine computes what the learner
  computes: so each of them reaches the arithmetic, fused, tied or cached as it may be;
- canary: after each publish, the same comparison with the true weights.

Consumes: the ranks' parameters. Produces: engines at a version. Waits for: ranks and engines, each phase
with a deadline whose passing names the phase and the engine. Unblocked by: nobody but those two.
"""

import asyncio
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from common.config.learner import PublishConfig
from common.errors import OmniError, PublishError
from common.protocols import WeightReceiver, WeightSenders
from common.types import Completion, Failure, ProcessedPrompt, SamplingSpec, TensorReceipt
from learner.plan import PublishPlan
from learner.proofs import Agreement, agreement_of, check_receipt, name_layers, num_bytes

logger = logging.getLogger(__name__)
T = TypeVar("T")
PROBE_SEED = 2**61
NOISE_ROUNDS = 8
"""Samplings of the probe over which bfloat16's noise is measured: its largest over few tokens says little."""


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
        self.canary_tolerance = config.canary_tolerance
        self._senders, self._engines, self._plan, self._segments = senders, tuple(engines), plan, segments
        self._probes, self._config, self._dtype = tuple(probes), config, dtype
        self._rehearsal_scale = config.rehearsal_scale or (0.05 if dtype == "float32" else 3.0)
        # of the whole vocabulary: a truncated sampler's probabilities are not the learner's
        self._probe_sampling = SamplingSpec(temperature=sampling.temperature, max_tokens=config.probe_tokens)
        # cache entries outlive publishers: a version counted again, by a resumed run, is another identity
        self._lineage = secrets.token_hex(4)
        self._tower_id = self._weights_id = f"{self._lineage}-{version}"
        self._num_nonces = 0

    async def start(self) -> dict[str, Agreement]:
        """Measures the noise at the current version, then rehearses every engine.

        Returns:
            The agreement of each engine at rest.

        Raises:
            PublishError: an engine does not compute what the learner computes.
        """
        at_rest = {e.name: await self._agreement(e) for e in self._engines}
        if self._dtype != "float32":
            await self._measure_noise()
        for engine in self._engines:
            await self._require(at_rest[engine.name], engine, proof="canary")
            if self._config.rehearsal:
                await self.rehearse(engine)
        return at_rest

    async def _measure_noise(self) -> None:
        """Sets the tolerance by what rounding does to many tokens on the quietest engine, within a limit.

        The quietest, as an engine that computes something else must not set its own tolerance.
        """
        noise = [
            max([(await self._agreement(e, round_=i)).max for i in range(NOISE_ROUNDS)]) for e in self._engines
        ]
        limit = self._config.canary_noise_limit
        if not min(noise) <= limit:
            raise PublishError(
                f"canary at version {self.version}: rounding must move log-probabilities by at most {limit}, got "
                f"{min(noise):.2e}; the engines do not compute what the learner computes",
                proof="canary",
                engine=", ".join(e.name for e in self._engines),
                subject="log-probabilities",
            )
        self.canary_tolerance = max(self.canary_tolerance, self._config.canary_noise_factor * min(noise))

    async def publish(self) -> PublishReport:
        """Sends the ranks' weights to every engine as the next version.

        Raises:
            PublishError: a phase passed its deadline or failed, or a proof did not hold.
        """
        version = self.version + 1
        seconds: dict[str, float] = defaultdict(float)
        self._weights_id = f"{self._lineage}-{version}"
        if self._plan.changes_towers:
            self._tower_id = self._weights_id
        manifest = await self._send(
            self._engines,
            version=version,
            weights_id=self._weights_id,
            tower_id=self._tower_id,
            seconds=seconds,
        )
        self.version = version
        self.num_publishes += 1
        start = time.perf_counter()
        canary = {e.name: await self._agreement(e) for e in self._engines}
        for engine in self._engines:
            await self._require(canary[engine.name], engine, proof="canary")
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

    # -- rehearsal --------------------------------------------------------------------------------

    async def rehearse(self, engine: WeightReceiver) -> Agreement:
        """Publishes perturbed weights to one engine, compares, and publishes the true ones again.

        Raises:
            PublishError: the engine's arithmetic does not follow a published layer; it is named.
        """
        perturbed = await self._perturbed_agreement(engine, names=None)
        if self._differs(perturbed.max):
            layers = await self._locate(engine, self._suspects(perturbed))
            await self._send_true(engine)
            await engine.pause()
            raise self._disagreement(perturbed, engine, proof="rehearsal", subject=name_layers(layers))
        await self._send_true(engine)
        await self._require(await self._agreement(engine), engine, proof="canary")
        self.num_rehearsals += 1
        return perturbed

    def _suspects(self, agreement: Agreement) -> list[tuple[str, ...]]:
        """All layers; the towers' alone where prompts with media disagree and texts do not."""
        media = [bool(p.placeholders) for p in self._probes]
        disagrees = [self._differs(d) for d in agreement.by_probe]
        towers = set(self._plan.tower_names)
        only_media = any(media) and not any(d and not m for d, m in zip(disagrees, media, strict=True))
        return [layer for layer in self._plan.layers if not (towers and only_media) or towers & set(layer)]

    async def _locate(self, engine: WeightReceiver, layers: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
        """Halves the layers while one half alone is not followed; several are left where no half shows it."""
        while len(layers) > 1:
            middle = len(layers) // 2
            for half in (layers[:middle], layers[middle:]):
                names = [name for layer in half for name in layer]
                agreement = await self._perturbed_agreement(engine, names=names)
                if self._differs(agreement.max):
                    layers = half
                    break
            else:
                return layers
        return layers

    async def _perturbed_agreement(self, engine: WeightReceiver, *, names: Sequence[str] | None) -> Agreement:
        self._num_nonces += 1
        label = f"{self._lineage}-rehearsal-{self._num_nonces}"
        tower_id = label if self._plan.changes_towers else self._tower_id
        async with self._phase("perturb", "ranks"):
            await self._senders.perturb(scale=self._rehearsal_scale, nonce=self._num_nonces, names=names)
        try:
            await self._send([engine], version=self.version, weights_id=label, tower_id=tower_id)
            return await self._agreement(engine)
        finally:
            async with self._phase("restore", "ranks"):
                await self._senders.restore()

    async def _send_true(self, engine: WeightReceiver) -> None:
        await self._send(
            [engine],
            version=self.version,
            weights_id=self._weights_id,
            tower_id=self._tower_id,
        )

    # -- one transfer -----------------------------------------------------------------------------

    async def _send(
        self,
        engines: Sequence[WeightReceiver],
        *,
        version: int,
        weights_id: str,
        tower_id: str,
        seconds: dict[str, float] | None = None,
    ) -> list[TensorReceipt]:
        """Pause, start, every bucket, finish, receipt, resume. The next bucket is gathered while one loads."""
        spent: dict[str, float] = seconds if seconds is not None else defaultdict(float)
        await self._each(engines, "pause", lambda e: e.pause(), spent)
        await self._each(engines, "start", lambda e: e.start_update(), spent)
        manifest: list[TensorReceipt] = []
        gathering = asyncio.ensure_future(self._gather(0, spent))
        try:
            for bucket in range(len(self._plan.buckets)):
                manifest += await gathering
                if bucket + 1 < len(self._plan.buckets):
                    gathering = asyncio.ensure_future(self._gather(bucket + 1, spent))
                path = self._segments[bucket % len(self._segments)]
                await self._each(engines, "update", lambda e, p=path, b=bucket: e.receive(p, b), spent)
        finally:
            if not gathering.done():
                await asyncio.wait([gathering])
        receipts = await self._each(
            engines,
            "finish",
            lambda e: e.finish_update(version=version, weights_id=weights_id, tower_id=tower_id),
            spent,
        )
        for engine, receipt in zip(engines, receipts, strict=True):
            check_receipt(self._plan.names, manifest, receipt, engine=engine.name)
        await self._each(engines, "resume", lambda e: e.resume(), spent)
        return manifest

    async def _gather(self, bucket: int, seconds: dict[str, float]) -> list[TensorReceipt]:
        async with self._phase("gather", "ranks", seconds):
            return await self._senders.send_bucket(bucket)

    async def _each(
        self,
        engines: Sequence[WeightReceiver],
        phase: str,
        call: Callable[[WeightReceiver], Awaitable[T]],
        seconds: dict[str, float],
    ) -> list[T]:
        """Runs a phase on all engines at once; the first failure is raised with its engine's name."""
        start = time.perf_counter()

        async def one(engine: WeightReceiver) -> T:
            async with self._phase(phase, engine.name):
                return await call(engine)

        try:
            return list(await asyncio.gather(*(one(e) for e in engines)))
        finally:
            seconds[phase] += time.perf_counter() - start

    @asynccontextmanager
    async def _phase(
        self, phase: str, engine: str, seconds: dict[str, float] | None = None
    ) -> AsyncGenerator[None]:
        start = time.perf_counter()
        try:
            async with asyncio.timeout(self._config.deadline_s):
                yield
        except TimeoutError as error:
            raise PublishError(
                f"publish: {phase} on {engine} must end within {self._config.deadline_s} s, and did not",
                proof=phase,
                engine=engine,
                subject=phase,
            ) from error
        except OmniError as error:
            raise PublishError(
                f"publish: {phase} on {engine} failed: {error}", proof=phase, engine=engine, subject=str(error)
            ) from error
        finally:
            if seconds is not None:
                seconds[phase] += time.perf_counter() - start

    # -- comparison -------------------------------------------------------------------------------

    async def _agreement(self, engine: WeightReceiver, *, round_: int = 0) -> Agreement:
        """Has the engine answer the probes and the learner score what it answered; each round samples anew."""
        async with self._phase("probe", engine.name):
            answers = await asyncio.gather(
                *(
                    engine.generate(
                        probe,
                        sampling=self._probe_sampling,
                        group_size=1,
                        seed=PROBE_SEED + 64 * (i + len(self._probes) * round_),
                        deadline_s=self._config.deadline_s,
                    )
                    for i, probe in enumerate(self._probes)
                )
            )
        completions: list[Completion] = []
        for answer in answers:
            if isinstance(answer, Failure):
                raise PublishError(
                    f"publish: the probe on {engine.name} failed: {answer.detail}",
                    proof="probe",
                    engine=engine.name,
                    subject=answer.reason,
                )
            completions.append(answer.completions[0])
        async with self._phase("score", "ranks"):
            scores = await self._senders.score(self._probes, [[c.token_ids] for c in completions])
        differences = [
            [abs(a - b) for a, b in zip(c.rollout_logprobs, score[0], strict=True)]
            for c, score in zip(completions, scores, strict=True)
        ]
        return agreement_of(differences)

    async def _require(self, agreement: Agreement, engine: WeightReceiver, *, proof: str) -> None:
        if self._differs(agreement.max):
            await engine.pause()
            raise self._disagreement(agreement, engine, proof=proof, subject="log-probabilities")

    def _differs(self, difference: float) -> bool:
        """Whether a difference is past the tolerance; NaN is."""
        return not difference <= self.canary_tolerance

    def _disagreement(
        self, agreement: Agreement, engine: WeightReceiver, *, proof: str, subject: str
    ) -> PublishError:
        by_probe = ", ".join(
            f"{'+'.join(sorted(p.placeholders)) or 'text'} {d:.2e}"
            for p, d in zip(self._probes, agreement.by_probe, strict=True)
        )
        return PublishError(
            f"{proof} on {engine.name} at version {self.version}: log-probabilities must agree within "
            f"{self.canary_tolerance:.2e}, got {by_probe}; the engine does not follow {subject}",
            proof=proof,
            engine=engine.name,
            subject=subject,
        )
