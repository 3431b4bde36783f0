"""Ranks and engines of a few numbers: what travels is real, only the arithmetic is small.

`FakeSenders` and `FakeEngine` speak the Protocols of `common/protocols.py` and use a `Shared`: its memory stands
for the shared segments, its log tells in which order things happened. `FakeFleet` has the product's own states.
"""

import asyncio
import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from common.protocols import WeightReceiver
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
from rollout.fleet.lifecycle import Delivery, Lifecycle, State
from tests.support.builders import make_receipt

SEGMENTS = ("segment-0", "segment-1")
LENGTH = 3
TOWER = "tower"


@dataclass
class Shared:
    """What ranks and engines share."""

    plan: PublishPlan
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    """By segment."""
    log: list[tuple[str, ...]] = field(default_factory=list)
    """(who, phase, detail)"""
    on_phase: Callable[[str], None] = lambda phase: None
    """Called when a phase begins on an engine or the ranks."""

    def begin(self, who: str, phase: str, detail: str) -> None:
        """Notes a phase."""
        self.log.append((who, phase, detail))
        self.on_phase(phase)


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


def noisy(name: str, value: float, *, scale: float, nonce: int) -> float:
    """Moved by an amount of its own."""
    return value * (1 + scale * number_of(f"{name}/{nonce}"))


