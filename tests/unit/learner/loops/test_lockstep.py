"""Batches made in lockstep over fakes: the stream's order, whatever fails and however long each part takes."""

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from common.types import Completion, Failure, MediaRef, Record, Score
from learner.ledger import read_ledger
from learner.loops.stream import PromptStream
from tests.support.loop_bench import Bench, Plan, failure


class Slow(Bench):
    """Clips that take a random time to prepare."""

    def __init__(self, folder: Path, plan: Plan, *, seed: int) -> None:
        super().__init__(folder, plan)
        self._rng = random.Random(seed)

    async def prepare(self, record: Record, *, lost: MediaRef | None = None) -> tuple[MediaRef, int] | Failure:
        await asyncio.sleep(self._rng.uniform(0, 5))
        return await super().prepare(record, lost=lost)


class Uneven(Bench):
    """Rewards that take a random time."""

    def __init__(self, folder: Path, plan: Plan, *, seed: int) -> None:
        super().__init__(folder, plan)
        self._rng = random.Random(seed)

    async def score(self, record: Record, completions: Sequence[Completion]) -> list[Score] | Failure:
        await asyncio.sleep(self._rng.uniform(0, 5))
        return await super().score(record, completions)


def test_the_order_of_the_ledger_does_not_depend_on_the_pace_of_the_rewards(tmp_path: Path) -> None:
    ledgers: list[list[dict[str, Any]]] = []
    for seed in (1, 2):
        (tmp_path / f"{seed}").mkdir()
        bench = Uneven(tmp_path / f"{seed}", Plan(num_records=7, groups_per_step=4, is_lockstep=True), seed=seed)
        bench.run(3)
        ledgers.append([{k: v for k, v in entry.items() if k != "time"} for entry in read_ledger(bench.path)])
    assert ledgers[0] == ledgers[1]


def batches_of(folder: Path, *, seed: int, **plan: Any) -> tuple[list[list[str]], list[str]]:
    """What was generated together, and what was trained, of four steps."""
    folder.mkdir()
    bench = Slow(folder, Plan(num_records=7, groups_per_step=3, is_lockstep=True, **plan), seed=seed)
    bench.run(4)
    assert bench.faults() == ()
    return bench.seen.batches, bench.trained_keys


def test_a_batch_is_generated_together_in_the_order_of_the_stream(tmp_path: Path) -> None:
    batches, trained = batches_of(tmp_path / "a", seed=1)
    stream = PromptStream(Bench(tmp_path, Plan(num_records=7)).records, seed=1)
    expected = [[stream.next().key for _ in range(3)] for _ in range(4)]
    assert batches == expected
    assert trained == [key for batch in expected for key in batch]


@pytest.mark.parametrize("stage", ["media", "rollout", "reward"])
def test_what_fails_is_replaced_the_same_way_whatever_the_timing(tmp_path: Path, stage: str) -> None:
    def fate(prompt: str, _: int) -> Failure | None:
        return failure(stage) if prompt in {"clip-1", "clip-4"} else None

    first = batches_of(tmp_path / "a", seed=1, fate=fate)
    assert first == batches_of(tmp_path / "b", seed=2, fate=fate)
    batches, trained = first
    assert len(trained) == 12
    assert not {key.split("/")[1] for key in trained} & {"clip-1", "clip-4"}
    # a clip that cannot be read is replaced before the batch is generated, anything later after it
    assert all(len(batch) == 3 for batch in batches) == (stage == "media")


def test_the_event_stream_says_when_a_batch_is_generated_and_rewarded(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Plan(groups_per_step=2, is_lockstep=True, steps_per_checkpoint=2))
    bench.run(2)
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    told = [(line["step"], line["phase"]) for line in lines if line["event"] == "begin"]
    assert told == [
        *((1, phase) for phase in ("rollout", "generate", "reward", "learn", "publish")),
        *((2, phase) for phase in ("rollout", "generate", "reward", "learn", "publish", "checkpoint")),
    ]
    assert len(lines) == 2 * len(told)


def test_good_clips_that_are_slow_are_not_outrun_by_bad_ones(tmp_path: Path) -> None:
    bad = {"clip-0", "clip-2", "clip-4", "clip-6"}

    class SlowEngine(Bench):
        async def generate(self, prompt: Any) -> Any:
            await asyncio.sleep(2)
            return await super().generate(prompt)

    plan = Plan(num_records=8, groups_per_step=16, fate=lambda p, _: failure("media") if p in bad else None)
    bench = SlowEngine(tmp_path, plan)
    bench.run(2)
    assert [len(batch) for batch in bench.seen.trained] == [16, 16]
    assert bench.faults() == ()
