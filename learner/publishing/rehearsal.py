"""Verifies, layer by layer, that an engine's computation uses the published weights.

Noise is mixed into every published tensor, the noisy weights are published, and the engine answers the probe. The
ranks score its answers with the noisy weights, and once more per layer with that layer's old weights: the scores of
an engine with an old layer. A layer is verified if the engine is much nearer to the first scores than to the
second. The sum over all tokens decides, as rounding can hide a layer in any single token.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from common.config.learner import PublishConfig
from common.protocols import WeightReceiver
from common.types import TensorReceipt
from learner.publishing.members import Members
from learner.publishing.plan import PublishPlan
from learner.publishing.probe import Answers, Probe
from learner.publishing.rehearsal_record import RecordedTrial, RehearsalRecord
from learner.publishing.transfer import Identity
from learner.publishing.trial import Layer, Trial
from learner.publishing.verification import Logprobs, agreement_of, minus, name_layers

MAX_TRIALS = 3
"""Each with another noise, on the layers that are still undecided."""
NUM_COMPLETIONS = 8
"""Completions of each probe: rounding averages out over many tokens."""
SCALE = 3.0
"""Size of the noise relative to the tensor; less would hide an audio tower's queries and keys in rounding."""
ROUNDING = {"float32": 2.0**-23, "bfloat16": 2.0**-8}
"""Relative distance of neighbouring numbers: as noise of the weights, its effect is about that of rounding."""


