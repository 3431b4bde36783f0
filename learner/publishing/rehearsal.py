"""Verifies, layer by layer, that an engine's computation uses the published weights.

Noise is mixed into every published tensor, the noisy weights are published, and the engine answers the probe. The
ranks score its answers with the noisy weights, and once more per layer with that layer's old weights: the scores of
an engine with an old layer. A layer is verified if the engine is much nearer to the first scores than to the
second. The sum over all tokens decides, as rounding can hide a layer in any single token.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from common.config.learner import PublishConfig
from common.protocols import WeightReceiver
from learner.publishing.members import Members
from learner.publishing.plan import PublishPlan
from learner.publishing.probe import Answers, Probe
from learner.publishing.transfer import Identity
from learner.publishing.verification import (
    Agreement,
    Evidence,
    Logprobs,
    agreement_of,
    evidence_of,
    minus,
    name_layers,
)

Layer = tuple[str, ...]
MAX_TRIALS = 3
"""Each with another noise, on the layers that are still undecided."""
NUM_COMPLETIONS = 8
"""Completions of each probe: rounding averages out over many tokens."""
SCALE = 3.0
"""Size of the noise relative to the tensor; less would hide an audio tower's queries and keys in rounding."""
ROUNDING = {"float32": 2.0**-23, "bfloat16": 2.0**-8}
"""Relative distance of neighbouring numbers: as noise of the weights, its effect is about that of rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """The comparison of one engine under one noise."""

    differences: Logprobs
    """The engine's log-probabilities minus the ranks'."""
    signatures: dict[Layer, Logprobs]
    """The differences of an engine with one old layer, without rounding."""
    tolerance: float
    """Largest difference that counts as rounding."""

    @property
    def agreement(self) -> Agreement:
        return agreement_of(self.differences)

    def evidence(self, layer: Layer) -> Evidence:
        return evidence_of(self.differences, self.signatures[layer])

    def culprit(self) -> tuple[Layer, Agreement] | None:
        """The old layer that would explain most, and the rest that it would leave unexplained."""
        stale = [layer for layer in self.signatures if self.evidence(layer).is_stale]
        rest = {layer: minus(self.differences, self.signatures[layer]) for layer in stale}
        if not rest:
            return None
        best = min(rest, key=lambda layer: sum(d * d for probe in rest[layer] for d in probe))
        return best, agreement_of(rest[best])


class Rehearsal:
    """Publishes noisy weights to engines and compares; the caller publishes the true weights again."""

    def __init__(self, probe: Probe, *, plan: PublishPlan, config: PublishConfig, dtype: str) -> None:
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
        for _ in range(MAX_TRIALS):
            trials = await self._trials(members, open_layers, current=current)
            for engine in list(members.engines):
                await self._check(trials[engine.name], engine, members, current=current)
            remaining = [trials[engine.name] for engine in members.engines]
            evidence = {layer: [t.evidence(layer) for t in remaining] for layer in open_layers}
            open_layers = [layer for layer in open_layers if not all(e.is_followed for e in evidence[layer])]
            if not any(e.power for layer in open_layers for e in evidence[layer]):
                break
        return tuple(open_layers)

    async def _trials(self, members: Members, layers: Sequence[Layer], *, current: Identity) -> dict[str, Trial]:
        async with self._noise(members, names=None, current=current) as nonce:
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
        return {
            name: Trial(
                differences=minus(answer.logprobs, score),
                signatures=by_layer,
                tolerance=max(self._probe.tolerance, self._noise_factor * noise),
            )
            for name, answer, score, by_layer, noise in zip(
                by_name, answers, scores, signatures, rounding, strict=True
            )
        }

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
        agreement, culprit = trial.agreement, trial.culprit()
        if culprit is None and not agreement.exceeds(trial.tolerance):
            return
        if culprit is not None and not (agreement.exceeds(trial.tolerance) and culprit[1].exceeds(trial.tolerance)):
            layers = [culprit[0]]
        else:
            layers = await self._locate(engine, trial, current=current)
        error = self._probe.disagreement(
            agreement,
            engine,
            proof="rehearsal",
            version=current.version,
            subject=name_layers(layers),
            tolerance=trial.tolerance,
        )
        members.reject(engine, error)

    async def _locate(self, engine: WeightReceiver, trial: Trial, *, current: Identity) -> list[Layer]:
        """Halves the layers while one half alone shows the failure; several remain if no half does."""
        layers = self._suspects(trial)
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

    def _suspects(self, trial: Trial) -> list[Layer]:
        """All layers; only the towers' if probes with media disagree and texts agree."""
        media = [bool(p.placeholders) for p in self._probe.probes]
        disagrees = [not d <= trial.tolerance for d in trial.agreement.by_probe]
        towers = set(self._plan.tower_names)
        only_media = any(media) and not any(d and not m for d, m in zip(disagrees, media, strict=True))
        return [layer for layer in self._plan.layers if not (towers and only_media) or towers & set(layer)]

    @asynccontextmanager
    async def _noise(
        self, members: Members, *, names: Sequence[str] | None, current: Identity
    ) -> AsyncGenerator[int]:
        """A block with noisy weights in ranks and engines, whose end restores the ranks; yields the nonce."""
        self._num_nonces += 1
        nonce = self._num_nonces
        label = f"{current.weights_id}-rehearsal-{nonce}"
        tower_id = label if self._plan.changes_towers else current.tower_id
        try:
            async with self._transfer.rank_phase("perturb"):
                await self._senders.perturb(scale=self._scale, nonce=nonce, names=names)
            await self._transfer.send(members, replace(current, weights_id=label, tower_id=tower_id))
            yield nonce
        finally:
            # also if the call of `perturb` was given up: the ranks may still execute it
            async with self._transfer.rank_phase("restore"):
                await self._senders.restore()


def describe(layers: Sequence[Layer]) -> str:
    """Names of layers, for a log or a table."""
    return ", ".join(name.removesuffix(".weight") for layer in layers for name in layer) or "none"
