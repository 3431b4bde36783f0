"""Ranks and engines of a few numbers: what travels is real, only the arithmetic is small.

`FakeSenders` and `FakeEngine` speak the Protocols of `common/protocols.py` and share a `Fleet`: its memory
stands for the shared segments, its log tells in which order things happened.
"""

import asyncio
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from common.types import (
    Completion,
    Failure,
    Generation,
    MediaRef,
    ProcessedPrompt,
    SamplingSpec,
    TensorReceipt,
)
from learner.publishing.plan import PublishPlan
from learner.publishing.rehearsal import ROUNDING
from tests.support.builders import make_receipt

SEGMENTS = ("segment-0", "segment-1")
LENGTH = 3
TOWER = "tower"


@dataclass
class Fleet:
    """What ranks and engines share."""

    plan: PublishPlan
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    """By segment."""
    log: list[tuple[str, ...]] = field(default_factory=list)
    """(who, phase, detail)"""


def plan_of(layers: Sequence[Sequence[str]], *, layers_per_bucket: int = 1) -> PublishPlan:
    """Every so many layers a bucket; what begins with `tower` feeds the encoder cache."""
    buckets = [layers[i : i + layers_per_bucket] for i in range(0, len(layers), layers_per_bucket)]
    return PublishPlan(
        buckets=tuple(tuple(name for layer in bucket for name in layer) for bucket in buckets),
        layers=tuple(tuple(layer) for layer in layers),
        segment_bytes=4096,
        tower_names=tuple(name for layer in layers for name in layer if name.startswith(TOWER)),
        closed_over=(),
    )


def number_of(text: str) -> float:
    """In [0.5, 1.5), always the same."""
    return 0.5 + int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") / 2**32


def receipts_of(weights: dict[str, float]) -> list[TensorReceipt]:
    """The digest is the number itself."""
    return [make_receipt(name, digest=value.hex()) for name, value in weights.items()]


def logprobs_of(weights: dict[str, float], prompt: ProcessedPrompt, ids: Iterable[int]) -> list[float]:
    """Every weight moves every token's log-probability by an amount of its own; a tower's only with media."""
    asked = sum(prompt.prompt_token_ids)
    used = {n: v for n, v in weights.items() if prompt.placeholders or not n.startswith(TOWER)}
    return [-sum(v * number_of(f"{n}/{t}/{asked}") for n, v in used.items()) for t in ids]


