"""The GRPO loop over fakes: draws that fail or lag as told, and ranks that note what they are given."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import PublishError
from common.types import Completion, Draw, Failure, Generation, Group, MediaRef, Prompt, Record, Score, StepReport
from learner.checkpoints.checkpoint import START, RunState
from learner.ledger import Ledger, check_ledger, read_ledger
from learner.loops.grpo_loop import GrpoLoop, LoopParts
from learner.loops.producer import GroupProducer
from learner.loops.staleness_buffer import GroupBuffer
from learner.loops.stream import PromptStream
from learner.publishing.publisher import PublishReport
from learner.records.event_log import EventLog
from tests.support.builders import make_generation, make_record
from tests.support.clock import run

Fate = Callable[[str, int], Failure | None]
"""(prompt_id, asked so far) -> how it fails, or None."""
GROUP_SIZE = 2
MAX_ASKED = 2_000
MAX_TURNS = 200
"""Turns of the event loop after which a draw that lags comes back, whatever the version."""


def failure(stage: str, reason: str = "undecodable") -> Failure:
    """A failure of one stage."""
    return Failure(stage=stage, reason=reason, detail=f"{reason} in detail")  # pyright: ignore[reportArgumentType]


@dataclass(kw_only=True)
class Plan:
    """What a bench does."""

    num_records: int = 6
    groups_per_step: int = 2
    max_staleness: int = 0
    max_redraws: int = 3
    steps_per_checkpoint: int = 1_000
    max_non_finite_steps: int = 1
    is_lockstep: bool = False
    fate: Fate = lambda *_: None
    """Which draws fail, and where."""
    lag: Callable[[Draw], int] = lambda _: 0
    """Publishes that pass while a draw is being generated."""
    are_equal: Callable[[int], bool] = lambda _: False
    """Whether the completions of a policy version have the same reward."""
    seed: int = 1


@dataclass
class Seen:
    """What a bench was given."""

    log: list[str] = field(default_factory=list[str])
    uses: list[str] = field(default_factory=list[str])
    """Begin and end of each use of the ranks."""
    trained: list[list[Group]] = field(default_factory=list[list[Group]])
    train_versions: list[int] = field(default_factory=list[int])
    recorded: list[tuple[int, StepReport, PublishReport | None]] = field(default_factory=list[Any])
    kept: list[RunState] = field(default_factory=list[RunState])
    evaluated: list[int] = field(default_factory=list[int])
    """Steps whose checkpoints were."""
    prompts: list[Prompt] = field(default_factory=list[Prompt])
    """Every one that was asked."""
    batches: list[list[str]] = field(default_factory=list[list[str]])
    """Draws that were generated in lockstep."""
    prefetched: list[list[Record]] = field(default_factory=list[list[Record]])
    max_in_flight: int = 0
    """Most draws that were being made at once."""
    max_untrained: int = 0
    """Most draws that were being made, buffered or being trained at once."""


class Bench:
    """A loop over a corpus of a few records, from a state."""

    def __init__(self, folder: Path, plan: Plan | None = None, *, state: RunState = START) -> None:
        self.plan, self.seen = plan or Plan(), Seen()
        self.version = state.policy_version
        self.num_asked = self.in_flight = 0
        self.metrics: dict[str, float] = {"learner/loss": 0.5}
        """What a step answers."""
        self.not_finite: set[int] = set()
        """Numbers of the batches that the ranks do not take."""
        self.publish_error_at: int | None = None
        self.joining = asyncio.Event()
        """Set while an engine joins."""
        self.admit_error: Exception | None = None
        self.fleet_error: Exception | None = None
        self.on_train: Callable[[int], None] = lambda step: None
        """Called while a step trains, with the number of the batch."""
        self.path = folder / "ledger.jsonl"
        self.records = [make_record(f"clip-{i}") for i in range(self.plan.num_records)]
        self.stream = PromptStream(self.records, seed=self.plan.seed, cursor=state.cursor)
        self.stream.ask_again(state.outstanding)
        self.ledger = Ledger(self.path)
        self.events = EventLog(folder / "events.jsonl")
        if self.ledger.num_bytes > state.ledger_bytes:
            self.ledger.rewound(step=state.step, ledger_bytes=state.ledger_bytes)
            self.ledger.commit()
        self.producer = GroupProducer(
            stream=self.stream,
            prepare=self.prepare,
            generate=self.generate,
            score=self.score,
            ledger=self.ledger,
            buffer=GroupBuffer(max_staleness=self.plan.max_staleness),
            events=self.events,
            together=self.together if self.plan.is_lockstep else None,
            seed=9,
            max_redraws=self.plan.max_redraws,
        )
        self.reward_metrics: dict[str, float] = {}
        self.loop = GrpoLoop(parts=self._parts(), state=state, last_step=0)

    def _parts(self) -> LoopParts:
        return LoopParts(
            producer=self.producer,
            train=self.train,
            publisher=self,  # pyright: ignore[reportArgumentType]
            fleet=self,  # pyright: ignore[reportArgumentType]
            ledger=self.ledger,
            record=self.record,
            save_checkpoint=self.save_checkpoint,
            evaluate=self.evaluate,
            prefetch=lambda records: self.seen.prefetched.append(list(records)),
            events=self.events,
            reward_metrics=lambda: dict(self.reward_metrics),
            groups_per_step=self.plan.groups_per_step,
            steps_per_checkpoint=self.plan.steps_per_checkpoint,
            max_non_finite_steps=self.plan.max_non_finite_steps,
        )

    def _failure(self, record: Record, stage: str) -> Failure | None:
        found = self.plan.fate(record.prompt_id, self.num_asked)
        if found is None or found.stage != stage:
            return None
        self.in_flight -= 1
        return found

    async def prepare(self, record: Record, *, lost: MediaRef | None = None) -> tuple[MediaRef, int] | Failure:
        """A handle and a length of 3."""
        self.num_asked += 1
        assert self.num_asked < MAX_ASKED, "the loop asks on for ever"
        self.in_flight += 1
        self.seen.max_in_flight = max(self.seen.max_in_flight, self.in_flight)
        self._measure(num_training=0)
        await asyncio.sleep(0)
        return self._failure(record, "media") or (MediaRef(record.prompt_id), 3)

    async def generate(self, prompt: Prompt) -> Generation | Failure:
        """Two completions that begin at the current version."""
        assert prompt.media == prompt.draw.record.prompt_id
        self.seen.prompts.append(prompt)
        version, lag = self.version, self.plan.lag(prompt.draw)
        for _ in range(MAX_TURNS if lag else 0):
            if self.version >= version + lag:
                break
            await asyncio.sleep(0)
        return self._failure(prompt.draw.record, "rollout") or make_generation(GROUP_SIZE, version=version)

    async def together(self, prompts: Sequence[Prompt]) -> list[Generation | Failure]:
        """All of a batch, noted together."""
        self.seen.batches.append([prompt.draw.key for prompt in prompts])
        return [await self.generate(prompt) for prompt in prompts]

    async def score(self, record: Record, completions: Sequence[Completion]) -> list[Score] | Failure:
        """0, 1, ...; or 0.2 each."""
        values = [0.2 if self.plan.are_equal(self.version) else float(i) for i in range(len(completions))]
        scores = [Score(total=value, breakdown={"accuracy": value}) for value in values]
        found = self._failure(record, "reward")
        if found is None:
            self.in_flight -= 1
        return found or scores

    async def train(self, groups: Sequence[Group]) -> dict[str, float]:
        """Notes the batch; takes a few turns, in which others may work."""
        self.seen.log.append("train")
        self.seen.uses.append("train")
        self.seen.trained.append(list(groups))
        self.seen.train_versions.append(self.version)
        for turn in range(8):
            self._measure(num_training=len(groups))
            await asyncio.sleep(0)
            if turn == 4:
                self.on_train(len(self.seen.trained))
        self.seen.uses.append("trained")
        return self.metrics | {"learner/is_skipped": float(len(self.seen.trained) in self.not_finite)}

    async def publish(self) -> PublishReport:
        """The next version."""
        self.seen.log.append("publish")
        self.seen.uses.append("publish")
        await asyncio.sleep(0)
        if self.version + 1 == self.publish_error_at:
            raise PublishError("no", proof="receipt", engine="e", subject="t")
        self.version += 1
        self.seen.uses.append("published")
        return PublishReport(version=self.version, num_bytes=4, canary={}, canary_tolerance=1e-4, num_rehearsals=1)

    async def until_joining(self) -> None:
        """Waits for an engine that joins."""
        await self.joining.wait()
        if self.fleet_error is not None:
            raise self.fleet_error

    async def rehearse_alone(self) -> None:
        """Uses no ranks."""

    async def admit(self) -> None:
        """Takes a few turns, in which others may work."""
        self.seen.uses.append("admit")
        self.joining.clear()
        for _ in range(8):
            await asyncio.sleep(0)
        if self.admit_error is not None:
            raise self.admit_error
        self.seen.uses.append("admitted")

    async def record(
        self, step: int, groups: Sequence[Group], report: StepReport, published: PublishReport | None
    ) -> Path:
        """Notes the step, and that its draws are on disk by now."""
        self.seen.log.append("record")
        fates = [e["draw"] for e in read_ledger(self.path)[-len(groups) - 1 : -1]]
        assert fates == [g.prompt.draw.key for g in groups]
        self.seen.recorded.append((step, report, published))
        return Path(f"step-{step}")

    async def save_checkpoint(self, state: RunState) -> None:
        """Notes the state; takes a few turns, in which others may work."""
        self.seen.uses.append("save")
        for _ in range(8):
            await asyncio.sleep(0)
        self.seen.uses.append("saved")
        self.seen.kept.append(state)

    async def evaluate(self, state: RunState) -> None:
        """Notes the state, and that it is kept."""
        assert self.seen.kept[-1] == state
        self.seen.evaluated.append(state.step)

    def _measure(self, *, num_training: int) -> None:
        untrained = self.in_flight + len(self.producer.buffer) + num_training
        self.seen.max_untrained = max(self.seen.max_untrained, untrained)

    def run(self, last_step: int) -> None:
        """The loop itself."""
        self.loop.last_step = last_step
        run(self.loop.run())

    @property
    def trained_keys(self) -> list[str]:
        """In the order of training."""
        return [g.prompt.draw.key for batch in self.seen.trained for g in batch]

    def entries(self, **wanted: Any) -> list[dict[str, Any]]:
        """Of the ledger, with these values."""
        return [e for e in read_ledger(self.path) if all(e.get(k) == v for k, v in wanted.items())]

    def faults(self) -> tuple[str, ...]:
        """What a check of the ledger finds."""
        return check_ledger(self.path).faults