class FakeSenders:
    """All ranks: `WeightSenders` over a dict of numbers."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.weights = {name: number_of(name) for name in shared.plan.names}
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
        chosen = {n: self.weights[n] for n in self.shared.plan.buckets[bucket] if n not in self.skipped}
        self.shared.memory[SEGMENTS[bucket % 2]] = chosen
        return receipts_of(chosen)

    async def perturb(self, *, scale: float, nonce: int, names: Sequence[str] | None) -> None:
        """Moves some weights or all."""
        await self._enter("perturb", str(nonce))
        chosen = self.shared.plan.names if names is None else names
        if scale > ROUNDING["bfloat16"]:
            assert not set(chosen) & set(self._saved), "perturbed twice without a restore"
            self.perturbed.append(None if names is None else tuple(names))
        for name in chosen:
            self._saved.setdefault(name, self.weights[name])
            self.weights[name] = noisy(name, self.weights[name], scale=scale, nonce=nonce)

    async def restore(self, *, names: Sequence[str] | None = None) -> None:
        """Takes it back."""
        await self._enter("restore", "")
        assert self._saved or names is None, "restored before anything was perturbed"
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
        self.shared.begin("ranks", phase, detail)
        if self.hangs_on == phase:
            await asyncio.Event().wait()


class FakeEngine:
    """One engine: a `WeightReceiver` that may ignore what it is sent, lose it, or stop answering."""

    def __init__(self, shared: Shared, senders: FakeSenders, *, name: str = "engine-0") -> None:
        self.name = name
        self.shared = shared
        self.weights = dict(senders.weights)
        self.checkpoint = dict(senders.weights)
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
        self.deviates_after: int | None = None
        """Number of tokens of each completion after which it samples others."""
        self.hangs_on: str | None = None
        self.fails_on: str | None = None
        self.fails_at: tuple[str, int] | None = None
        """A phase, and the number of its call that fails, with all later ones."""
        self.slow_on: str | None = None
        """Takes long there, but ends."""
        self.num_calls: dict[str, int] = defaultdict(int)
        """By phase."""
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
            if self.deviates_after is not None:
                kept = self.deviates_after
                own = own[:kept] + tuple(t + 1000 for t in own[kept:])
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

    async def start_update(self, *, is_alone: bool = False) -> None:
        """Opens an update."""
        await self._enter("start", "")
        self._received = {}

    async def receive(self, path: str, bucket: int) -> None:
        """Reads a segment, late: a sender that does not wait has written it again by then."""
        await self._enter("update", str(bucket))
        for _ in range(5):
            await asyncio.sleep(0)
        self._load(self.shared.memory[path])
        self.shared.log.append((self.name, "updated", str(bucket)))

    async def receive_perturbed(self, names: Sequence[str], *, scale: float, nonce: int) -> None:
        """Its own checkpoint with noise."""
        await self._enter("update", "alone")
        self._load({n: noisy(n, self.checkpoint[n], scale=scale, nonce=nonce) for n in names})

    def _load(self, sent: dict[str, float]) -> None:
        found = {n: v for n, v in sent.items() if n not in self.lost}
        self._received |= found
        self.weights |= {n: v for n, v in found.items() if n not in self.ignored}

    async def finish_update(self, *, version: int, weights_id: str, tower_id: str) -> list[TensorReceipt]:
        """Takes the identities, answers the receipt."""
        await self._enter("finish", "")
        self.version = version
        self.identities.append((version, weights_id, tower_id))
        return receipts_of(self._received)

    async def _enter(self, phase: str, detail: str) -> None:
        self.shared.begin(self.name, phase, detail)
        if self.hangs_on == phase:
            await asyncio.Event().wait()
        self.num_calls[phase] += 1
        first = self.fails_at[1] if self.fails_at and self.fails_at[0] == phase else math.inf
        if self.fails_on == phase or self.num_calls[phase] >= first:
            raise OSError("no more")
        if self.slow_on == phase:
            for _ in range(50):
                await asyncio.sleep(0)
            self.shared.log.append((self.name, "slow", phase))


class FakeFleet:
    """An `EngineFleet` whose engines a test starts and loses."""

    def __init__(self, engines: Sequence[WeightReceiver], *, version: int = 0, are_verified: bool = False) -> None:
        """All engines are warm; those that are verified may be members of a delivery at once."""
        self.lifecycle = Lifecycle([engine.name for engine in engines], min_engines=1, version=version)
        self.losses: list[tuple[str, str]] = []
        """Engine and reason."""
        self._engines: dict[str, WeightReceiver] = {}
        self._changed = asyncio.Event()
        self._delivery: Delivery | None = None
        for engine in engines:
            self.join(engine, is_verified=are_verified)

    def join(self, engine: WeightReceiver, *, is_verified: bool = False) -> None:
        """The next incarnation of the engine's slot is warm."""
        self.lifecycle.ask(math.inf)
        name = next(i.name for i in self.lifecycle.in_state(State.ASKED) if i.slot == engine.name)
        self._engines[name] = engine
        self.lifecycle.placed(name)
        self.lifecycle.warmed_up(name)
        if is_verified:
            self.lifecycle.rehearsed(name)
        self._changed.set()

    @property
    def serving(self) -> list[str]:
        """Engines that may get requests."""
        return [i.slot for i in self.lifecycle.serving]

    async def until_joining(self) -> None:
        """Waits for `join`."""
        while not self.lifecycle.in_state(State.REHEARSING, State.WAITING):
            self.lifecycle.require_possible()
            self._changed.clear()
            await self._changed.wait()

    def unverified(self) -> list[WeightReceiver]:
        """Not rehearsed."""
        return self._in_state(State.REHEARSING)

    def candidates(self) -> list[WeightReceiver]:
        """All."""
        return self._in_state(State.REHEARSING, State.WAITING, State.READY)

    def rehearsed(self, engine: WeightReceiver) -> None:
        """Verifies it, once."""
        name = self._name_of(engine)
        if name and self.lifecycle[name].state == State.REHEARSING:
            self.lifecycle.rehearsed(name)

    def begin_delivery(self, version: int, *, only_joining: bool = False) -> list[WeightReceiver]:
        """The members as of now."""
        self._delivery = self.lifecycle.begin_delivery(version, only_joining=only_joining)
        return [self._engines[name] for name in self._delivery.members]

    def delivered(self, engine: WeightReceiver) -> None:
        """A member is."""
        name = self._name_of(engine)
        assert self._delivery
        if name:
            self.lifecycle.delivered(self._delivery, name)

    def end_delivery(self) -> None:
        """It went well."""
        assert self._delivery
        self.lifecycle.end_delivery(self._delivery)
        self._delivery = None

    def abort_delivery(self) -> None:
        """It did not."""
        assert self._delivery
        self.lifecycle.abort_delivery(self._delivery)
        self._delivery = None

    def lost(self, engine: WeightReceiver, *, reason: str) -> None:
        """Nothing is left of it."""
        name = self._name_of(engine)
        assert name, "an engine is lost once"
        self.losses.append((engine.name, reason))
        self.lifecycle.lost(name, reason=reason, now_s=0.0)
        self.lifecycle.reaped(name)
        self._changed.set()

    def _in_state(self, *states: State) -> list[WeightReceiver]:
        return [self._engines[i.name] for i in self.lifecycle.in_state(*states)]

    def _name_of(self, engine: WeightReceiver) -> str | None:
        names = [name for name, known in self._engines.items() if known is engine]
        return next((name for name in names if self.lifecycle[name].state != State.GONE), None)