class Rehearsal:
    """Publishes noisy weights to engines and compares; the caller publishes the true weights again."""

    def __init__(
        self, probe: Probe, *, plan: PublishPlan, record: RehearsalRecord, config: PublishConfig, dtype: str
    ) -> None:
        """The first rehearsal that an engine passes fills an empty record."""
        self._record = record
        self._senders, self._transfer, self._probe, self._plan = probe.senders, probe.transfer, probe, plan
        self._scale = config.rehearsal_scale or SCALE
        self._noise_factor, self._rounding = config.canary_noise_factor, ROUNDING[dtype]
        self._num_nonces = 0

    async def run(self, members: Members, *, current: Identity) -> tuple[Layer, ...]:
        """Tries until every engine follows every layer, or no effect of the rest can be measured.

        Rejects the members that do not follow a layer. Returns the layers whose effect on the probe is lost in
        rounding.
        """
        open_layers = list(self._plan.layers)
        recorded: list[RecordedTrial] = []
        for _ in range(MAX_TRIALS):
            by_name = await self._trials(members, open_layers, current=current)
            for engine in list(members.engines):
                await self._check(by_name[engine.name][0], engine, members, current=current)
            remaining = [by_name[engine.name] for engine in members.engines]
            recorded += [record for _, record in remaining[:1]]
            evidence = {layer: [trial.evidence(layer) for trial, _ in remaining] for layer in open_layers}
            open_layers = [layer for layer in open_layers if not all(e.is_followed for e in evidence[layer])]
            if not any(e.power for layer in open_layers for e in evidence[layer]):
                break
        if members.engines and not self._record.trials:
            self._record.trials += recorded
        return tuple(open_layers)

    async def _trials(
        self, members: Members, layers: Sequence[Layer], *, current: Identity
    ) -> dict[str, tuple[Trial, RecordedTrial]]:
        """The trial of each member that answers, by name, and its record."""
        async with self._noise(members, names=None, current=current) as (nonce, manifest):
            by_name = await self._probe.ask(members, num_completions=NUM_COMPLETIONS)
            if not by_name:
                return {}
            answers = list(by_name.values())
            scores = await self._probe.score(answers)
            signatures: list[dict[Layer, Logprobs]] = [{} for _ in answers]
            for layer in layers:
                of_layer = await self._signatures(layer, answers, scores, nonce=nonce)
                for by_layer, signature in zip(signatures, of_layer, strict=True):
                    by_layer[layer] = signature
            rounding = await self._rounding_of(answers, scores)
        rows = zip(by_name, answers, scores, signatures, rounding, strict=True)
        return {
            name: self._recorded(nonce, manifest, answer, score, by_layer, noise)
            for name, answer, score, by_layer, noise in rows
        }

    def _recorded(
        self,
        nonce: int,
        manifest: Sequence[TensorReceipt],
        answers: Answers,
        scores: Logprobs,
        signatures: dict[Layer, Logprobs],
        noise: float,
    ) -> tuple[Trial, RecordedTrial]:
        tolerance = max(self._probe.tolerance, self._noise_factor * noise)
        record = RecordedTrial(
            nonce=nonce,
            scale=self._scale,
            manifest=tuple(manifest),
            answers=answers,
            scores=scores,
            signatures=signatures,
            tolerance=tolerance,
        )
        differences = minus(answers.logprobs, scores)
        return Trial(differences=differences, signatures=signatures, tolerance=tolerance), record

    async def _rounding_of(self, answers: Sequence[Answers], scores: Sequence[Logprobs]) -> list[float]:
        """The effect of rounding on each engine's answers under the noisy weights, which is larger than at rest."""
        self._num_nonces += 1
        async with self._transfer.rank_phase("perturb"):
            await self._senders.perturb(scale=self._rounding, nonce=self._num_nonces, names=None)
        moved = await self._probe.score(answers)
        return [agreement_of(minus(m, s)).max for m, s in zip(moved, scores, strict=True)]

    async def _signatures(
        self, layer: Layer, answers: Sequence[Answers], scores: Sequence[Logprobs], *, nonce: int
    ) -> list[Logprobs]:
        """The change of the scores of each engine's answers with one layer's old weights."""
        is_tower = not set(self._plan.tower_names).isdisjoint(layer)
        async with self._transfer.rank_phase("restore"):
            await self._senders.restore(names=layer)
        stale = await self._probe.score(answers, only_media=is_tower)
        async with self._transfer.rank_phase("perturb"):
            await self._senders.perturb(scale=self._scale, nonce=nonce, names=layer)
        # a tower has no effect on probes without media
        return [
            [[a - b for a, b in zip(p, q, strict=True)] if p else [0.0] * len(q) for p, q in zip(o, s, strict=True)]
            for o, s in zip(stale, scores, strict=True)
        ]

    async def _check(self, trial: Trial, engine: WeightReceiver, members: Members, *, current: Identity) -> None:
        if trial.is_passed:
            return
        layer = trial.explanation()
        layers = [layer] if layer else await self._locate(engine, trial, current=current)
        error = self._probe.disagreement(
            trial.agreement,
            engine,
            proof="rehearsal",
            version=current.version,
            subject=name_layers(layers),
            tolerance=trial.tolerance,
        )
        members.reject(engine, error)

    async def _locate(self, engine: WeightReceiver, trial: Trial, *, current: Identity) -> list[Layer]:
        """Halves the layers while one half alone shows the failure; several remain if no half does."""
        layers = trial.suspects(self._plan, self._probe.probes)
        # the engine is rejected in any case: its death would only hide the cause
        alone = Members([engine], on_lost=lambda engine, error: None)
        while len(layers) > 1:
            middle = len(layers) // 2
            for half in (layers[:middle], layers[middle:]):
                names = [name for layer in half for name in layer]
                async with self._noise(alone, names=names, current=current):
                    agreements = await self._probe.agreements(alone, num_completions=NUM_COMPLETIONS)
                if not alone.engines:
                    return layers
                if agreements[engine.name].exceeds(trial.tolerance):
                    layers = half
                    break
            else:
                return layers
        return layers

    @asynccontextmanager
    async def _noise(
        self, members: Members, *, names: Sequence[str] | None, current: Identity
    ) -> AsyncGenerator[tuple[int, list[TensorReceipt]]]:
        """A block with noisy weights in ranks and engines, whose end restores the ranks.

        Yields the nonce and the manifest of the noisy weights.
        """
        self._num_nonces += 1
        nonce = self._num_nonces
        label = f"{current.weights_id}-rehearsal-{nonce}"
        tower_id = label if self._plan.changes_towers else current.tower_id
        try:
            async with self._transfer.rank_phase("perturb"):
                await self._senders.perturb(scale=self._scale, nonce=nonce, names=names)
            noisy = replace(current, weights_id=label, tower_id=tower_id)
            yield nonce, await self._transfer.send(members, noisy)
        finally:
            # also if the call of `perturb` was given up: the ranks may still execute it
            async with self._transfer.rank_phase("restore"):
                await self._senders.restore()


def describe(layers: Sequence[Layer]) -> str:
    """Names of layers, for a log or a table."""
    return ", ".join(name.removesuffix(".weight") for layer in layers for name in layer) or "none"