class FakeSenders:
    """All ranks: `WeightSenders` over a dict of numbers."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.weights = {name: number_of(name) for name in fleet.plan.names}
        self.perturbed: list[tuple[str, ...] | None] = []
        self.skipped: set[str] = set()
        self.hangs_on: str | None = None
        self._saved: dict[str, float] = {}

    def step(self) -> None:
        """Moves every weight, as an optimizer would."""
        self.weights = {name: value * 1.01 + 0.001 for name, value in self.weights.items()}

    async def send_bucket(self, bucket: int) -> list[TensorReceipt]:
        """Writes one bucket."""
        await self._enter("gather", str(bucket))
        chosen = {n: self.weights[n] for n in self.fleet.plan.buckets[bucket] if n not in self.skipped}
        self.fleet.memory[SEGMENTS[bucket % 2]] = chosen
        return receipts_of(chosen)

    async def perturb(self, *, scale: float, nonce: int, names: Sequence[str] | None) -> None:
        """Moves some weights or all."""
        await self._enter("perturb", str(nonce))
        chosen = self.fleet.plan.names if names is None else names
        if scale > ROUNDING["bfloat16"]:
            assert not set(chosen) & set(self._saved), "perturbed twice without a restore"
            self.perturbed.append(None if names is None else tuple(names))
        for name in chosen:
            self._saved.setdefault(name, self.weights[name])
            self.weights[name] *= 1 + scale * number_of(f"{name}/{nonce}")

    async def restore(self, *, names: Sequence[str] | None = None) -> None:
        """Takes it back."""
        await self._enter("restore", "")
        assert self._saved, "restored before anything was perturbed"
        for name in list(self._saved) if names is None else names:
            self.weights[name] = self._saved.pop(name)

    async def score(
        self, prompts: Sequence[ProcessedPrompt], completions: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[list[float]]]:
        """Under the weights as they are."""
        await self._enter("score", "")
        return [
            [logprobs_of(self.weights, prompt, ids) for ids in group]
            for prompt, group in zip(prompts, completions, strict=True)
        ]

    async def _enter(self, phase: str, detail: str) -> None:
        self.fleet.log.append(("ranks", phase, detail))
        if self.hangs_on == phase:
            await asyncio.Event().wait()


class FakeEngine:
    """One engine: a `WeightReceiver` that may ignore what it is sent, lose it, or stop answering."""

    def __init__(self, fleet: Fleet, senders: FakeSenders, *, name: str = "engine-0") -> None:
        self.name = name
        self.fleet = fleet
        self.weights = dict(senders.weights)
        self.version = 0
        self.identities: list[tuple[int, str, str]] = []
        self.ignored: set[str] = set()
        """Received and acknowledged, but kept out of the arithmetic."""
        self.lost: set[str] = set()
        """Never loaded."""
        self.noise = 0.0
        self.rounding = 0.0
        """Added with a sign that changes from token to token."""
        self.noise_once_moved = 0.0
        """Added when the weights are not those of the start."""
        self.nan_once_moved: set[str] = set()
        """Weights that make every log-probability NaN when they are not those of the start."""
        self.hangs_on: str | None = None
        self.fails_on: str | None = None
        self.slow_on: str | None = None
        """Takes long there, but ends."""
        self.samplings: list[SamplingSpec] = []
        self.probe_failure: Failure | None = None
        self._start = dict(self.weights)
        self._received: dict[str, float] = {}

    async def generate(
        self,
        prompt: ProcessedPrompt | MediaRef,
        *,
        sampling: SamplingSpec,
        group_size: int,
        seed: int,
        deadline_s: float,
        is_probe: bool = False,
    ) -> Generation | Failure:
        """The same few tokens, with log-probabilities of the engine's own weights."""
        await self._enter("generate", "")
        assert isinstance(prompt, ProcessedPrompt)
        self.samplings.append(sampling)
        if self.probe_failure is not None:
            return self.probe_failure
        ids = tuple(range(1, min(LENGTH, sampling.max_tokens) + 1))
        noise = self.noise + (self.noise_once_moved if self.weights != self._start else 0.0)
        if any(self.weights[name] != self._start[name] for name in self.nan_once_moved):
            noise = math.nan
        completions: list[Completion] = []
        for i in range(group_size):
            own = tuple(t + LENGTH * i for t in ids)
            logprobs = [v + noise for v in logprobs_of(self.weights, prompt, own)]
            rounded = tuple(v + self.rounding * (-1) ** t for v, t in zip(logprobs, own, strict=True))
            completions.append(
                Completion(token_ids=own, rollout_logprobs=rounded, text="", finish_reason="stop", version_spans=())
            )
        return Generation(completions=tuple(completions), submission_version=self.version, engine=self.name)

    async def pause(self) -> None:
        """Freezes requests."""
        await self._enter("pause", "")

    async def resume(self) -> None:
        """Lets them run on."""
        await self._enter("resume", "")

    async def start_update(self) -> None:
        """Opens an update."""
        await self._enter("start", "")
        self._received = {}

    async def receive(self, path: str, bucket: int) -> None:
        """Reads a segment, late: a sender that does not wait has written it again by then."""
        await self._enter("update", str(bucket))
        for _ in range(5):
            await asyncio.sleep(0)
        found = {n: v for n, v in self.fleet.memory[path].items() if n not in self.lost}
        self._received |= found
        self.weights |= {n: v for n, v in found.items() if n not in self.ignored}
        self.fleet.log.append((self.name, "updated", str(bucket)))

    async def finish_update(self, *, version: int, weights_id: str, tower_id: str) -> list[TensorReceipt]:
        """Takes the identities, answers the receipt."""
        await self._enter("finish", "")
        self.version = version
        self.identities.append((version, weights_id, tower_id))
        return receipts_of(self._received)

    async def _enter(self, phase: str, detail: str) -> None:
        self.fleet.log.append((self.name, phase, detail))
        if self.hangs_on == phase:
            await asyncio.Event().wait()
        if self.fails_on == phase:
            raise OSError("no more")
        if self.slow_on == phase:
            for _ in range(50):
                await asyncio.sleep(0)
            self.fleet.log.append((self.name, "slow", phase))
